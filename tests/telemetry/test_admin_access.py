"""Who has the token."""

from __future__ import annotations

import pytest

from flowserver.http.messages import RequestHead
from flowserver.telemetry.admin_access import AdminAccess

TOKEN = "a-token-that-nobody-guesses"


def status(access: AdminAccess, *headers: tuple[bytes, bytes]) -> int:
    refusal = access.refusal(RequestHead(b"POST", b"/drain", list(headers)))
    return 200 if refusal is None else refusal[0]


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer   {TOKEN} ", f"BEARER {TOKEN}"])
def test_with_the_token(given: str) -> None:
    assert status(AdminAccess(TOKEN), (b"authorization", given.encode())) == 200


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} x", f"Bearer {TOKEN}\xff", "Bearer \x00"],
)
def test_without(given: str) -> None:
    assert status(AdminAccess(TOKEN), (b"authorization", given.encode("latin-1"))) == 401
    assert status(AdminAccess(TOKEN), (b"cookie", f"token={TOKEN}".encode())) == 401


def test_where_there_is_none_nobody_may() -> None:
    access = AdminAccess(None)
    for given in (b"Bearer ", b"Bearer None", b"Bearer " + TOKEN.encode()):
        assert status(access, (b"authorization", given)) == 403
    access.token = TOKEN
    assert status(access, (b"authorization", b"Bearer " + TOKEN.encode())) == 200
