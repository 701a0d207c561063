"""Active checks, slow start, outliers and FLOW_READY: what the configuration says of them, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.config.parsers import Ready
from flowserver.config.topology import HealthSpec, OutlierSpec, Topology

ONE = '[[upstreams]]\nname = "a"\nurl = "https://a.test"\n'
TWO = ONE + '[[upstreams]]\nname = "b"\nurl = "https://b.test"\n[[routes]]\nupstreams = [["a", "b"]]\n'


def _read(folder: Path, text: str) -> Topology:
    path = folder / "flow.toml"
    path.write_text(text, encoding="utf-8")
    return load_topology(load({"FLOW_CONFIG": str(path)}), {})


def _problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _read(folder, text)
    return [problem.removeprefix(f"{folder / 'flow.toml'}: ") for problem in caught.value.problems]


def test_without_the_keys_there_are_none(tmp_path: Path) -> None:
    topology = _read(tmp_path, TWO)
    assert {(spec.health, spec.slow_start) for spec in topology.upstreams} == {(None, None)}
    assert topology.routes[0].outliers is None


def test_a_path_is_enough(tmp_path: Path) -> None:
    [spec] = _read(tmp_path, ONE + 'health = { path = "/health" }\n').upstreams
    assert spec.health == HealthSpec("/health", interval=5.0, timeout=2.0, failures=3, successes=2, expect=200)


def test_all_that_can_be_said_of_checks(tmp_path: Path) -> None:
    text = """slow_start = "1m"
    [upstreams.health]
    path = "/v1/models?limit=1"
    interval = "1500ms"
    timeout = 1
    failures = 1
    successes = 9
    expect = 401
    """
    topology = _read(tmp_path, ONE + text)
    [spec] = topology.upstreams
    assert spec.health == HealthSpec("/v1/models?limit=1", 1.5, 1.0, 1, 9, 401)
    assert spec.slow_start == 60.0
    assert {60.0, 1.5} <= set(topology.swept_times)


@pytest.mark.parametrize("value", ["true", "{}"])
def test_outliers_without_keys_have_the_defaults(tmp_path: Path, value: str) -> None:
    topology = _read(tmp_path, TWO + f"outliers = {value}\n")
    assert topology.routes[0].outliers == OutlierSpec()
    assert {10.0, 30.0} <= set(topology.swept_times)


def test_all_that_can_be_said_of_outliers(tmp_path: Path) -> None:
    table = (
        '{ interval = "2s", min_requests = 5, max_errors = "off", max_slowness = 2, slow_intervals = 4, '
        'ejection = "5s", max_ejected = 1 }'
    )
    spec = _read(tmp_path, TWO + f"outliers = {table}\n").routes[0].outliers
    assert spec == OutlierSpec(2.0, 5, None, 2.0, 4, 5.0, 1.0)
    spec = _read(tmp_path, TWO + 'outliers = { max_errors = 0.5, max_slowness = "off" }\n').routes[0].outliers
    assert spec is not None
    assert (spec.max_errors, spec.max_slowness) == (0.5, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("health = {}", "upstreams[0].health.path: is required"),
        ('health = "/health"', "upstreams[0].health: invalid value '/health': expected a table"),
        (
            'health = { path = "health" }',
            "upstreams[0].health.path: invalid value 'health': expected the path of a request",
        ),
        (
            'health = { path = "/a b" }',
            "upstreams[0].health.path: invalid value '/a b': expected the path of a request",
        ),
        (
            'health = { path = "/a#b" }',
            "upstreams[0].health.path: invalid value '/a#b': expected the path of a request",
        ),
        (
            'health = { path = "/a", timeout = "5s" }',
            "upstreams[0].health.timeout: 5 s must be below the interval, 5 s",
        ),
        (
            'health = { path = "/a", interval = "1s" }',
            "upstreams[0].health.timeout: 2 s must be below the interval, 1 s",
        ),
        (
            'health = { path = "/a", interval = 0 }',
            "upstreams[0].health.interval: invalid value 0: expected a time above 0",
        ),
        (
            'health = { path = "/a", failures = 0 }',
            "upstreams[0].health.failures: invalid value 0: expected a whole number",
        ),
        (
            'health = { path = "/a", expect = 101 }',
            "upstreams[0].health.expect: invalid value 101: expected a whole number",
        ),
        (
            'health = { path = "/a", method = "HEAD" }',
            "upstreams[0].health.method: unknown key: expected one of path, ",
        ),
        ('slow_start = "fast"', "upstreams[0].slow_start: invalid value 'fast': expected a time"),
    ],
)
def test_mistakes_in_checks_are_told_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    [problem] = _problems(tmp_path, ONE + line + "\n")
    assert problem.startswith(message)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("false", "routes[0].outliers: invalid value false: expected true, or a table"),
        (
            "{ max_errors = 20 }",
            "routes[0].outliers.max_errors: invalid value 20: expected a share above 0 and up to 1",
        ),
        ("{ max_slowness = 1 }", "routes[0].outliers.max_slowness: invalid value 1: expected a number above 1"),
        ("{ max_ejected = 0 }", "routes[0].outliers.max_ejected: invalid value 0: expected a share"),
        ("{ interval = 0 }", "routes[0].outliers.interval: invalid value 0: expected a time above 0"),
        ("{ errors = 1 }", "routes[0].outliers.errors: unknown key; did you mean max_errors?"),
    ],
)
def test_mistakes_in_outliers_are_told_with_their_place(tmp_path: Path, value: str, message: str) -> None:
    [problem] = _problems(tmp_path, TWO + f"outliers = {value}\n")
    assert problem.startswith(message)


def test_outliers_need_somebody_to_compare_with(tmp_path: Path) -> None:
    text = TWO.replace('[["a", "b"]]', '["a", "b"]') + "outliers = true\n"
    [problem] = _problems(tmp_path, text)
    assert problem == ("routes[0].outliers: needs two or more providers to compare, in an inner list of `upstreams`")


@pytest.mark.parametrize("ready", list(Ready))
def test_what_readyz_asks_for(ready: Ready) -> None:
    assert load({"FLOW_READY": ready.upper()}).ready is ready


def test_what_readyz_can_t_ask_for() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_READY": "all"})
    assert caught.value.problems == [
        "FLOW_READY: invalid value 'all': expected one of listening, any_upstream, all_upstreams"
    ]
