"""Clients and providers that others wrote, as processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import textwrap
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from .h2_lab import Certificates
from .lab import eventually, finishes, free_port


@dataclass(frozen=True)
class Running:
    """A provider that listens; `pid` is its only process."""

    url: str
    pid: int


def program(name: str) -> str:
    """The path of a program; skips the test where it is missing."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


async def run(*command: str, given: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a command to its end. Returns its exit status, what it printed, and what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *command,
        # Not a pipe for nothing: closing it fails once a program is over.
        stdin=asyncio.subprocess.PIPE if given else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await finishes(process.communicate(given or None), within=30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, out, err


async def curl(*arguments: str, given: bytes = b"") -> bytes:
    """What curl printed; it must have succeeded."""
    status, out, err = await run(
        program("curl"), "--silent", "--show-error", "--max-time", "25", *arguments, given=given
    )
    assert status == 0, err.decode()
    return out


async def _answers(port: int, process: asyncio.subprocess.Process) -> None:
    """Wait until something listens on `port`."""

    async def connects() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async with asyncio.timeout(15):
        while not await connects():
            assert process.returncode is None, "it ended instead of listening"
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def listening(port: int, *command: str, folder: Path, tls: bool = False) -> AsyncIterator[Running]:
    """A command that listens on `port`, until the end of the context."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, cwd=folder
    )
    try:
        await _answers(port, process)
        yield Running(f"http{'s' if tls else ''}://127.0.0.1:{port}", process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await finishes(process.wait(), within=5)
        if process.returncode is None:
            process.kill()
            await process.wait()
        await eventually(lambda: process.returncode is not None)


@contextlib.asynccontextmanager
async def nginx(
    folder: Path, upstream: str, *, protocol: str = "h1", certificates: Certificates | None = None
) -> AsyncIterator[str]:
    """nginx in front of the provider at `upstream`, as providers have it. Yields its URL.

    Over TLS it has both protocols, plain only the one asked for.
    """
    binary = program("nginx")
    port = free_port()
    listen, files = f"127.0.0.1:{port}", ""
    if certificates is not None:
        listen += " ssl http2"
        files = f"ssl_certificate {certificates.certificate}; ssl_certificate_key {certificates.key};"
    elif protocol == "h2":
        listen += " http2"
    config = folder / "nginx.conf"
    config.write_text(
        textwrap.dedent(f"""\
            daemon off;
            master_process off;
            pid {folder}/nginx.pid;
            error_log {folder}/error.log;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {folder}/body;
                proxy_temp_path {folder}/proxy;
                fastcgi_temp_path {folder}/fastcgi;
                uwsgi_temp_path {folder}/uwsgi;
                scgi_temp_path {folder}/scgi;
                client_max_body_size 64m;
                server {{
                    listen {listen};
                    {files}
                    location / {{
                        proxy_pass {upstream};
                        proxy_http_version 1.1;
                        proxy_set_header Connection "";
                        proxy_buffering off;
                    }}
                }}
            }}
            """)
    )
    options = ("-p", str(folder), "-e", f"{folder}/start.log", "-c", str(config))
    async with listening(port, binary, *options, folder=folder, tls=certificates is not None) as running:
        yield running.url


_APPLICATION = '''
async def app(scope, receive, send):
    """Echoes a POST; streams events otherwise."""
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    kind = b"application/octet-stream" if body else b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    if body:
        await send({"type": "http.response.body", "body": body})
        return
    for number in range(50):
        await send({"type": "http.response.body", "body": b"data: tok%06d\\n\\n" % number, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
'''


@contextlib.asynccontextmanager
async def hypercorn(folder: Path) -> AsyncIterator[str]:
    """hypercorn with a little application. Yields its URL."""
    (folder / "application.py").write_text(_APPLICATION)
    port = free_port()
    command = ("-m", "hypercorn", "-w", "0", "-b", f"127.0.0.1:{port}", "--log-level", "critical", "application:app")
    async with listening(port, sys.executable, *command, folder=folder) as running:
        yield running.url
