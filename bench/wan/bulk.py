"""`python -m bench.wan.bulk --port PORT`: a provider of large bodies, as fast as the kernel takes and gives them.

A request with `x-simulate: whole=BYTES` gets a chat completion of so many bytes, with content-length. The body of a
request is read to its end, whatever its size is. Connections stay open unless the client wants them closed.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import socket
import threading

from bench.processes import python_module
from bench.source import whole_answer

READ_SIZE = 1 << 20

LEAST = 1000
"""Bytes of the answer to a request that names no size."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_WANTED = re.compile(rb"\r\nx-simulate: *whole=(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Answers:
    """Answers by their size; each is made once."""

    def __init__(self) -> None:
        self._made: dict[int, bytes] = {}

    def of(self, size: int) -> bytes:
        if size not in self._made:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % size
            self._made[size] = head + whole_answer(size)
        return self._made[size]


def _serve(sock: socket.socket, answers: Answers) -> None:
    """One connection, request after request."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(READ_SIZE))
    with sock, contextlib.suppress(ConnectionError):
        while (head := _read_request(sock, buffer)) is not None:
            wanted = _WANTED.search(head)
            sock.sendall(answers.of(int(wanted[1]) if wanted else LEAST))
            if _CLOSE.search(head):
                return


def _read_request(sock: socket.socket, buffer: memoryview) -> bytes | None:
    """The head of the next request, once its body is there too. None: the client has gone."""
    read = b""
    while b"\r\n\r\n" not in read:
        data = sock.recv(65536)
        if not data:
            return None
        read += data
    head, _, body = read.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        count = sock.recv_into(buffer)
        if not count:
            return None
        missing -= count
    return head


def command(port: int) -> list[str]:
    """The command line."""
    return python_module("bench.wan.bulk", "--port", str(port))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wan.bulk", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    answers = Answers()
    with socket.create_server(("0.0.0.0", parser.parse_args().port), backlog=1024) as listener:
        while True:
            accepted, _ = listener.accept()
            threading.Thread(target=_serve, args=(accepted, answers), daemon=True).start()


if __name__ == "__main__":
    main()
