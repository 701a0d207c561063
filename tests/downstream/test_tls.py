"""The server's TLS: what it offers, and which files it takes."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from flowserver.downstream.tls import TlsFiles, server_context
from tests.support.h2_lab import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def _files(certificates: Certificates, *, client_ca: str | None = None) -> TlsFiles:
    return TlsFiles(certificates.certificate, certificates.key, client_ca)


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = client.wrap_bio(down, up, server_hostname="localhost")
    server_side = server.wrap_bio(up, down, server_side=True)
    open_ends = [client_side, server_side]
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
    assert not open_ends
    return client_side, server_side


def _serial(end: ssl.SSLObject) -> object:
    certificate = end.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


@pytest.mark.parametrize(
    ("offered", "taken"), [(("h2", "http/1.1"), "h2"), (("http/1.1",), "http/1.1"), (("http/1.1", "h2"), "h2")]
)
def test_http2_is_preferred(certificates: Certificates, offered: tuple[str, ...], taken: str) -> None:
    client, _ = _handshake(server_context(_files(certificates)), certificates.client(*offered))
    assert client.selected_alpn_protocol() == taken


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context = certificates.client()
    context.minimum_version = context.maximum_version = version
    client, _ = _handshake(server_context(_files(certificates)), context)
    assert client.version() == version.name.replace("_", ".")


def test_nothing_older_is_spoken(certificates: Certificates) -> None:
    assert server_context(_files(certificates)).minimum_version is ssl.TLSVersion.TLSv1_2


def _break_key(certificates: Certificates) -> None:
    Path(certificates.key).write_text("no key")


def _break_certificate(certificates: Certificates) -> None:
    Path(certificates.certificate).write_text("no certificate")


def _exchange_key(certificates: Certificates) -> None:
    kept = Path(certificates.certificate).read_bytes()
    certificates.renew()
    Path(certificates.certificate).write_bytes(kept)


def _remove(certificates: Certificates) -> None:
    Path(certificates.certificate).unlink()


def _encrypt_key(certificates: Certificates) -> None:
    key = load_pem_private_key(Path(certificates.key).read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    Path(certificates.key).write_bytes(encrypted)


@pytest.mark.parametrize("breaks", [_break_key, _break_certificate, _exchange_key, _remove, _encrypt_key])
def test_files_that_can_t_be_used_are_told(certificates: Certificates, breaks: object) -> None:
    server_context(_files(certificates))
    assert callable(breaks)
    breaks(certificates)
    with pytest.raises(OSError):
        server_context(_files(certificates))


def test_mutual_tls_wants_a_certificate_of_the_authority(certificates: Certificates) -> None:
    context = server_context(_files(certificates, client_ca=certificates.authority))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the client's handshake ends after the server's check
    _, server = _handshake(context, certificates.client(certified=True))
    assert server.getpeercert()
    with pytest.raises(ssl.SSLError):
        _handshake(context, certificates.client())
