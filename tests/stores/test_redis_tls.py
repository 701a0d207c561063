"""`rediss`: a certificate must be of a trusted authority and for the host that was asked, with every redis-py."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from flowserver.quota.limits import StoreUnavailable
from flowserver.stores.directory import Directory
from flowserver.stores.redis_connection import tls_options
from flowserver.stores.redis_store import RedisStore


@asynccontextmanager
async def redis_over_tls(folder: Path, *names: str) -> AsyncIterator[str]:
    """Where a server of a certificate for `names` is, as the end of a URL, with the option that trusts it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            for _ in range(2 * int(line[1:])):
                await reader.readline()
            writer.write(b"$-1\r\n" if line == b"*2\r\n" else b":1\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}/0?protocol=2&ssl_ca_certs={folder / 'ca.pem'}"
    finally:
        server.close()


async def works(url: str) -> bool:
    """Both ways to Redis, which must agree."""
    store, directory = RedisStore(url, deadline=5000), Directory(url, deadline=5000)
    found = []
    for call in (lambda: store.settle("{a}:1", 1), lambda: directory.get("nobody")):
        try:
            await call()
            found.append(True)
        except StoreUnavailable:
            found.append(False)
    await store.close()
    await directory.close()
    assert len(set(found)) == 1
    return found[0]


async def test_the_host_that_was_asked_is_the_one_of_the_certificate(tmp_path: Path) -> None:
    async with redis_over_tls(tmp_path, "127.0.0.1") as place:
        assert await works(f"rediss://{place}")


async def test_another_host_s_certificate_is_refused_though_its_authority_is_trusted(tmp_path: Path) -> None:
    async with redis_over_tls(tmp_path, "other.example") as place:
        assert not await works(f"rediss://{place}")


async def test_an_unknown_authority_is_refused(tmp_path: Path) -> None:
    async with redis_over_tls(tmp_path, "127.0.0.1") as place:
        assert not await works(f"rediss://{place.partition('&')[0]}")


@pytest.mark.parametrize("option", ["ssl_check_hostname=false", "ssl_cert_reqs=none&ssl_check_hostname=false"])
async def test_a_url_may_say_otherwise(tmp_path: Path, option: str) -> None:
    async with redis_over_tls(tmp_path, "other.example") as place:
        assert await works(f"rediss://{place}&{option}")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("rediss://r.test", {"ssl_check_hostname": True}),
        ("rediss+cluster://r.test:1/0?ssl_ca_certs=x", {"ssl_check_hostname": True}),
        ("rediss://r.test?ssl_cert_reqs=required", {"ssl_check_hostname": True}),
        ("rediss://r.test?ssl_check_hostname=false", {}),
        ("rediss://r.test?ssl_check_hostname=", {"ssl_check_hostname": True}),  # redis-py leaves it out
        ("rediss://r.test?ssl_cert_reqs=none", {}),
        ("redis://r.test", {}),
        ("redis+cluster://r.test", {}),
        ("unix:///run/redis.sock", {}),
    ],
)
def test_every_redis_py_is_told_to_compare_names(url: str, options: dict[str, bool]) -> None:
    """Before 6.0 it does so only when told."""
    assert tls_options(url) == options
