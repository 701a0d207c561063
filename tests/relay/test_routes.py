"""Where a request goes under a provider's base URL."""

from __future__ import annotations

import pytest

from flowserver.relay.routes import join_target


@pytest.mark.parametrize(
    ("base", "target", "joined"),
    [
        ("", b"/v1/models?x", b"/v1/models?x"),
        ("/v1", b"/models", b"/v1/models"),
        ("/v1", b"/v1/models", b"/v1/models"),
        ("/openai/v1", b"/v1/chat/completions", b"/openai/v1/chat/completions"),
        ("/a/b", b"/a/b/c", b"/a/b/c"),
        ("/a/b", b"/b/a", b"/a/b/a"),
        ("/v1", b"/v1", b"/v1"),
        ("/v1", b"/", b"/v1/"),
        ("/v1", b"/v12/x", b"/v1/v12/x"),
        ("/v1", b"/x?next=/v1/y", b"/v1/x?next=/v1/y"),
        ("/v1", b"/v1?", b"/v1?"),
        ("/v1", b"//evil/x", b"/v1//evil/x"),
    ],
)
def test_the_target_is_put_under_the_base_and_an_overlap_counts_once(base: str, target: bytes, joined: bytes) -> None:
    assert join_target(base, target) == joined
