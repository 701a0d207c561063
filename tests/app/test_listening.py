"""Which addresses may be free later, and which will never be."""

from __future__ import annotations

import errno

import pytest

from flowserver.app.listening import listening_sockets
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError, NotNowError


@pytest.mark.parametrize(
    ("number", "may_pass"),
    [(errno.EADDRINUSE, True), (errno.EADDRNOTAVAIL, True), (errno.EMFILE, True), (errno.EACCES, False)],
)
async def test_a_port_that_needs_a_privilege_is_a_mistake(
    number: int, may_pass: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(number, "no")

    config = load({"FLOW_LISTEN": "127.0.0.1:80"})
    with monkeypatch.context() as patch:
        patch.setattr("flowserver.downstream.listening.socket.socket", refuse)
        with pytest.raises(ConfigError) as caught:
            listening_sockets(config)
    assert isinstance(caught.value, NotNowError) is may_pass
