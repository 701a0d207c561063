"""Clients of HTTP/2 in the lab, and the certificates they trust."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from .h2_peer import H2Peer
from .h2_wire import H2Wire, connect
from .lab import Lab, simulate


class Certificates:
    """An authority and a server's certificate of its, as files."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.authority = str(folder / "authority.pem")
        self._authority.cert_pem.write_to_path(self.authority)
        self.certificate, self.key = str(folder / "server.pem"), str(folder / "server.key")
        self.renew()

    def renew(self) -> None:
        """Another certificate in the same files."""
        issued = self._authority.issue_cert("localhost", "127.0.0.1")
        issued.private_key_pem.write_to_path(self.key)
        Path(self.certificate).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def spoil(self) -> None:
        """Half of a key."""
        Path(self.key).write_bytes(Path(self.key).read_bytes()[:100])

    @property
    def settings(self) -> dict[str, object]:
        """What a relay is told."""
        return {"tls_cert": self.certificate, "tls_key": self.key}

    def client(self, *protocols: str, certified: bool = False) -> ssl.SSLContext:
        """A client's context. No protocols: h2 and then http/1.1."""
        context = ssl.create_default_context(cafile=self.authority)
        context.set_alpn_protocols(list(protocols or ("h2", "http/1.1")))
        if certified:
            self._authority.issue_cert("client.test").configure_cert(context)
        return context


async def h2_client(
    lab: Lab,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    peer: H2Peer | None = None,
    receive_buffer: int | None = None,
) -> H2Wire:
    client = await connect(port, tls=tls, peer=peer, receive_buffer=receive_buffer)
    lab.wires.append(client.wire)
    return client


def ask(client: H2Wire, **options: object) -> int:
    """A chat completion of the simulator, to be streamed. Returns its stream."""
    name, _, value = simulate(**options).partition(": ")
    headers = [("content-type", "application/json"), (name, value)]
    body = b'{"stream": true, "messages": [{"role": "user", "content": "Go on."}]}'
    return client.peer.request("POST", "/v1/chat/completions", headers, body=body)
