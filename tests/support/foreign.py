"""Providers by others that speak what a test asks for, and count what they got rid of.

`/stream` is endless or has `events` (the query's number), `/echo` gives a POST back, `/count` tells as JSON how many
bytes were written for `/stream` and how many of these requests were cancelled.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from .h2_lab import Certificates
from .lab import free_port
from .peers import _listening, program

_PYTHON = """
import json
counts = {"written": 0, "cancelled": 0}

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if scope["path"] == "/count":
        body = json.dumps(counts).encode()
    if scope["path"] != "/stream":
        await send({"type": "http.response.body", "body": body})
        return
    events = int(scope["query_string"] or b"0")
    import asyncio
    leaves = asyncio.ensure_future(receive())
    number = 0
    while (not events or number < events) and not leaves.done():
        event = b"data: tok%06d %s\\n\\n" % (number, b"x" * 200)
        write = asyncio.ensure_future(send({"type": "http.response.body", "body": event, "more_body": True}))
        await asyncio.wait([write, leaves], return_when=asyncio.FIRST_COMPLETED)
        if not write.done():
            write.cancel()
            break
        counts["written"] += len(event)
        number += 1
    if events and number == events:
        await send({"type": "http.response.body", "body": b"data: [DONE]\\n\\n"})
    else:
        counts["cancelled"] += 1
    leaves.cancel()
"""

_NODE = """
const [, , protocol, port, cert, key] = process.argv;
const fs = require('fs');
const counts = {written: 0, cancelled: 0};
function app(request, response) {
  const [path, query] = request.url.split('?');
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    response.writeHead(200, {'content-type': 'text/event-stream'});
    if (path === '/count') return response.end(JSON.stringify(counts));
    if (path !== '/stream') return response.end(Buffer.concat(parts));
    const events = Number(query || 0);
    let number = 0, gone = false;
    response.on('error', () => {});
    response.on('close', () => { gone = true; if (!events || number < events) counts.cancelled += 1; });
    (function next() {
      for (;;) {
        if (gone) return;
        if (events && number === events) return response.end('data: [DONE]\\n\\n');
        const event = `data: tok${String(number).padStart(6, '0')} ${'x'.repeat(200)}\\n\\n`;
        number += 1;
        counts.written += event.length;
        if (!response.write(event)) return response.once('drain', next);
      }
    })();
  });
}
const files = cert ? {cert: fs.readFileSync(cert), key: fs.readFileSync(key)} : {};
const make = {
  'h1': () => require('http').createServer(app),
  'h1s': () => require('https').createServer(files, app),
  'h2': () => require('http2').createServer(app),
  'h2s': () => require('http2').createSecureServer(files, app),
}[protocol];
make().listen(Number(port), '127.0.0.1');
"""


@contextlib.asynccontextmanager
async def hypercorn(folder: Path, certificates: Certificates | None) -> AsyncIterator[str]:
    """HTTP/1.1 and HTTP/2, by ALPN or prior knowledge."""
    (folder / "application.py").write_text(_PYTHON)
    port = free_port()
    options = ["-m", "hypercorn", "-w", "0", "-b", f"127.0.0.1:{port}", "--log-level", "critical"]
    if certificates is not None:
        options += ["--certfile", certificates.certificate, "--keyfile", certificates.key]
    async with _listening(port, sys.executable, *options, "application:app", folder=folder) as url:
        yield url if certificates is None else f"https://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def node(folder: Path, protocol: str, certificates: Certificates | None) -> AsyncIterator[str]:
    """HTTP/1.1 or HTTP/2, one of both."""
    binary = shutil.which("node") or program("node")
    (folder / "provider.js").write_text(_NODE)
    port = free_port()
    kind = protocol + ("s" if certificates is not None else "")
    files = (certificates.certificate, certificates.key) if certificates is not None else ()
    async with _listening(port, binary, "provider.js", kind, str(port), *files, folder=folder) as url:
        yield url if certificates is None else f"https://127.0.0.1:{port}"
