"""What a request asks for decides which provider gets it, and in which form."""

from __future__ import annotations

import orjson
import pytest

from flowserver.http.messages import find

from .scene import UNREACHABLE, Scene


def body(model: object) -> bytes:
    return orjson.dumps({"messages": [], "model": model, "stream": True})


def test_the_body_tells_the_model_and_the_model_the_provider() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()})
    dispatcher, _ = scene.ask(body("gpt-4o")[:10], whole=False)
    dispatcher.send_data(body("gpt-4o")[10:])
    assert scene.asked("a") == 0
    dispatcher.send_end()
    assert scene.providers["a"].streams[0].body == body("gpt-4o")
    scene.ask(body("mistral"))
    assert scene.asked("b") == 1


@pytest.mark.parametrize("said", [b"", b"not json", b"[]", b"3", b"null", b'{"model": 3}', b'{"x": 1}', b"\xff" * 10])
def test_a_body_that_tells_no_model_goes_where_any_model_may_go(said: bytes) -> None:
    scene = Scene(("a", "b"), routes={"a": ("*",), "b": ()})
    scene.ask(said)
    assert (scene.asked("a"), scene.asked("b")) == (0, 1)
    assert scene.providers["b"].streams[0].body == said


def test_a_body_too_large_to_be_sent_again_tells_its_model_too() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()}, replay=50)
    large = orjson.dumps({"messages": ["x" * 500], "model": "gpt-4o"})
    dispatcher, events = scene.ask(large[:300], whole=False)
    assert (scene.asked("a"), scene.asked("b")) == (0, 0)
    dispatcher.send_data(large[300:])
    dispatcher.send_end()
    assert scene.providers["a"].streams[0].body == large
    assert events.log == []


def test_without_a_route_the_client_is_told_and_its_upload_is_not_stopped() -> None:
    scene = Scene(("a",), routes={"a": ("gpt-*",)}, replay=50)
    _, events = scene.ask(body("mistral"))
    assert events.log == ["failed 404"]
    assert "mistral" in events.errors[0].message
    dispatcher, events = scene.ask(b"x" * 51, whole=False)
    assert events.log == []
    dispatcher.send_end()
    assert events.log == ["failed 400"]


def test_a_request_without_a_body_goes_to_the_first_route_of_its_path() -> None:
    scene = Scene(("a", "b"), routes={"a": ("gpt-*",), "b": ()})
    scene.ask()
    assert (scene.asked("a"), scene.asked("b")) == (1, 0)


def test_a_model_is_renamed_for_the_provider_that_calls_it_otherwise() -> None:
    scene = Scene(renames={"a": {"gpt-4o": "prod"}})
    scene.ask(body("gpt-4o"))
    scene.ask(body("gpt-3"))
    renamed, same = scene.providers["a"].streams
    assert orjson.loads(renamed.body) == {"messages": [], "model": "prod", "stream": True}
    assert scene.providers["a"].requests[0].content_length == len(renamed.body)
    assert same.body == body("gpt-3")


def test_a_renamed_model_has_its_first_name_again_at_the_next_provider() -> None:
    scene = Scene(("a",), ("b",), renames={"a": {"gpt-4o": "prod"}})
    scene.ask(body("gpt-4o"))
    scene.fail("a", UNREACHABLE)
    assert scene.providers["b"].streams[0].body == body("gpt-4o")


def test_headers_of_the_provider_take_the_place_of_the_client_s() -> None:
    scene = Scene(headers=[(b"x-team", b"search")], api_key=b"sk")
    scene.ask()
    headers = scene.providers["a"].requests[0].headers
    assert find(headers, b"x-team") == b"search"
    assert find(headers, b"authorization") == b"Bearer sk"
