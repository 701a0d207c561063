"""`flowserver tenants`, on a real Redis."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from flowserver.__main__ import main
from flowserver.cli.tenants import rotated
from flowserver.quota.tenants import Tenant, TenantKey, TenantLimits, limits_for, refusal, was_issued
from flowserver.stores.directory import Directory
from flowserver.stores.redis_store import RedisStore
from tests.support.lab import free_port
from tests.support.redis import RedisServer, running_redis

Run = Callable[..., str]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as started:
        yield started


@pytest.fixture
def run(server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on an empty Redis and returns what it printed; with status 1, what it complained of."""
    with server.commands() as command:
        command("FLUSHALL")
    monkeypatch.setenv("FLOW_REDIS_URL", server.url)

    def run(*arguments: str, status: int = 0) -> str:
        assert main(["tenants", *arguments]) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def in_redis(server: RedisServer, call: Callable[[Directory], Any]) -> Any:
    async def ask() -> Any:
        directory = Directory(server.url, deadline=10_000)
        try:
            return await call(directory)
        finally:
            await directory.close()

    return asyncio.run(ask())


def whose(server: RedisServer, key: str) -> str | None:
    """The tenant that may use this key now."""
    digest = sha256(key.strip().encode()).digest()
    tenant: Tenant | None = in_redis(server, lambda directory: directory.find(digest))
    return tenant.name if tenant is not None and refusal(tenant, digest, time.time()) is None else None


