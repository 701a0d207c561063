"""Tenants and their limits as the server puts them together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from flowserver.app.tenancy import Tenancy
from flowserver.config.environment import load
from flowserver.config.file import load_topology
from flowserver.config.topology import Topology
from flowserver.errors import RelayError
from flowserver.http.messages import RequestHead
from flowserver.quota.identify import QuotaContext
from flowserver.quota.limits import Decision, Slots, Usage
from flowserver.quota.refusals import UNKNOWN_KEY
from flowserver.quota.tenants import Tenant, digest_of, limits_for
from tests.support.lab import finishes, free_port

from ..support.quota import KEY, asking

PROVIDER = '[[upstreams]]\nname = "a"\nurl = "http://a.test"\n'


class Rig:
    """A tenancy whose file says what a test wrote last."""

    def __init__(self, folder: Path, *tenants: str, **environ: str) -> None:
        self._file = folder / "flow.toml"
        self._config = load({"FLOW_CONFIG": str(self._file), **environ})
        self.tenancy = Tenancy(self._config, self._read(*tenants))

    def reload(self, *tenants: str) -> None:
        self.tenancy.reload(self._read(*tenants))

    def _read(self, *tenants: str) -> Topology:
        self._file.write_text("\n".join([PROVIDER, *tenants]), encoding="utf-8")
        return load_topology(self._config, {})

    def quota(self) -> QuotaContext:
        assert self.tenancy.quota is not None
        return self.tenancy.quota

    def identify(self, request: RequestHead) -> Tenant | RelayError:
        found: list[Tenant | RelayError] = []
        self.quota().identify(request, found.append)
        [one] = found
        return one

    def admit(self, name: str) -> Decision:
        """A request of whoever has `KEY`."""
        acme = self.identify(asking())
        assert isinstance(acme, Tenant)
        limits = limits_for(acme, user=None, session=None, model=None, now=self.quota().now())
        decisions: list[Decision] = []
        self.quota().limiter.admit(f"{{{acme.name}}}:{name}", limits, need=1, want=1 + 2048, done=decisions.append)
        [one] = decisions
        return one


def table(name: str = "acme", *lines: str, key: bytes = KEY) -> str:
    return "\n".join(["[[tenants]]", f'name = "{name}"', f'key_sha256 = "{digest_of(key).hex()}"', *lines])


async def test_without_tenants_everybody_may_use_the_relay(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    assert rig.tenancy.quota is None
    assert rig.tenancy.breaker is None
    assert rig.tenancy.failover is None
    await finishes(rig.tenancy.close())


async def test_tenants_of_the_file_are_known_and_nobody_else(tmp_path: Path) -> None:
    rig = Rig(tmp_path, table())
    found = rig.identify(asking())
    assert isinstance(found, Tenant)
    assert found.name == "acme"
    assert rig.identify(asking(key=b"other")) is UNKNOWN_KEY


async def test_a_new_file_changes_tenants_and_counters_go_on(tmp_path: Path) -> None:
    rig = Rig(tmp_path, table("acme", "concurrent = 2"))
    assert rig.admit("1").admitted
    rig.reload(table("acme", "concurrent = 1"), table("new", key=b"new"))
    assert not rig.admit("2").admitted
    found = rig.identify(asking(key=b"new"))
    assert isinstance(found, Tenant)
    rig.reload(table("new", key=b"new"))
    assert rig.identify(asking()) is UNKNOWN_KEY
    rig.reload()
    assert rig.tenancy.quota is None
    rig.reload(table("acme", "concurrent = 1"))
    assert not rig.admit("3").admitted


async def test_tenants_are_told_as_the_last_file_has_them_whoever_has_used_the_relay(tmp_path: Path) -> None:
    """Those of a directory stay, as long as they are remembered."""
    rig = Rig(
        tmp_path,
        table("acme", "tokens_per_day = 100"),
        table("gone", key=b"gone"),
        FLOW_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0",
    )
    acme, gone = (rig.identify(asking(key=key)) for key in (KEY, b"gone"))
    assert isinstance(acme, Tenant)
    assert isinstance(gone, Tenant)
    for tenant in (acme, gone, Tenant("of-directory")):
        for user in ("a", "b"):
            rig.quota().profiles.find(tenant, user=user, session=None, model=None, now=0.0)
    assert [tenant.name for tenant in rig.tenancy.tenants()] == ["acme", "gone", "of-directory"]
    rig.reload(table("acme", "concurrent = 1"))
    changed, other = rig.tenancy.tenants()
    assert (changed.name, changed.limits.tokens_per_day, changed.limits.concurrent) == ("acme", None, 1)
    assert other.name == "of-directory"
    await finishes(rig.tenancy.close())


async def test_with_redis_everybody_needs_a_key_though_the_file_has_no_tenants(tmp_path: Path) -> None:
    """What does not look like an issued key is unknown without a look, and Redis need not be there for that."""
    rig = Rig(tmp_path, FLOW_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert rig.identify(asking(key=b"made up")) is UNKNOWN_KEY
    assert rig.tenancy.breaker is not None
    assert rig.tenancy.failover is not None
    rig.reload()
    assert rig.quota().directory is not None
    await finishes(rig.tenancy.close())


@pytest.mark.parametrize(("policy", "admitted"), [("open", True), ("closed", False)])
async def test_without_its_redis_the_policy_decides(tmp_path: Path, policy: str, admitted: bool) -> None:
    redis = f"redis://127.0.0.1:{free_port()}/0"
    rig = Rig(tmp_path, table("acme", "concurrent = 1"), FLOW_REDIS_URL=redis, FLOW_LIMITS_POLICY=policy)
    acme = rig.identify(asking())
    assert isinstance(acme, Tenant)
    limits = limits_for(acme, user=None, session=None, model=None, now=rig.quota().now())
    decisions: list[Decision] = []
    rig.quota().limiter.admit("{acme}:1", limits, need=1, want=1 + 2048, done=decisions.append)
    assert decisions == []
    await finishes(rig.tenancy.close())  # which waits for what is under way
    assert [decision.admitted for decision in decisions] == [admitted]


async def test_what_the_store_has_is_told_at_once_by_a_store_of_this_process(tmp_path: Path) -> None:
    rig = Rig(tmp_path, table("acme", "concurrent = 2"))
    rig.admit("1")
    told: list[Sequence[Usage]] = []
    rig.tenancy.stored_usage([Slots("{acme}:concurrent", 2)], told.append)
    assert [usage.used for usage in told[0]] == [1]


async def test_without_its_redis_nobody_knows_what_the_store_has_though_this_process_counts(tmp_path: Path) -> None:
    redis = f"redis://127.0.0.1:{free_port()}/0"
    rig = Rig(tmp_path, table("acme", "concurrent = 1"), FLOW_REDIS_URL=redis)
    told: list[Sequence[Usage]] = []
    limits = [Slots("{acme}:concurrent", 1)]
    rig.tenancy.stored_usage(limits, told.append)
    rig.tenancy.usage(limits, told.append)
    await finishes(rig.tenancy.close())
    assert sorted(map(len, told)) == [0, 1]
