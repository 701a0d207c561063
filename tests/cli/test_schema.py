"""`flowserver config schema`: the example is valid, and parser and schema agree."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from flowserver.cli.commands import run
from flowserver.cli.config import file_schema
from flowserver.config.entries import Key
from flowserver.config.file_keys import FILE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, ROUTE_KEYS, UPSTREAM_KEYS
from flowserver.config.prices import PRICE_KEYS
from flowserver.config.tenants import TENANT_KEYS

EXAMPLE = (Path(__file__).parent.parent.parent / "flowserver.example.toml").read_text(encoding="utf-8")
VALIDATOR = Draft202012Validator(file_schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


def problems(text: str) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(tomllib.loads(text))]


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema"]) == 0
    printed = orjson.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(printed)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed == orjson.loads(orjson.dumps(file_schema()))


def test_the_example_is_valid() -> None:
    assert problems(EXAMPLE) == []


def test_the_tenants_of_the_example_are_valid() -> None:
    _, begin, tenants = EXAMPLE.partition("# [[tenants]]")
    text = "\n".join(line.removeprefix("# ") for line in (begin + tenants).splitlines())
    assert "model_limits" in text
    assert problems(text) == []


def test_every_key_is_described() -> None:
    tables: Sequence[Sequence[Key]] = (
        FILE_KEYS,
        UPSTREAM_KEYS,
        ROUTE_KEYS,
        HEALTH_KEYS,
        OUTLIER_KEYS,
        TENANT_KEYS,
        PRICE_KEYS,
    )
    assert [key.name for keys in tables for key in keys if not key.kind.schema] == []


@pytest.mark.parametrize(
    "line",
    [
        "[[upstream]]\nname = 'a'",
        "[[upstreams]]\nurl = 'http://a'",
        *(
            f"[[upstreams]]\nname = 'a'\nurl = 'http://a'\n{line}"
            for line in (
                "api_key = 'sk-1'",
                "protocol = 'h3'",
                "weight = 0",
                "connect_timeout = 0",
                "connect_timeout = 'off'",
                "idle_timeout = true",
                "headers = { a = 1 }",
                "dialect = 'none'",
                "health = { interval = '5s' }",
                "api-key = 'env:A'",
            )
        ),
        "[[routes]]\npath = '/v1'",
        "[[routes]]\nupstreams = []",
        "[[routes]]\nupstreams = ['a']\npath = 'v1'",
        "[[tenants]]\nname = 'a b'",
        "[[tenants]]\nname = 'a'\nkey_sha256 = 'abc'",
        "[[tenants]]\nname = 'a'\n[[tenants.model_limits]]\ntokens_per_day = 1",
        "[[tenants]]\nname = 'a'\nuser = { tokens = 1 }",
        "open = 'yes'",
    ],
)
def test_what_the_relay_refuses_is_not_valid(line: str) -> None:
    assert problems(line) != []


VALUES: list[Any] = [
    *(
        True,
        False,
        0,
        1,
        2,
        5,
        0.05,
        1.5,
        3600,
        -1,
        "off",
        "",
        "auto",
        "h1",
        "h2",
        "h3",
        "500ms",
        "1h30m",
        " 5 min ",
        "5x",
    ),
    *(
        "30",
        "prefix",
        "session",
        "none",
        "cancel",
        "drain",
        "batch",
        "interactive",
        "env:A",
        "file:a",
        "sk-1",
        "http://a",
    ),
    *("https://a.test/v1", "http+unix://%2Fa", "ftp://a", "a.test", "/v1/*", "*", "v1", "/health?a=b", "/a#b", "vllm"),
    *(
        "bearer",
        "ab" * 32,
        "ab",
        "12.5",
        "USD",
        "1e3",
        "2027-01-01T00:00:00Z",
        "soon",
        [],
        ["a"],
        [["a", "b"], "c"],
        [[]],
        [1],
        {},
    ),
    *({"a": "b"}, {"a": 1}, {"path": "/health"}, {"interval": "5s"}, [{"sha256": "ab" * 32}], [{"models": ["a"]}]),
]


KEYS: list[Key] = [*UPSTREAM_KEYS, *ROUTE_KEYS, *HEALTH_KEYS, *OUTLIER_KEYS, *TENANT_KEYS, *PRICE_KEYS]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_the_schema_takes_whatever_the_relay_takes(key: Key, value: Any) -> None:
    try:
        key.kind.parse(value)
    except ValueError:
        return
    if "properties" in str(key.kind.schema) or key.name == "upstreams":
        return  # what is in these is looked at later
    assert Draft202012Validator(dict(key.kind.schema)).is_valid(value)