def test_a_key_for_the_file_needs_no_redis(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FLOW_REDIS_URL", raising=False)
    assert main(["tenants", "key"]) == 0
    printed = re.fullmatch(r"key     (\S+)\nsha256  ([0-9a-f]{64})\n", capsys.readouterr().out)
    assert printed
    assert was_issued(printed[1].encode())
    assert sha256(printed[1].encode()).hexdigest() == printed[2]


def test_the_rest_does(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("FLOW_REDIS_URL", raising=False)
    assert main(["tenants", "list"]) == 1
    assert "FLOW_REDIS_URL: not set" in capsys.readouterr().err
    monkeypatch.setenv("FLOW_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    for arguments in (["list"], ["usage", "acme"]):
        assert main(["tenants", *arguments]) == 1
        assert capsys.readouterr().err.startswith("flowserver: Redis: ")
    monkeypatch.setenv("FLOW_REDIS_URL", "http://x")
    assert main(["tenants", "list"]) == 78
    assert capsys.readouterr().err.startswith("flowserver: FLOW_REDIS_URL: ")


def test_a_tenant_from_its_beginning_to_its_end(run: Run, server: RedisServer) -> None:
    key = run("add", "acme", "--limit", "tokens_per_day=100", "--limit", "requests_per_minute=60")
    assert was_issued(key.strip().encode())
    assert whose(server, key) == "acme"
    assert run("list").splitlines() == [
        "tenant  state   keys  limits",
        "acme    active  1     requests_per_minute=60 tokens_per_day=100",
    ]
    run("disable", "acme")
    assert whose(server, key) is None
    assert "disabled" in run("list")
    run("enable", "acme")
    assert whose(server, key) == "acme"
    run("remove", "acme")
    assert whose(server, key) is None
    assert len(run("list").splitlines()) == 1


def test_all_that_can_be_set(run: Run) -> None:
    run(
        *("add", "acme", "--limit", "concurrent=5", "--user-limit", "tokens_per_day=6", "--path", "/v1/*"),
        *("--model", "gpt-*", "--model", "llama3:*", "--model-limit", "llama3:*:tokens_per_day=7"),
        *("--model-limit", "gpt-4*,o3:tokens_per_month=8", "--expires", "2099-01-01T00:00:00Z"),
    )
    shown = run("show", "acme")
    assert re.sub(r"[0-9a-f]{16}\.\.\.", "HASH...", shown).splitlines() == [
        "tenant      acme",
        "state       active",
        "key         sha256 HASH... until 2099-01-01T00:00:00Z",
        "models      gpt-*, llama3:*",
        "paths       /v1/*",
        "limits      concurrent=5",
        "each user   tokens_per_day=6",
        "llama3:*    tokens_per_day=7",
        "gpt-4*, o3  tokens_per_month=8",
    ]
    changed = run(
        *("set", "acme", "--limit", "concurrent=off", "--limit", "tokens_per_day=1", "--model", ""),
        *("--model-limit", "gpt-4*,o3:tokens_per_month=off", "--model-limit", "gpt-4*,o3:tokens_per_day=9"),
    )
    assert "models      all\n" in changed
    assert "limits      tokens_per_day=1\n" in changed
    assert "each user   tokens_per_day=6\n" in changed
    assert "gpt-4*, o3  tokens_per_day=9\n" in changed
    assert run("show", "acme") == changed


def test_a_new_key_in_place_of_the_old(run: Run, server: RedisServer) -> None:
    first = run("add", "acme")
    second = run("rotate", "acme")
    assert (whose(server, first), whose(server, second)) == (None, "acme")
    third = run("rotate", "acme", "--grace", "1h")
    assert (whose(server, second), whose(server, third)) == ("acme", "acme")
    assert "until 20" in run("show", "acme")
    fourth = run("rotate", "acme")
    assert [whose(server, key) for key in (first, second, third, fourth)] == [None, None, None, "acme"]


def test_old_keys_hold_for_their_grace_and_no_longer_than_they_would() -> None:
    old = (TenantKey(b"a"), TenantKey(b"b", 50.0), TenantKey(b"c", 150.0), TenantKey(b"d", 1000.0))
    assert rotated(Tenant("t", old), b"new", now=100.0, grace=100.0).keys == (
        TenantKey(b"new"),
        TenantKey(b"a", 200.0),
        TenantKey(b"c", 150.0),
        TenantKey(b"d", 200.0),
    )
    assert rotated(Tenant("t", old), b"new", now=100.0, grace=0.0).keys == (TenantKey(b"new"),)


def test_what_is_used(run: Run, server: RedisServer) -> None:
    run(
        "add", "acme", "--limit", "tokens_per_month=500", "--limit", "concurrent=3", "--user-limit", "tokens_per_day=90"
    )
    tenant = Tenant(
        "acme", limits=TenantLimits(concurrent=3, tokens_per_month=500), user=TenantLimits(tokens_per_day=90)
    )

    async def use() -> None:
        store = RedisStore(server.url, deadline=10_000)
        limits = limits_for(tenant, user="ann", session=None, model=None, now=time.time())
        assert (await store.admit("{acme}:1", limits, need=10, want=40)).admitted
        await store.extend("{acme}:1", 15, 0)
        await store.close()

    asyncio.run(use())
    rows = [re.split(r"  +", row)[:4] for row in run("usage", "acme").splitlines()]
    assert rows == [
        ["limit", "used", "reserved", "of"],
        ["concurrent", "1", "0", "3"],
        ["tokens_per_month", "15", "25", "500"],
    ]
    rows = [re.split(r"  +", row)[:4] for row in run("usage", "acme", "--user", "ann").splitlines()]
    assert rows[1:] == [["user:ann:tokens_per_day", "15", "25", "90"]]


def test_limits_of_money_are_set_shown_and_used_in_dollars(run: Run, server: RedisServer) -> None:
    run("add", "acme", "--user-limit", "usd_per_session=0.000000001")
    assert "usd_per_day=12.5" in run("set", "acme", "--limit", "usd_per_day=12.5")
    assert "usd_per_session=0.000000001" in run("show", "acme")
    tenant = in_redis(server, lambda directory: directory.get("acme"))
    assert tenant.limits.usd_per_day == 12_500_000_000

    async def use() -> None:
        store = RedisStore(server.url, deadline=10_000)
        limits = limits_for(tenant, user=None, session=None, model=None, now=time.time())
        assert (await store.admit("{acme}:1$", limits, need=10, want=1_500_000_000)).admitted
        await store.extend("{acme}:1$", 250_000_001, 0)
        await store.close()

    asyncio.run(use())
    rows = [re.split(r"  +", row)[:4] for row in run("usage", "acme").splitlines()]
    assert rows == [["limit", "used", "reserved", "of"], ["usd_per_day", "0.250000001", "1.249999999", "12.5"]]
    assert "usd_per_day" not in run("set", "acme", "--limit", "usd_per_day=off")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show", "nobody"), "no tenant 'nobody'"),
        (("set", "nobody", "--limit", "concurrent=1"), "no tenant 'nobody'"),
        (("rotate", "nobody"), "no tenant 'nobody'"),
        (("disable", "nobody"), "no tenant 'nobody'"),
        (("remove", "nobody"), "no tenant 'nobody'"),
        (("usage", "nobody"), "no tenant 'nobody'"),
        (("usage", "acme"), "acme has no limits"),
        (("add", "acme"), "tenant 'acme' already exists"),
        (("add", "a b"), "a b.name: "),
        (("add", "new", "--limit", "tokens=1"), "'tokens=1': "),
        (("add", "new", "--limit", "tokens_per_day"), "new.tokens_per_day: "),
        (("add", "new", "--limit", "tokens_per_day=0"), "new.tokens_per_day: "),
        (("add", "new", "--limit", f"tokens_per_day={'9' * 5000}"), "new.tokens_per_day: "),
        (("add", "new", "--user-limit", "request_burst=1"), "new.user.request_burst: "),
        (("add", "new", "--model-limit", "tokens_per_day=1"), "new.model_limits[0].models: "),
        (("add", "new", "--expires", "soon"), "new.keys[0].expires: "),
        (("set", "acme", "--limit", "tokens_per_day=x"), "acme.tokens_per_day: "),
        (("set", "acme", "--limit", "usd_per_day=1.0000000001"), "acme.usd_per_day: "),
    ],
)
def test_what_does_not_work_is_told(run: Run, arguments: tuple[str, ...], told: str) -> None:
    run("add", "acme")
    assert told in run(*arguments, status=1)
    assert len(run("list").splitlines()) == 2


def test_wrong_usage_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["nonsense"], ["add"], ["rotate", "acme", "--grace", "soon"]):
        with pytest.raises(SystemExit, match="2"):
            main(["tenants", *arguments])
    assert "a time such as" in capsys.readouterr().err


