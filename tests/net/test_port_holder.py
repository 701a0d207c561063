"""Which process listens at an address."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from flowserver.net.port_holder import holder_of


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_who_listens_at_a_port(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        try:
            listening.bind((host, 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        port = listening.getsockname()[1]
        assert holder_of(port) is None, "it is only bound"
        listening.listen()
        found = holder_of(port)
        assert found is not None
        assert found.pid == os.getpid()
        assert len(found.command) <= 60
    assert holder_of(port) is None


def test_who_listens_at_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    assert holder_of(0, path) is None
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        found = holder_of(0, path)
        assert found is not None
        assert found.pid == os.getpid()
