"""`flowserver simulate`: the simulator as a process of its own."""

from __future__ import annotations

import asyncio
import signal
import ssl
import sys

import uvloop

from ..config.addresses import Address
from ..config.parsers import parse_address
from ..simulator.server import Simulator
from .usage import Parser


def parser() -> Parser:
    parser = Parser(prog="flowserver simulate", description="Runs a simulated provider: OpenAI, Anthropic, Gemini.")
    parser.add_argument("--listen", default="127.0.0.1:9000", help="host:port; port 0 chooses a free one")
    parser.add_argument("--tls-cert", help="PEM file; with --tls-key the simulator speaks TLS")
    parser.add_argument("--tls-key", help="PEM file")
    return parser


def main(argv: list[str]) -> int:
    """Run until SIGTERM or SIGINT. Returns the exit status."""
    arguments = parser().read(argv)
    try:
        address = parse_address(arguments.listen)
        tls = _tls(arguments.tls_cert, arguments.tls_key)
        uvloop.run(_run(address, tls))
    except (ValueError, OSError) as error:
        print(f"flowserver simulate: {error}", file=sys.stderr)
        return 1
    return 0


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ValueError("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _run(address: Address, tls: ssl.SSLContext | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    simulator = Simulator()
    await simulator.start(address.host or "0.0.0.0", address.port, tls)
    print(f"simulator listening on {simulator.url}", flush=True)
    await stop.wait()
    await simulator.close()
