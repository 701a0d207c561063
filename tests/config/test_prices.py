"""`[[prices]]` tables and limits of money in the file: what they mean, and what is wrong with them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flowserver.config.differences import differences
from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.config.prices import PriceReader
from flowserver.config.tenants import TenantError, limits_table, read_tenant, table_of
from flowserver.config.topology import Topology
from flowserver.quota.prices import Price, PriceRow
from tests.support.topology import tenant, toml


def read(text: str) -> tuple[list[PriceRow], list[str]]:
    reader = PriceReader()
    return reader.prices(tomllib.loads(text)["prices"], ["openai", "azure"]), reader.problems


def table(*lines: str) -> str:
    return "\n".join(["[[prices]]", 'models = ["m"]', *lines, ""])


def topology(folder: Path, text: str, *, top: str = "") -> Topology:
    config = toml(folder, {"openai": "https://api.openai.com"}, text, top=top)
    return load_topology(load({"FLOW_CONFIG": config}), {})


def problems(folder: Path, text: str, *, top: str = "") -> list[str]:
    with pytest.raises(ConfigError) as raised:
        topology(folder, text, top=top)
    return [problem.replace(f"{folder}/", "") for problem in raised.value.problems]


def test_prices_are_per_million_tokens_and_exact() -> None:
    [found], wrong = read(table("input = 2.5", 'output = "10"', "cached_input = 0.0375", 'reasoning = "0.000001"'))
    assert wrong == []
    assert found.price == Price(2_500_000, 10_000_000, 37_500, 2_500_000, 1)


def test_what_is_left_out_costs_what_input_and_output_do() -> None:
    [found], _ = read(table("input = 1", "output = 2"))
    assert found == PriceRow(("m",), Price(1_000_000, 2_000_000, 1_000_000, 1_000_000, 2_000_000))


def test_a_table_may_be_for_some_providers_and_for_large_requests() -> None:
    [found], wrong = read(
        table("input = 1", "output = 2", 'upstreams = ["azure"]', "above_input_tokens = 200000", 'currency = "USD"')
    )
    assert (found.upstreams, found.above, wrong) == (("azure",), 200_000, [])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (("output = 1",), "prices[0].input: is required"),
        (("input = 1", "output = -1"), "prices[0].output: invalid value -1: expected a price in dollars per million"),
        (("input = 1", "output = nan"), "prices[0].output: invalid value nan: expected a price"),
        (("input = 1", "output = inf"), "prices[0].output: invalid value inf: expected a price"),
        (("input = 1", "output = true"), "prices[0].output: invalid value true: expected a price"),
        (("input = 1", 'output = "1e3"'), "prices[0].output: invalid value '1e3': expected a price"),
        (("input = 1", "output = 0.0000001"), "prices[0].output: invalid value 1e-07: expected at most 6 decimals"),
        (("input = 1", "output = 1000001"), "prices[0].output: invalid value 1000001: expected 0 to 1000000"),
        (("input = 1", "output = 1", 'currency = "EUR"'), "prices[0].currency: invalid value 'EUR': expected 'USD'"),
        (("input = 1", "output = 1", 'upstreams = ["x"]'), "prices[0].upstreams: there is no upstream 'x'"),
        (("input = 1", "output = 1", "ouput = 1"), "prices[0].ouput: unknown key"),
        (("input = 1", "output = 1", "above_input_tokens = 0"), "prices[0].above_input_tokens: invalid value 0"),
    ],
)
def test_mistakes_are_told_with_their_place(lines: tuple[str, ...], problem: str) -> None:
    found, wrong = read(table(*lines))
    assert found == []
    assert len(wrong) == 1
    assert wrong[0].startswith(problem)


def test_the_file_s_own_prices_come_before_those_of_its_prices_file(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(table("input = 2", "output = 2") * 2)
    found = topology(tmp_path, table("input = 1", "output = 1"), top='prices_file = "prices.toml"')
    assert [row.price.input for row in found.prices] == [1_000_000, 2_000_000, 2_000_000]


def test_mistakes_in_the_prices_file_name_it(tmp_path: Path) -> None:
    top = 'prices_file = "prices.toml"'
    path = tmp_path / "prices.toml"
    path.write_text(table("input = 2", "output = 'x'") + '[[tenants]]\nname = "x"\n')
    assert [problem.partition(": invalid")[0] for problem in problems(tmp_path, "", top=top)] == [
        "flow.toml: prices.toml: tenants: unknown key: expected one of prices",
        "flow.toml: prices.toml: prices[0].output",
    ]
    path.write_text("[[prices]")
    assert problems(tmp_path, "", top=top)[0].startswith("prices.toml: ")
    path.write_text("")
    assert problems(tmp_path, "", top=top) == ["flow.toml: prices.toml: prices: is required"]
    path.unlink()
    assert problems(tmp_path, "", top=top)[0].startswith("prices_file: prices.toml can't be read: ")


def test_a_prices_file_below_a_table_is_told_where_it_belongs(tmp_path: Path) -> None:
    assert problems(tmp_path, 'prices_file = "p.toml"') == [
        "flow.toml: upstreams[0].prices_file: must be above the first table"
    ]


def test_a_reload_tells_what_has_another_price(tmp_path: Path) -> None:
    before = topology(tmp_path, table("input = 1", "output = 1") + table("input = 5", "output = 5"))
    after = topology(tmp_path, table("input = 1.5", "output = 1") + '[[prices]]\nmodels = ["n"]\ninput = 1\noutput = 1')
    assert differences(before, after) == [
        "prices.m.input: 1 -> 1.5",
        "prices.m.cached_input: 1 -> 1.5",
        "prices.m.cache_write: 1 -> 1.5",
        "prices.n: added",
    ]


# Limits of money


@pytest.mark.parametrize(
    ("given", "nano", "text"),
    [(12.5, 12_500_000_000, "12.5"), ("0.000000001", 1, "0.000000001"), (4_000_000, 4 * 10**15, "4000000")],
)
def test_limits_of_money_are_exact_and_written_as_they_are_read(given: object, nano: int, text: str) -> None:
    found = read_tenant({"name": "acme", "usd_per_day": given, "user": {"usd_per_session": given}}, "t")
    assert (found.limits.usd_per_day, found.user.usd_per_session) == (nano, nano)
    assert limits_table(found.limits) == {"usd_per_day": text}
    assert read_tenant(table_of(found), "t") == found


@pytest.mark.parametrize("given", [0, -1, "12,5", "$5", True, "0.0000000001", 4_000_001, float("nan"), [1], ""])
def test_what_is_no_amount_is_refused(given: Any) -> None:
    with pytest.raises(TenantError, match=r"^t\.usd_per_month: invalid value"):
        read_tenant({"name": "acme", "usd_per_month": given}, "t")


def test_limits_of_money_need_prices(tmp_path: Path) -> None:
    limited = tenant("k", "usd_per_month = 5", "[tenants.user]", "usd_per_day = 1")
    assert problems(tmp_path, limited) == [
        "flow.toml: tenants: acme has usd_per_day, usd_per_month, but there are no prices: add [[prices]] tables, or "
        "name a file of them in prices_file, above the first table"
    ]
    assert topology(tmp_path, limited + table("input = 1", "output = 1")).tenants
