"""What is said of traces, and what is wrong with it."""

from __future__ import annotations

import pytest

from flowserver.config.environment import load
from flowserver.config.errors import ConfigError

ON = {"FLOW_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def problems(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load({**ON, **environ})
    return caught.value.problems


def test_nothing_is_traced_by_default() -> None:
    config = load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_RESOURCE_ATTRIBUTES": "nonsense"})
    assert config.otlp_endpoint is None
    assert config.resource == ()


def test_all_that_can_be_said() -> None:
    config = load(
        {
            **ON,
            "FLOW_OTLP_HEADERS": "Authorization=Bearer%20a%3Db, x-scope=1,",
            "FLOW_TRACE_SAMPLE": ".25",
            "OTEL_SERVICE_NAME": " edge ",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=other, a=%C3%A4,,b=",
        }
    )
    assert config.otlp_headers == (("authorization", "Bearer a=b"), ("x-scope", "1"))
    assert config.trace_sample == 0.25
    assert config.resource == (("service.name", "edge"), ("a", "ä"), ("b", ""))
    assert "Bearer" not in repr(config)


@pytest.mark.parametrize("value", ["2", "-1", "1.01", "ten", "1e-3", "0.5%"])
def test_a_ratio_is_from_0_to_1(value: str) -> None:
    assert problems(FLOW_TRACE_SAMPLE=value) == [
        f"FLOW_TRACE_SAMPLE: invalid value {value!r}: expected a number from 0 to 1, such as 0.05"
    ]


@pytest.mark.parametrize(("value", "ratio"), [("0", 0.0), ("1", 1.0), (" 0.5 ", 0.5), ("1.0", 1.0)])
def test_sane_ratios(value: str, ratio: float) -> None:
    assert load({**ON, "FLOW_TRACE_SAMPLE": value}).trace_sample == ratio


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("secret", "expected names and values such as authorization=Bearer%20KEY,x-scope-orgid=1"),
        ("=secret", "expected names and values such as authorization=Bearer%20KEY,x-scope-orgid=1"),
        ("a b=secret", "the field 'a b' has a name or value that HTTP can't carry"),
        ("a=secret%0Ab", "the field 'a' has a name or value that HTTP can't carry"),
        ("a=%ff", "the value of 'a' is not percent-encoded UTF-8"),
        ("Host=secret", "the field 'Host' is set by the relay; remove it"),
    ],
)
def test_fields_that_can_not_be_sent(value: str, why: str) -> None:
    assert problems(FLOW_OTLP_HEADERS=value) == [f"FLOW_OTLP_HEADERS: invalid value: {why}"]


def test_a_resource_that_can_not_be_read() -> None:
    [problem] = problems(OTEL_RESOURCE_ATTRIBUTES="nonsense")
    assert problem.startswith("OTEL_RESOURCE_ATTRIBUTES: expected names and values such as ")


def test_an_endpoint_that_is_none() -> None:
    [problem] = problems(FLOW_OTLP_ENDPOINT="127.0.0.1:4317")
    assert problem.startswith("FLOW_OTLP_ENDPOINT: invalid value '127.0.0.1:4317': expected a base URL")
