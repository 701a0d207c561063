"""What tokens cost: exact to the nano-dollar, by the first table that fits."""

from __future__ import annotations

import pytest

from flowserver.dialects.base import Usage
from flowserver.quota.money import NANO, nano_dollars, usd_number, usd_text
from flowserver.quota.prices import MOST_FOUND, Price, PriceRow, PriceTable

NO_USAGE = Usage()


def price(input: int = 1, output: int = 2) -> Price:
    """In dollars per million tokens."""
    return Price(input * 10**6, output * 10**6, input * 10**6, input * 10**6, output * 10**6)


def row(*models: str, input: int = 1, upstreams: tuple[str, ...] = (), above: int = 0) -> PriceRow:
    return PriceRow(models, price(input), upstreams, above)


def input_price(table: PriceTable, *models: str | None, upstream: str = "u", tokens: int = 1) -> int | None:
    """In dollars per million tokens."""
    tariff = table.tariff(upstream, models)
    return None if tariff is None else tariff.at(tokens).input // 10**6


# Amounts


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "0"), (1, "0.000000001"), (12_500_000_000, "12.5"), (NANO, "1"), (10 * NANO, "10"), (NANO + 10, "1.00000001")],
)
def test_amounts_are_told_exactly(nano: int, text: str) -> None:
    assert usd_text(nano) == text
    assert usd_number(nano) == float(text)


def test_a_part_of_a_nano_dollar_is_rounded_up() -> None:
    assert [nano_dollars(pico) for pico in (0, 1, 999, 1000, 1001)] == [0, 1, 1, 1, 2]


# One answer


def test_each_kind_of_token_has_its_price() -> None:
    each = Price(input=3_000_000, output=15_000_000, cached_input=300_000, cache_write=3_750_000, reasoning=20_000_000)
    usage = Usage(cached=100, cache_written=10, reasoning=7)
    expected = (1000 - 110) * 3000 + 100 * 300 + 10 * 3750 + (50 - 7) * 15_000 + 7 * 20_000
    assert each.cost(1000, 50, usage) == expected
    assert each.of_input(1000, usage) == (1000 - 110) * 3_000_000 + 100 * 300_000 + 10 * 3_750_000
    assert each.dearest_output == 20_000_000


def test_a_report_of_more_parts_than_there_are_tokens_charges_no_more_than_there_are() -> None:
    each = Price(input=10, output=10, cached_input=1, cache_write=20, reasoning=30)
    assert each.of_input(5, Usage(cached=2**40, cache_written=2**40)) == 5
    assert each.of_input(5, Usage(cached=-3, cache_written=2**40)) == 100
    assert each.cost(0, 5, Usage(reasoning=2**40)) == nano_dollars(150)


def test_without_a_report_all_is_plain_input_and_output() -> None:
    assert price(1, 2).cost(10, 20, NO_USAGE) == 10 * 1000 + 20 * 2000


# Which table


def test_the_first_table_that_fits_holds() -> None:
    table = PriceTable([row("gpt-4o", input=1), row("gpt-*", input=2), row("gpt-5", input=3)])
    assert input_price(table, "gpt-4o") == 1
    assert input_price(table, "gpt-5") == 2
    assert input_price(table, "claude") is None
    assert len(table) == 3


@pytest.mark.parametrize("name", ["gpt-4o", "GPT-4O", "Gpt-4o-Mini", "O3", "o3"])
def test_a_name_in_another_case_is_no_cheaper(name: str) -> None:
    table = PriceTable([row("gpt-4o*", "o3", input=5), row("*", input=0)])
    assert input_price(table, name) == 5


def test_a_table_may_be_for_some_providers_only() -> None:
    table = PriceTable([row("m", input=1, upstreams=("azure", "other")), row("m", input=2)])
    assert input_price(table, "m", upstream="azure") == 1
    assert input_price(table, "m", upstream="openai") == 2


def test_the_name_in_the_answer_decides_then_that_of_the_request() -> None:
    table = PriceTable([row("auto", input=1), row("claude-*", input=2)])
    assert input_price(table, "claude-5", "auto") == 2
    assert input_price(table, "unheard-of", "auto") == 1


def test_a_table_for_all_models_holds_where_no_name_has_another() -> None:
    """The dated name in an answer is not to lead away from the price that the request's own name has."""
    table = PriceTable([row("gpt-4o", input=1), row("*", input=9)])
    assert input_price(table, "gpt-4o-2024-08-06", "gpt-4o") == 1
    assert input_price(table, "else", "other") == 9
    assert input_price(table, None) == 9
    assert input_price(PriceTable([row("gpt-*")]), None) is None


def test_large_requests_may_have_other_prices() -> None:
    table = PriceTable([row("m", input=3, above=272_000), row("m", input=2, above=200_000), row("m", input=1)])
    assert [input_price(table, "m", tokens=tokens) for tokens in (200_000, 200_001, 272_000, 272_001)] == [1, 2, 2, 3]


def test_prices_of_large_requests_alone_are_none() -> None:
    assert input_price(PriceTable([row("m", input=2, above=1000)]), "m", tokens=5000) is None


def test_what_stands_behind_a_table_for_any_size_is_of_no_use() -> None:
    table = PriceTable([row("m", input=1), row("m", input=2, above=1000)])
    assert input_price(table, "m", tokens=5000) == 1


def test_names_that_clients_make_up_take_bounded_memory() -> None:
    table = PriceTable([row("m", input=1), row("*", input=2)])
    for number in range(2 * MOST_FOUND):
        assert input_price(table, f"made-up-{number}") == 2
    assert input_price(table, "m") == 1