def test_check_shows_the_tenants_of_the_file_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(
        f"""
        [[upstreams]]
        name = "a"
        url = "https://a.test"
        [[tenants]]
        name = "acme"
        key_sha256 = "{"ab" * 32}"
        models = ["gpt-*"]
        paths = ["/v1/chat/completions", "/v1/files", "/v1/*"]
        concurrent = 5
        [tenants.user]
        tokens_per_day = 6
        [[tenants.model_limits]]
        models = ["gpt-4*"]
        tokens_per_day = 7
        [[tenants]]
        name = "old"
        disabled = true
        """
    )
    monkeypatch.setenv("FLOW_CONFIG", str(file))
    monkeypatch.setenv("FLOW_REDIS_URL", "redis://:secret@127.0.0.1")
    assert main(["check"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-4:] == [
        "tenant acme: 1 key, models gpt-*, paths /v1/chat/completions /v1/files /v1/*, concurrent=5, "
        "each user tokens_per_day=6, gpt-4* tokens_per_day=7",
        "tenant acme: path /v1/files is not counted",
        "tenant acme: path /v1/* may match requests that are not counted",
        "tenant old: disabled, 0 keys",
    ]
    assert "secret" not in printed
    assert "abab" not in printed


@pytest.mark.parametrize(
    ("limit", "redis", "told"),
    [
        ("tokens_per_day = 5", "", True),
        ("user = { requests_per_minute = 5 }", "", True),
        ('model_limits = [{ models = ["m"], concurrent = 5 }]', "", True),
        ("tokens_per_stream = 5", "", False),
        ("tokens_per_day = 5", "redis://127.0.0.1", False),
    ],
)
def test_check_says_who_counts_where_there_is_no_redis(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit: str,
    redis: str,
    told: bool,
) -> None:
    file = tmp_path / "flow.toml"
    file.write_text(f'[[upstreams]]\nname = "a"\nurl = "https://a.test"\n[[tenants]]\nname = "acme"\n{limit}\n')
    monkeypatch.setenv("FLOW_CONFIG", str(file))
    monkeypatch.setenv("FLOW_REDIS_URL", redis)
    assert main(["check"]) == 0
    assert ("limits: this relay, with all its workers, counts for itself" in capsys.readouterr().out) is told
