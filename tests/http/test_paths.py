"""The one form of a request's path, and which paths have none."""

from __future__ import annotations

import posixpath
from urllib.parse import quote, unquote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowserver.errors import RelayError
from flowserver.http.paths import MAX_SHOWN, canonical_target, request_target


@pytest.mark.parametrize(
    ("target", "canonical"),
    [
        ("/", "/"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions/"),
        ("/V1/Chat", "/V1/Chat"),
        ("/v1/%63hat/%43ompletion%73", "/v1/chat/Completions"),
        ("/%7e%2D%5f%2e%30x", "/~-_.0x"),
        ("/model/a%3a0/converse", "/model/a%3A0/converse"),
        ("/v1beta/models/x:generateContent", "/v1beta/models/x:generateContent"),
        ("/%2541", "/%2541"),
        ("/%c3%a9%20", "/%C3%A9%20"),
        ("/%EF%BC%8E%EF%BC%8E", "/%EF%BC%8E%EF%BC%8E"),
        ("/a;b=%63/d", "/a;b=c/d"),
        ("/.well-known/.../x..", "/.well-known/.../x.."),
        ("/a%2Eb", "/a.b"),
        ("/?x", "/?x"),
        ("/%61?x=%61%2f../%zz//\\%", "/a?x=%61%2f../%zz//\\%"),
        ("/a??/../", "/a??/../"),
    ],
)
def test_a_path_has_one_form_and_its_query_stays(target: str, canonical: str) -> None:
    assert canonical_target(target.encode()) == canonical.encode()


@pytest.mark.parametrize(
    ("target", "segment", "told"),
    [
        ("/v1/../admin", "..", "is a dot segment"),
        ("/.", ".", "is a dot segment"),
        ("/v1/..", "..", "is a dot segment"),
        ("/v1/%2e/x", "%2e", "is a dot segment"),
        ("/v1/.%2E/x", ".%2E", "is a dot segment"),
        ("/v1/%2E%2e", "%2E%2e", "is a dot segment"),
        ("/v1/..;x/y", "..;x", "is a dot segment"),
        ("/v1/%2e%2e;x", "%2e%2e;x", "is a dot segment"),
        ("/v1/..%3Bx", "..%3Bx", "is a dot segment"),
        ("/v1/.;/y", ".;", "is a dot segment"),
        ("/v1/;x/y", ";x", "has parameters and no name"),
        ("/v1/%3b", "%3b", "has parameters and no name"),
        ("//", "", "is empty"),
        ("//v1", "", "is empty"),
        ("/v1//chat", "", "is empty"),
        ("/v1//", "", "is empty"),
        ("/v1/chat%2Fcompletions", "chat%2Fcompletions", "has an encoded slash"),
        ("/v1/a%2f..%2fb", "a%2f..%2fb", "has an encoded slash"),
        ("/v1/a%5cb", "a%5cb", "has an encoded backslash"),
        ("/v1\\chat", "v1\\chat", "has a backslash"),
        ("/v1/x%00", "x%00", "has an encoded control character"),
        ("/v1/x%0d%0ay", "x%0d%0ay", "has an encoded control character"),
        ("/v1/x%7F", "x%7F", "has an encoded control character"),
        ("/v1/%", "%", "has a malformed escape"),
        ("/v1/%2", "%2", "has a malformed escape"),
        ("/v1/%zz", "%zz", "has a malformed escape"),
        ("/v1/%%34%31", "%%34%31", "has a malformed escape"),
        ("/v1/%c0%ae%c0%ae/x", "%c0%ae%c0%ae", "not valid UTF-8"),
        ("/v1/%ff", "%ff", "not valid UTF-8"),
        ("/v1/%ed%a0%80", "%ed%a0%80", "not valid UTF-8"),
        ("/v1/%252e%252e/x", "%252e%252e", "is encoded twice"),
        ("/v1/a%252Fb", "a%252Fb", "is encoded twice"),
        ("/v1/a%255cb", "a%255cb", "is encoded twice"),
        ("/v1/a%2500", "a%2500", "is encoded twice"),
        ("/v1/a%25252Fb", "a%25252Fb", "is encoded twice"),
        ("/v1/%61%252%65", "%61%252%65", "is encoded twice"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(target: str, segment: str, told: str) -> None:
    error = canonical_target(target.encode())
    assert isinstance(error, RelayError), error
    assert (error.status, error.code) == (400, "bad_path")
    assert error.message.startswith(f"The path segment '{segment}' ")
    assert told in error.message
    assert error.message.count(". ") == 1, "what is wrong, and what to do"


def test_a_long_segment_is_not_repeated_in_full() -> None:
    error = canonical_target(b"/" + b"x" * 5000 + b"%")
    assert isinstance(error, RelayError)
    assert len(error.message) < MAX_SHOWN + 120


SEGMENTS = st.lists(
    st.sampled_from(["a", "B", ".", "..", "/", "\\", ";", "=", ":", "%", "%2", "%2e", "%2F", "%25", "%41", "%3b", "2f"])
    | st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"),
    max_size=12,
).map(lambda parts: "/" + "".join(parts))


@given(SEGMENTS)
@example("/%2541%3B.")
@example("/%25%32%65/")
def test_a_canonical_form_is_final_and_has_the_segments_that_its_reader_sees(target: str) -> None:
    canonical = canonical_target(target.encode())
    if isinstance(canonical, RelayError):
        return
    assert canonical_target(canonical) == canonical
    path, _, query = canonical.decode().partition("?")
    before, _, query_before = target.partition("?")
    assert query == query_before
    assert unquote_to_bytes(path) == unquote_to_bytes(before)
    decoded = unquote(path, errors="strict")
    assert decoded.count("/") == path.count("/")
    assert "\\" not in decoded
    for reading in (decoded, unquote(decoded), "/".join(part.partition(";")[0] for part in decoded.split("/"))):
        assert posixpath.normpath(reading) == (reading.rstrip("/") or "/")


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=5))
def test_what_the_standard_library_encodes_passes_as_it_is(names: list[str]) -> None:
    """Unless a name is one of those that no path can have."""
    try:
        target = "/" + "/".join(quote(name, safe=":@!$&'()*+,=") for name in names)
    except UnicodeEncodeError:  # a lone surrogate
        return
    canonical = canonical_target(target.encode())
    if isinstance(canonical, RelayError):
        assert any(set(name) & set("/\\;.%") or min(name) < " " or "\x7f" in name for name in names), canonical.message
    else:
        assert canonical == target.encode()


SIGNED = [(b"host", b"x"), (b"authorization", b"AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=0")]


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        (SIGNED, b""),
        ([(b"authorization", b"Bearer x"), *SIGNED], b"?x"),
        ([(b"authorization", b" aws4-ecdsa-p256-sha256 Credential=x")], b""),
        ([], b"?x=1&X-Amz-Signature=00"),
        ([], b"?x-amz-signature=00"),
        ([], b"?X-Amz-%53ignature=00"),
    ],
)
def test_a_signed_path_goes_on_as_it_is_or_not_at_all(headers: list[tuple[bytes, bytes]], query: bytes) -> None:
    for path in (b"/model/m-v1%3A0/converse", b"/model/m/converse"):
        assert request_target(path + query, headers) == path + query
    for path in (b"/model/m-v1%3a0/converse", b"/model/%6d-v1%3A0/converse"):
        error = request_target(path + query, headers)
        assert isinstance(error, RelayError)
        assert (error.status, error.code) == (400, "bad_path")
        assert "signature" in error.message
        assert error.message.endswith("send /model/m-v1%3A0/converse instead.")
    assert isinstance(request_target(b"/model/../x" + query, headers), RelayError)


@pytest.mark.parametrize(
    "headers", [[], [(b"authorization", b"Bearer AWS4-HMAC-SHA256")], [(b"x-signature", b"AWS4-HMAC-SHA256")]]
)
def test_an_unsigned_path_is_changed(headers: list[tuple[bytes, bytes]]) -> None:
    assert request_target(b"/%6d?q=X-Amz-Signature=", headers) == b"/m?q=X-Amz-Signature="
