"""Lists of prices become tables that the relay reads, the same ones each time."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from flowserver.config.price_lists import ListError, read_list, toml_of
from flowserver.config.prices import PriceReader
from flowserver.quota.prices import PriceTable


def tables(text: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(toml_of(read_list(text)))["prices"]
    return found


def entry(input: object = 1e-6, output: object = 2e-6, **more: object) -> dict[str, object]:
    return {"input_cost_per_token": input, "output_cost_per_token": output, "mode": "chat"} | more


def listed(**entries: object) -> str:
    return json.dumps(entries)


def test_prices_per_token_become_prices_per_million_of_them() -> None:
    text = listed(
        m=entry(
            2.5e-06,
            1e-05,
            cache_read_input_token_cost=3.75e-08,
            cache_creation_input_token_cost=3.125e-06,
            output_cost_per_reasoning_token=9.499999999999999e-07,
            max_tokens=100,
            supports_vision=True,
        )
    )
    assert tables(text) == [
        {
            "models": ["m"],
            "input": "2.5",
            "output": "10",
            "cached_input": "0.0375",
            "cache_write": "3.125",
            "reasoning": "0.95",
        }
    ]


def test_what_has_no_price_per_token_is_left_out() -> None:
    found = read_list(
        listed(
            sample_spec=entry(),
            image={"input_cost_per_image": 0.04, "mode": "image_generation"},
            free=entry(0, 0),
            half={"input_cost_per_token": 1e-6, "mode": "chat"},
            odd=entry("a lot"),
            negative=entry(-1e-6),
            absurd=entry(5),
            embedding={"input_cost_per_token": 2e-8, "mode": "embedding"},
        )
    )
    assert [(price.model, str(price.prices["output"])) for price in found.prices] == [("embedding", "0")]
    assert found.left_out == 6


def test_prices_of_large_requests_come_first() -> None:
    text = listed(m=entry(input_cost_per_token_above_200k_tokens=3e-6, output_cost_per_token_above_200k_tokens=4e-6))
    assert tables(text) == [
        {"models": ["m"], "input": "3", "output": "4", "above_input_tokens": 200_000},
        {"models": ["m"], "input": "1", "output": "2"},
    ]


def test_the_name_behind_a_provider_s_is_listed_where_it_is_clear() -> None:
    text = listed(
        **{
            "azure/one": entry(1e-6),
            "azure/two": entry(1e-6),
            "other/eu/two": entry(9e-6),
            "azure/three": entry(1e-6),
            "three": entry(3e-6),
            "a/same": entry(),
            "b/same": entry(),
        }
    )
    found = {model: table["input"] for table in tables(text) for model in table["models"]}
    assert found["one"] == "1"
    assert "two" not in found
    assert found["three"] == "3"
    assert found["same"] == "1"


def test_the_order_of_the_list_does_not_matter() -> None:
    entries = {"b": entry(), "a": entry(), "azure/c": entry()}
    backwards = dict(reversed(entries.items()))
    assert toml_of(read_list(json.dumps(entries))) == toml_of(read_list(json.dumps(backwards)))


def test_csv_has_prices_per_million_tokens() -> None:
    text = (
        "model, input, output, cached_input, remark, above_input_tokens\nb,1,2.50,,new,\na,3,4,0.5,,\nb,2,5,,,128000\n"
    )
    assert tables(text) == [
        {"models": ["a"], "input": "3", "output": "4", "cached_input": "0.5"},
        {"models": ["b"], "input": "2", "output": "5", "above_input_tokens": 128_000},
        {"models": ["b"], "input": "1", "output": "2.5"},
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is not JSON"),
        ("", "neither LiteLLM's JSON nor CSV"),
        ("model,input\nm,1\n", "output missing"),
        ("model,input,output\nm,1,x\n", "line 2: invalid price 'x'"),
        ("model,input,output\nm,1\n", "line 2: expected a model, an input price"),
        ("model,input,output\n,1,1\n", "line 2: expected a model"),
        ("model,input,output,above_input_tokens\nm,1,1,many\n", "line 2: "),
    ],
)
def test_what_is_no_list_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ListError, match=problem):
        read_list(text)


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "wild*card?", "[set]", "ümlaut", "日本"])
def test_names_are_names_and_no_patterns(name: str) -> None:
    found = tables(json.dumps({name: entry()}))
    reader = PriceReader()
    table = PriceTable(reader.prices(found, ()))
    assert reader.problems == []
    assert table.tariff("u", [name]) is not None
    assert table.tariff("u", [name + "x"]) is None
    assert table.tariff("u", ["wildXcardX", "s"]) is None
