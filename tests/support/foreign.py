"""Providers by others that speak what a test asks for, and count what they got rid of.

`/stream` is endless or has `events` (the query's number), `/echo` gives a POST back. hypercorn and Go can be unwell
too: `/hang` never answers, `/head` sends no more than a head, `/middle` stops after four events, and `/drip` sends as
many bytes as the query says, one by one. `/count` tells as JSON how many bytes were written for `/stream`, how many
requests hang now, and how many were cancelled.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from .h2_lab import Certificates
from .lab import free_port
from .peers import Running, listening, program

DRIP = 0.05
"""Seconds from one byte to the next."""

_PYTHON = """
import asyncio, json
counts = {"written": 0, "cancelled": 0, "waiting": 0}

async def hang(receive):
    counts["waiting"] += 1
    await receive()
    counts["waiting"] -= 1
    counts["cancelled"] += 1

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path, events = scope["path"], int(scope["query_string"] or b"0")
    if path == "/hang":
        return await hang(receive)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    if path in ("/head", "/middle"):
        body = b"".join(b"data: tok%06d\\n\\n" % number for number in range(4 if path == "/middle" else 0))
        await send({"type": "http.response.body", "body": body, "more_body": True})
        return await hang(receive)
    if path == "/drip":
        for number in range(events):
            await asyncio.sleep(DRIP)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        body = b""
    if path == "/count":
        body = json.dumps(counts).encode()
    if path != "/stream":
        await send({"type": "http.response.body", "body": body})
        return
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
""".replace("DRIP", str(DRIP))

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


_GO = """
package main

import (
    "fmt"
    "io"
    "net/http"
    "os"
    "strconv"
    "strings"
    "sync/atomic"
    "time"
)

var written, cancelled, waiting atomic.Int64

func main() {
    server := &http.Server{Addr: "127.0.0.1:" + os.Args[2], Handler: http.HandlerFunc(answer)}
    if len(os.Args) > 3 {
        panic(server.ListenAndServeTLS(os.Args[3], os.Args[4]))
    }
    if os.Args[1] == "h2" {
        speakH2(server)
    }
    panic(server.ListenAndServe())
}

func answer(w http.ResponseWriter, r *http.Request) {
    body, _ := io.ReadAll(r.Body)
    number, _ := strconv.Atoi(r.URL.RawQuery)
    w.Header().Set("Content-Type", "text/event-stream")
    switch r.URL.Path {
    case "/count":
        form := `{"written": %d, "cancelled": %d, "waiting": %d}`
        fmt.Fprintf(w, form, written.Load(), cancelled.Load(), waiting.Load())
    case "/stream":
        stream(w, r, number)
    case "/hang":
        hang(r)
    case "/head":
        w.(http.Flusher).Flush()
        hang(r)
    case "/middle":
        for i := 0; i < 4; i++ {
            fmt.Fprintf(w, "data: tok%06d\\n\\n", i)
        }
        w.(http.Flusher).Flush()
        hang(r)
    case "/drip":
        for i := 0; i < number; i++ {
            time.Sleep(DRIP * time.Millisecond)
            io.WriteString(w, "x")
            w.(http.Flusher).Flush()
        }
    default:
        w.Write(body)
    }
}

func stream(w http.ResponseWriter, r *http.Request, events int) {
    filling := strings.Repeat("x", 200)
    for i := 0; (events == 0 || i < events) && r.Context().Err() == nil; i++ {
        size, err := fmt.Fprintf(w, "data: tok%06d %s\\n\\n", i, filling)
        if err != nil {
            break
        }
        w.(http.Flusher).Flush()
        written.Add(int64(size))
    }
    if events == 0 {
        <-r.Context().Done()
        cancelled.Add(1)
        return
    }
    io.WriteString(w, "data: [DONE]\\n\\n")
}

func hang(r *http.Request) {
    waiting.Add(1)
    <-r.Context().Done()
    waiting.Add(-1)
    cancelled.Add(1)
}
""".replace("DRIP", str(round(DRIP * 1000)))

_GO_PLAIN_H2 = """
//go:build go1.24

