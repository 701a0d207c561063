"""However the path of an API is spelt: what a provider serves is counted, over real sockets.

The providers here read paths in the two ways that servers do: all decode once; some also ignore case, `;parameters`
and trailing slashes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.support.lab import Lab, eventually
from tests.support.provider import answering
from tests.support.topology import tenant, toml
from tests.support.wire import Message, request, response

KEY = "flow-" + "k" * 43
PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict",
    "/v1/projects/p/locations/l/publishers/anthropic/models/m:streamRawPredict",
    "/v1beta/models/m:generateContent",
    "/v1beta/models/m:streamGenerateContent",
    "/v2/chat",
    "/api/chat",
    "/api/generate",
    "/model/m/converse",
    "/model/m/converse-stream",
    "/model/m/invoke",
    "/model/m/invoke-with-response-stream",
    "/openai/deployments/m/chat/completions",
    "/openai/deployments/m/completions",
    "/openai/deployments/m/embeddings",
]
SERVED = [
    re.compile(re.escape(path).replace("/m/", "/[^/]+/").replace("/m:", "/[^/]+:") + r"\Z", re.IGNORECASE)
    for path in PATHS
]


def _last(path: str, change: Callable[[str], str]) -> str:
    """With the last segment changed."""
    head, _, last = path.rpartition("/")
    return f"{head}/{change(last)}"


def _appended(suffix: str, path: str) -> str:
    return path + suffix


def _before_last(inserted: str, path: str) -> str:
    """With `inserted` for the last slash."""
    head, _, last = path.rpartition("/")
    return f"{head}{inserted}{last}"


def _encoded(text: str) -> str:
    return "".join(f"%{ord(letter):02x}" for letter in text)


_APPENDED = {
    "with a query": "?a=%2F../;x",
    "with an empty query": "?",
    "a trailing slash": "/",
    "two trailing slashes": "//",
    "a trailing slash and a query": "/?x",
    "an empty parameter": ";",
    "a parameter": ";x=1",
    "a parameter with a colon": ";x:y",
    "a parameter with an action": ";x:generateContent",
    "a parameter and a slash": ";x/",
    "an encoded parameter": "%3Bx",
    "a last segment of a parameter": "/;x",
    "a last dot segment": "/.",
    "up at the end": "/x/..",
    "a NUL": "%00",
    "a line feed": "%0A",
    "a blank": "%20",
    "a broken escape": "%",
    "an escape of other letters": "%zz",
    "a fragment": "#x",
    "an encoded fragment": "%23x",
    "an encoded query": "%3Fx",
}
_BEFORE_THE_LAST_SEGMENT = {
    "a segment of a parameter": "/;x/",
    "an encoded slash": "%2F",
    "an encoded slash in lower case": "%2f",
    "a backslash": "\\",
    "an encoded backslash": "%5C",
    "a slash encoded twice": "%252F",
    "a dot segment": "/./",
    "an encoded dot segment": "/%2e/",
    "a dot segment of parameters": "/.;x/",
    "up and down": "/x/../",
    "up and down, encoded": "/x/%2E%2e/",
    "up and down, half encoded": "/x/.%2e/",
    "up and down with parameters": "/x/..;y/",
    "up and down, encoded twice": "/x/%252e%252e/",
    "an empty segment": "//",
    "an overlong slash": "%c0%af",
    "an overlong dot": "/%c0%ae/",
    "fullwidth dots": "/%EF%BC%8E%EF%BC%8E/",
}
SPELLINGS: dict[str, Callable[[str], str]] = {
    "as documented": lambda path: path,
    "upper case": str.upper,
    "title case": str.title,
    "swapped case": str.swapcase,
    "a parameter in each segment": lambda path: path[0] + path[1:].replace("/", ";x/") + ";x",
    "a parameter of the model": lambda path: path.replace("/m:", "/m;x:").replace("/m/", "/m;x/"),
    "upper case and a parameter": lambda path: f"{path.upper()};X/",
    "encoded letters": lambda path: re.sub("[A-Za-z]+", lambda name: _encoded(name[0]), path),
    "one encoded letter": lambda path: _last(path, lambda last: f"%{ord(last[0]):02X}{last[1:]}"),
    "an encoded upper-case letter": lambda path: _last(path, lambda last: f"%{ord(last[0].upper()):x}{last[1:]}"),
    "an encoded colon": lambda path: path.replace(":", "%3A"),
    "an encoded colon in lower case": lambda path: path.replace(":", "%3a"),
    "an encoded dash": lambda path: path.replace("-", "%2D"),
    "everything encoded": lambda path: path[0] + _encoded(path[1:]),
    "a first encoded slash": lambda path: path[0] + path[1:].replace("/", "%2F", 1),
    "a letter encoded twice": lambda path: _last(path, lambda last: f"%25{ord(last[0]):x}{last[1:]}"),
    "an empty first segment": lambda path: f"/{path}",
    "letters that fold to ASCII": lambda path: path.replace("s", "%C5%BF").replace("k", "%E2%84%AA"),
    "a prefix": lambda path: f"/any/prefix{path}",
    "an absolute URL": lambda path: f"http://relay.test{path}",
    **{name: partial(_appended, suffix) for name, suffix in _APPENDED.items()},
    **{name: partial(_before_last, inserted) for name, inserted in _BEFORE_THE_LAST_SEGMENT.items()},
}


def _lenient(target: str) -> str:
    path = target.partition("?")[0]
    return "/".join(segment.partition(";")[0] for segment in unquote(path).split("/")).rstrip("/").lower()


def _early(target: str) -> str:
    """As servers that drop parameters before they decode."""
    path = target.partition("?")[0]
    return unquote("/".join(segment.partition(";")[0] for segment in path.split("/"))).rstrip("/").lower()


def _strict(target: str) -> str:
    return unquote(target.partition("?")[0])


def _answer(read: Callable[[str], str]) -> Callable[[Message], bytes]:
    def answer(message: Message) -> bytes:
        path = read(message.start.split(" ")[1])
        if any(served.search(path) for served in SERVED):
            return response(b"{}", ["Content-Type: application/json"])
        return response(b"{}", ["Content-Type: application/json"], status="404 Not Found")

    return answer


@pytest.mark.parametrize("read", [_lenient, _early, _strict], ids=["lenient", "parameters first", "strict"])
async def test_nothing_is_served_that_is_not_counted(lab: Lab, tmp_path: Path, read: Callable[[str], str]) -> None:
    provider = await lab.provider(answering(_answer(read)))
    relay = await lab.relay(None, config=toml(tmp_path, {"only": provider.url}, tenant(KEY, 'paths = ["*"]')))
    statuses: dict[str, int] = {}

    async def ask(number: int, path: str, name: str) -> None:
        client = await lab.client(relay.port)
        lines = [f"Authorization: Bearer {KEY}", f"x-request-id: {number}", "Connection: close"]
        await client.send(request("POST", SPELLINGS[name](path), lines, body=b'{"model": "m"}'))
        statuses[f"{name}: {path}"] = (await client.response()).status
        client.close()

    asked = [(path, name) for name in SPELLINGS for path in PATHS]
    for start in range(0, len(asked), 50):
        await asyncio.gather(*(ask(start + place, *pair) for place, pair in enumerate(asked[start : start + 50])))
    served = {each for each, status in statuses.items() if status == 200}
    assert set(statuses.values()) <= {200, 400, 404}
    assert {f"as documented: {path}" for path in PATHS} <= served
    await eventually(lambda: len(relay.lines("access")) + len(relay.lines("refused")) >= len(asked))
    logged = {int(line["request_id"]): line for line in relay.lines("access")}
    for number, (path, name) in enumerate(asked):
        if f"{name}: {path}" in served:
            assert logged[number].get("dialect"), logged[number]
