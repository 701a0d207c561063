"""The configuration in force: each value with its origin, and no secret."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from flowserver.config.effective import MASK, effective
from flowserver.config.environment import load
from flowserver.config.file import load_topology
from flowserver.config.settings import SETTINGS

KEY = "sk-very-secret-key-of-the-provider"
DIGEST = sha256(b"a tenant's key").hexdigest()
FILE = f"""
[[upstreams]]
name = "one"
url = "https://one.example/v1"
api_key = "env:ONE_KEY"
headers = {{ "x-team" = "another-secret" }}
weight = 3
idle_timeout = "2s"
health = {{ path = "/health" }}

[[upstreams]]
name = "two"
url = "http://two.example"

[[routes]]
path = "/v1/*"
upstreams = [["one", "two"]]
class = "batch"

[[tenants]]
name = "acme"
key_sha256 = "{DIGEST}"
tokens_per_day = 1000
"""


def told(folder: Path, file: str = FILE, **environ: str) -> dict[str, Any]:
    path = folder / "flow.toml"
    path.write_text(file)
    environ = {"FLOW_CONFIG": str(path), "ONE_KEY": KEY, **environ}
    config = load(environ)
    shown = effective(config, load_topology(config, environ), environ)
    return dict(orjson.loads(orjson.dumps(shown)))


def test_every_setting_is_told_with_its_origin(tmp_path: Path) -> None:
    shown = told(tmp_path, FLOW_STALL_TIMEOUT="90s", FLOW_LISTEN="127.0.0.1:1,unix:/run/x")["settings"]
    assert list(shown) == [entry.env for entry in SETTINGS]
    assert shown["FLOW_STALL_TIMEOUT"] == {"value": 90.0, "origin": "environment"}
    assert shown["FLOW_LISTEN"] == {"value": ["127.0.0.1:1", "unix:/run/x"], "origin": "environment"}
    assert shown["FLOW_MAX_BODY"] == {"value": 64 << 20, "origin": "default"}
    assert shown["FLOW_HIGH_WATER"]["value"] == "auto"
    assert shown["FLOW_TOTAL_TIMEOUT"]["value"] is None


def test_the_keys_of_the_file_are_told_with_their_places(tmp_path: Path) -> None:
    shown = told(tmp_path, FLOW_CONNECT_TIMEOUT="3s")
    one, two = shown["upstreams"]
    assert one["weight"] == {"value": 3, "origin": f"{tmp_path}/flow.toml: upstreams[0].weight"}
    assert one["idle_timeout"] == {"value": 2.0, "origin": f"{tmp_path}/flow.toml: upstreams[0].idle_timeout"}
    assert one["health"]["value"]["path"] == "/health"
    assert two["url"] == {"value": "http://two.example", "origin": f"{tmp_path}/flow.toml: upstreams[1].url"}
    assert two["weight"] == {"value": 1, "origin": "default"}
    assert two["idle_timeout"] == {"value": 300.0, "origin": "FLOW_IDLE_TIMEOUT (default)"}
    assert two["connect_timeout"] == {"value": 3.0, "origin": "FLOW_CONNECT_TIMEOUT (environment)"}
    [route] = shown["routes"]
    assert route["upstreams"] == {"value": [["one", "two"]], "origin": f"{tmp_path}/flow.toml: routes[0].upstreams"}
    assert route["class"]["value"] == "batch"
    assert route["affinity"] == {"value": "none", "origin": "default"}
    [tenant] = shown["tenants"]
    assert tenant["tokens_per_day"] == {"value": 1000, "origin": f"{tmp_path}/flow.toml: tenants[0]"}


def test_prices_are_told(tmp_path: Path) -> None:
    [row] = told(tmp_path, FILE + '[[prices]]\nmodels = ["gpt-*"]\ninput = 2.5\noutput = 10\n')["prices"]
    assert row["origin"] == f"{tmp_path}/flow.toml or its prices_file"
    assert row["value"] == {
        "models": ["gpt-*"],
        "upstreams": [],
        "above_input_tokens": 0,
        "input": "2.5",
        "output": "10",
        "cached_input": "2.5",
        "cache_write": "2.5",
        "reasoning": "10",
    }


def test_no_secret_is_told(tmp_path: Path) -> None:
    shown = told(
        tmp_path,
        FLOW_REDIS_URL="redis://:pass-word@redis.example",
        FLOW_ADMIN_TOKEN="env:THE_TOKEN",
        THE_TOKEN="t" * 20,
    )
    text = orjson.dumps(shown).decode()
    for secret in (KEY, "another-secret", DIGEST, "pass-word", "t" * 20):
        assert secret not in text
    assert shown["settings"]["FLOW_REDIS_URL"] == {"value": MASK, "origin": "environment"}
    assert shown["settings"]["FLOW_ADMIN_TOKEN"] == {"value": "env:THE_TOKEN", "origin": "environment"}
    assert shown["settings"]["FLOW_UPSTREAM_API_KEY"] == {"value": None, "origin": "default"}
    assert shown["upstreams"][0]["api_key"]["value"] == shown["upstreams"][0]["headers"]["value"] == MASK
    assert shown["upstreams"][1]["api_key"]["value"] is None


def test_a_provider_without_a_file() -> None:
    environ = {"FLOW_UPSTREAM": "https://api.example", "FLOW_UPSTREAM_API_KEY": KEY}
    config = load(environ)
    shown = effective(config, load_topology(config, environ), environ, ("log_level",))
    [one] = shown["upstreams"]
    assert one["url"] == {"value": "https://api.example", "origin": "FLOW_UPSTREAM (environment)"}
    assert one["api_key"] == {"value": MASK, "origin": "FLOW_UPSTREAM_API_KEY (environment)"}
    assert one["dialect"] == {"value": None, "origin": "FLOW_UPSTREAM_DIALECT (default)"}
    assert one["keepalive"] == {"value": 30.0, "origin": "FLOW_UPSTREAM_KEEPALIVE (default)"}
    assert one["weight"] == {"value": 1, "origin": "default"}
    assert shown["settings"]["FLOW_LOG_LEVEL"]["origin"] == "changed at run time"