package main

import "net/http"

func speakH2(server *http.Server) {
    server.Protocols = new(http.Protocols)
    server.Protocols.SetUnencryptedHTTP2(true)
}
"""

_GO_NO_PLAIN_H2 = """
//go:build !go1.24

package main

import "net/http"

func speakH2(server *http.Server) {
    panic("this Go has no HTTP/2 without TLS")
}
"""

_GO_FILES = {
    "go.mod": "module provider\n\ngo 1.19\n",
    "main.go": _GO,
    "plain.go": _GO_PLAIN_H2,
    "noplain.go": _GO_NO_PLAIN_H2,
}


@contextlib.asynccontextmanager
async def hypercorn(folder: Path, certificates: Certificates | None) -> AsyncIterator[Running]:
    """HTTP/1.1 and HTTP/2, by ALPN or prior knowledge."""
    (folder / "application.py").write_text(_PYTHON)
    port = free_port()
    options = ["-m", "hypercorn", "-w", "0", "-b", f"127.0.0.1:{port}", "--log-level", "critical"]
    if certificates is not None:
        options += ["--certfile", certificates.certificate, "--keyfile", certificates.key]
    command = (sys.executable, *options, "application:app")
    async with listening(port, *command, folder=folder, tls=certificates is not None) as running:
        yield running


@contextlib.asynccontextmanager
async def node(folder: Path, protocol: str, certificates: Certificates | None) -> AsyncIterator[Running]:
    """HTTP/1.1 or HTTP/2, one of both."""
    binary = shutil.which("node") or program("node")
    (folder / "provider.js").write_text(_NODE)
    port = free_port()
    kind = protocol + ("s" if certificates is not None else "")
    command = (binary, "provider.js", kind, str(port), *_files(certificates))
    async with listening(port, *command, folder=folder, tls=certificates is not None) as running:
        yield running


@contextlib.asynccontextmanager
async def go(folder: Path, protocol: str, certificates: Certificates | None) -> AsyncIterator[Running]:
    """Go's net/http: over TLS both protocols, plain the one asked for; HTTP/2 there where its library has it."""
    binary = _go_program()
    if protocol == "h2" and certificates is None and _go_version() < (1, 24):
        pytest.skip("this Go's standard library has HTTP/2 over TLS only (without TLS since 1.24)")
    port = free_port()
    command = (binary, protocol, str(port), *_files(certificates))
    async with listening(port, *command, folder=folder, tls=certificates is not None) as running:
        yield running


def served(
    name: str, protocol: str, folder: Path, certificates: Certificates | None
) -> AbstractAsyncContextManager[Running]:
    """One of them by its name."""
    if name == "hypercorn":
        return hypercorn(folder, certificates)
    return (node if name == "node" else go)(folder, protocol, certificates)


def _files(certificates: Certificates | None) -> tuple[str, ...]:
    return (certificates.certificate, certificates.key) if certificates is not None else ()


@functools.cache
def _go_program() -> str:
    """Built once for all tests; what is in the standard library needs no network."""
    compiler = program("go")
    folder = Path(tempfile.mkdtemp(prefix="go-provider-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, text in _GO_FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip())
    environ = os.environ | {"GO111MODULE": "on", "GOFLAGS": "", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    if "HOME" not in environ:
        environ.setdefault("GOCACHE", str(folder / "cache"))
    built = subprocess.run([compiler, "build", "-o", "provider"], cwd=folder, env=environ, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    return str(folder / "provider")


@functools.cache
def _go_version() -> tuple[int, ...]:
    told = subprocess.run(
        [program("go"), "env", "GOVERSION"], env=os.environ | {"GOTOOLCHAIN": "local"}, capture_output=True
    )
    found = re.search(rb"go(\d+)\.(\d+)", told.stdout)
    assert found is not None, told
    return int(found[1]), int(found[2])
