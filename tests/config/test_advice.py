"""What is valid and probably not meant, and files that are no TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flowserver.config.advice import advice
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.config.parsers import parse_listen, parse_url
from flowserver.config.toml_errors import described

ONE = "[[upstreams]]\nname = 'a'\nurl = 'https://a.test'\n"
OTHER = "[[upstreams]]\nname = 'b'\nurl = 'https://b.test'\n"
ROUTE = "[[routes]]\nupstreams = ['a']\n"


def told(tmp_path: Path, text: str = "", **settings: str) -> list[str]:
    environ = {f"FLOW_{name.upper()}": value for name, value in settings.items()}
    if text:
        file = tmp_path / "flow.toml"
        file.write_text(text)
        environ["FLOW_CONFIG"] = str(file)
    config = load(environ)
    return [line.replace(f"{tmp_path}/", "") for line in advice(config, load_topology(config, {"KEY": "sk-1"}))]


@pytest.mark.parametrize(
    "settings",
    [
        {"upstream": "https://api.openai.com"},
        {"upstream": "https://api.openai.com/v1"},
        {"upstream": "http://vllm:8000"},
        {"upstream": "http://10.0.0.1/v1", "heartbeat": "10s"},
        {"upstream": "http://a", "idle_timeout": "off", "heartbeat": "1h", "total_timeout": "1m"},
    ],
)
def test_nothing_is_told_of_what_is_usual(tmp_path: Path, settings: dict[str, str]) -> None:
    assert told(tmp_path, **settings) == []


def test_nothing_is_told_of_the_example() -> None:
    path = Path(__file__).parent.parent.parent / "flowserver.example.toml"
    config = load({"FLOW_CONFIG": str(path)})
    assert advice(config, load_topology(config, {"OPENAI_API_KEY": "a", "AZURE_API_KEY": "b"})) == []


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"upstream": "http://api.anthropic.com"}, "FLOW_UPSTREAM: http://api.anthropic.com sends keys"),
        ({"upstream": "https://a/v1/messages"}, "FLOW_UPSTREAM: https://a/v1/messages ends with one API's path"),
        ({"upstream": "http://a", "heartbeat": "5m"}, "FLOW_HEARTBEAT: none is ever sent"),
        ({"upstream": "http://a", "total_timeout": "10s"}, "FLOW_TOTAL_TIMEOUT: 10 s is below the connect"),
    ],
)
def test_what_is_told_of_one_provider(tmp_path: Path, settings: dict[str, str], line: str) -> None:
    [found] = told(tmp_path, **settings)
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ONE.replace("https://a.test", "http://api.openai.com"), "flow.toml: upstreams[0].url: http://api.openai.com"),
        (f"{ONE}verify = false\napi_key = 'env:KEY'", "flow.toml: upstreams[0].verify: false lets"),
        (f"{ONE}idle_timeout = '5s'", "FLOW_HEARTBEAT: none is ever sent, as 20 s"),
        (ONE + ROUTE + ROUTE, "flow.toml: routes[1]: is never used"),
        (ONE + OTHER + ROUTE, "flow.toml: upstreams[1]: gets no requests"),
        (f"{ONE}{ROUTE}models = ['gpt-4.*']", "flow.toml: routes[0].models: 'gpt-4.*' looks"),
    ],
)
def test_what_is_told_of_a_file(tmp_path: Path, text: str, line: str) -> None:
    [found] = told(tmp_path, text, heartbeat="20s")
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("listen", "url", "leads"),
    [
        (":8080", "http://localhost:8080", True),
        (":8080", "http://127.0.0.1:8080/v1", True),
        ("127.0.0.1:8080", "http://[::1]:8080", True),
        ("10.0.0.1:8080", "http://10.0.0.1:8080", True),
        ("relay.test:8080", "http://relay.test:8080", True),
        ("unix:/run/a.sock", "http+unix://%2Frun%2Fa.sock", True),
        (":8080", "http://localhost:8081", False),
        (":8080", "http://10.0.0.2:8080", False),
        ("10.0.0.1:8080", "http://127.0.0.1:8080", False),
        (":80", "http+unix://%2Frun%2Fa.sock", False),
        ("unix:/run/a.sock", "http://localhost", False),
    ],
)
def test_whether_a_relay_would_be_its_own_provider(listen: str, url: str, leads: bool) -> None:
    assert parse_listen(listen).leads_here(parse_url(url)) is leads


def test_a_loop_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"upstreams\[0\]: http://localhost:9090 is an address of this relay itself .FLOW_ADMIN_LISTEN",
    ):
        told(tmp_path, ONE.replace("https://a.test", "http://localhost:9090"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("open = True", "line 1, column 8: Invalid value: open = True; a switch is true or false, in lower case"),
        ("a = 1\n[[upstreams]\n", "line 2, column"),
        ("name = \u201ca\u201d", "write straight quotes"),
        ("name = openai", 'text needs quotes, as in key = "text"'),
        ("name 'a'", "line 1, column 6: Expected '=' after a key in a key/value pair: ...; write key = \"value\""),
        ("name = 'a'\nname = 'b'", "it occurs twice: remove one"),
        ("name = 'a", "is a bracket, brace or quote not closed?"),
        ('name = "a\nweight = 1', "the quotes are not closed on this line"),
        ('path = "C:\\keys"', "for a backslash, or use single quotes"),
        ("models = ['a'", "is a bracket, brace or quote not closed?"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line_and_a_remedy(text: str, message: str) -> None:
    assert message in toml_error(text)


@pytest.mark.parametrize(
    "text",
    [
        "api_key = sk-1",
        "key_sha256 = sk-1",
        "headers = { authorization = Bearer sk-1 }",
        "authorization = sk-1",
        "url = http://user:sk-1@a",
        '"x-key" = sk-1',
        "sk-1",
        'a = """\nsk-1\n"',
    ],
)
def test_what_may_be_a_secret_is_not_shown(text: str) -> None:
    assert "sk-1" not in toml_error(text)


def toml_error(text: str) -> str:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    return described(caught.value, text)
