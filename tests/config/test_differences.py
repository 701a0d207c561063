from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from flowserver.config.differences import differences
from flowserver.config.environment import load
from flowserver.config.file import load_topology
from flowserver.config.topology import Topology

Read = Callable[..., Topology]

BASE = """
[[upstreams]]
name = "a"
url = "http://127.0.0.1:1"
api_key = "env:KEY"

[[upstreams]]
name = "b"
url = "http://127.0.0.1:2"
weight = 2

[[routes]]
upstreams = ["a", "b"]

[[tenants]]
name = "acme"
key_sha256 = "%s"
tokens_per_day = 100
""" % ("0" * 64)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def topology(text: str, key: str = "one") -> Topology:
        path = tmp_path / "flowserver.toml"
        path.write_text(text)
        environ = {"FLOW_CONFIG": str(path), "KEY": key}
        return load_topology(load(environ), environ)

    return topology


def test_the_same_file_has_none(read: Read) -> None:
    assert differences(read(BASE), read(BASE)) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("weight = 2", "weight = 3", ["upstreams.b.weight: 2 -> 3"]),
        ("weight = 2", "max_concurrent = 5", ["upstreams.b.weight: 2 -> 1", "upstreams.b.max_concurrent: none -> 5"]),
        ("127.0.0.1:2", "127.0.0.1:3", ["upstreams.b.url: http://127.0.0.1:2 -> http://127.0.0.1:3"]),
        ('["a", "b"]', '["b"]', ["routes.0.tiers: [('a',), ('b',)] -> [('b',)]"]),
        ("tokens_per_day = 100", "tokens_per_day = 7", ["tenants.acme.tokens_per_day: 100 -> 7"]),
        ("0" * 64, "1" * 64, ["tenants.acme.keys: changed"]),
        ('name = "acme"', 'name = "bits"', ["tenants.acme: removed", "tenants.bits: added"]),
    ],
)
def test_each_difference_is_a_line(read: Read, old: str, new: str, found: list[str]) -> None:
    assert sorted(differences(read(BASE), read(BASE.replace(old, new)))) == sorted(found)


def test_secrets_are_not_shown(read: Read) -> None:
    assert differences(read(BASE, "one"), read(BASE, "two")) == ["upstreams.a.api_key: changed"]


def test_of_many_the_number_is_told(read: Read) -> None:
    more = "".join(f'[[upstreams]]\nname = "n{number}"\nurl = "http://127.0.0.1:9"\n' for number in range(60))
    found = differences(read(BASE), read(BASE + more))
    assert len(found) == 51
    assert found[-1] == "and 10 more"
