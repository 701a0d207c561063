"""Settings: how values are written, what is refused, and that each wrong one is told."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_address
from itertools import pairwise

import pytest

from flowserver.config.addresses import Address, Url
from flowserver.config.entries import Origin
from flowserver.config.environment import load, unknown_settings
from flowserver.config.errors import ConfigError
from flowserver.config.parsers import (
    AUTO,
    parse_address,
    parse_addresses,
    parse_auth,
    parse_count,
    parse_hosts,
    parse_listen,
    parse_networks,
    parse_origins,
    parse_size,
    parse_time,
    parse_url,
)
from flowserver.config.settings import SETTINGS, Config
from flowserver.config.sweep import sweep_interval


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *[("0", 0), ("16384", 16384), ("16_384", 16384), ("64k", 65536), ("64K", 65536), ("64 KiB", 65536)],
        *[("64KB", 65536), ("1.5k", 1536), ("1m", 1 << 20), ("1MB", 1 << 20), ("0.5g", 1 << 29), ("2g", 2 << 30)],
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "k", "-1", "1.5", "0.3k", "64x", "1e3", "0x10", "1 2", "1,5k", "_1", "1__0", "1k5"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


OUT_OF_BOUNDS = [
    ("FLOW_UPSTREAM_RCVBUF", "2g", "a size from 1 to 1g"),
    ("FLOW_UPSTREAM_RCVBUF", "18446744073709551616", "a size from 1 to 1g"),
    ("FLOW_NOTSENT_LOWAT", "4g", "a size from 1 to 1g"),
    ("FLOW_HIGH_WATER", "1025m", "a size from 1 to 1g"),
    ("FLOW_LOW_WATER", "0", "a size from 1 to 1g"),
    ("FLOW_DRAIN_TARGET", "9ms", "a time from 10ms to 60s"),
    ("FLOW_DRAIN_TARGET", "2m", "a time from 10ms to 60s"),
    ("FLOW_MAX_EVENT", "99g", "a size from 1 to 1g"),
    ("FLOW_MAX_BODY", "0", "a size from 1 to 1024g"),
    ("FLOW_MAX_BODY", "0k", "a size from 1 to 1024g"),
    ("FLOW_REPLAY_BODY", "1025g", "a size from 0 to 1024g"),
    ("FLOW_H2_STREAM_WINDOW", "2g", "a size from 65535 to 2147483647"),
    ("FLOW_UPSTREAM_H2_STREAM_WINDOW", "1k", "a size from 65535 to 2147483647"),
    ("FLOW_MAX_CONNECTIONS", "18446744073709551616", "a whole number from 1 to 1000000000"),
    ("FLOW_H2_MAX_STREAMS", "4294967296", "a whole number from 1 to 1000000000"),
    ("FLOW_LEASE_TOKENS", "9" * 30, "a whole number from 1 to 1000000000"),
    ("FLOW_DRAIN_TIMEOUT", "8761h", "a time from 0 to 8760h"),
    ("FLOW_IDLE_TIMEOUT", "9" * 400, "a time such as"),
    ("FLOW_LISTEN", "127.0.0.1:" + "9" * 5000, "an address such as"),
]


@pytest.mark.parametrize(("name", "value", "expected"), OUT_OF_BOUNDS)
def test_what_is_out_of_bounds_is_told_with_setting_value_and_bounds(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({name: value})
    [problem] = caught.value.problems
    assert problem.startswith(f"{name}: invalid value {value[:100]!r}: expected {expected}")


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@api.test", "https//user:hunter2@api.test", "https://user:hunter2#@api.test"]
)
def test_credentials_in_a_url_are_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="FLOW_UPSTREAM: invalid value: expected a base URL") as caught:
        load({"FLOW_UPSTREAM": url})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOW_UPSTREAM_RCVBUF", "1g"),
        ("FLOW_NOTSENT_LOWAT", "1g"),
        ("FLOW_MAX_BODY", "1"),
        ("FLOW_MAX_BODY", "1024g"),
        ("FLOW_REPLAY_BODY", "0"),
        ("FLOW_H2_STREAM_WINDOW", "2147483647"),
        ("FLOW_MAX_CONNECTIONS", "1000000000"),
        ("FLOW_TOTAL_TIMEOUT", "8760h"),
    ],
)
def test_what_is_just_within_bounds_is_taken(name: str, value: str) -> None:
    load({name: value})


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", set()),
        ("Metrics.Example., flow", {"metrics.example", "flow"}),
        ("*.svc.cluster.local,*", {"*.svc.cluster.local", "*"}),
        ("10.0.0.1,[::1],fe80::1", {"10.0.0.1", "::1", "fe80::1"}),
        ("my_service", {"my_service"}),
    ],
)
def test_names_of_hosts(text: str, hosts: set[str]) -> None:
    assert parse_hosts(text) == hosts


@pytest.mark.parametrize("text", ["metrics:9090", "http://metrics", "a b", "*metrics", "a.*", "-a", "b\N{SNOWMAN}"])
def test_what_are_no_names_of_hosts(text: str) -> None:
    with pytest.raises(ValueError, match="host names without ports"):
        parse_hosts(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("500ms", 0.5), ("30s", 30), ("30", 30), ("1.5s", 1.5), ("5m", 300), ("1h", 3600), ("1d", 86400)],
        *[("1m30s", 90), ("1h 30m", 5400), ("5 min", 300), ("30sec", 30), ("1s500ms", 1.5), ("1M30S", 90)],
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "30s1m", "1m1m", "1m30", "1w", "1m-30s", "1m,30s", "inf", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.0", "x", "", "\N{SUPERSCRIPT TWO}", "1000000001", "9" * 5000])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(ValueError):
        parse_count(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        (":0", Address("", 0)),
        ("[::1]:80", Address("::1", 80)),
        ("localhost:1", Address("localhost", 1)),
        ("unix:1", Address("unix", 1)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == parse_listen(text) == address
    assert parse_addresses(f"{text}, {text},") == (address, address)


def test_an_address_is_shown_as_it_is_written() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"
    assert str(Address("127.0.0.1", 80)) == "127.0.0.1:80"
    assert str(parse_listen(" unix:/run/flow server.sock ")) == "unix:/run/flow server.sock"


def test_addresses_of_both_kinds_go_together() -> None:
    assert parse_addresses("unix:/run/a.sock, :80") == (Address("", 0, "/run/a.sock"), Address("", 80))


@pytest.mark.parametrize("text", ["unix:", "unix:run/a.sock", "unix:/run/", "unix:/a\nb", f"unix:/{'x' * 107}"])
def test_what_is_no_unix_socket(text: str) -> None:
    with pytest.raises(ValueError, match="Unix socket"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http+unix://%2Frun%2FvLLM.sock", Url("http", "localhost", 80, "", "/run/vLLM.sock")),
        ("http+unix://%2Frun%2fx.sock/v1/", Url("http", "localhost", 80, "/v1", "/run/x.sock")),
        ("HTTP+unix://%2Frun%2Fa%20b%3A1.sock/", Url("http", "localhost", 80, "", "/run/a b:1.sock")),
    ],
)
def test_base_urls_by_a_unix_socket(text: str, url: Url) -> None:
    assert parse_url(text) == url
    assert (url.authority, url.place) == ("localhost", url.socket)
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "http+unix:///run/vllm.sock",
        "unix:/run/vllm.sock",
        "unix:///run/vllm.sock",
        "http+unix://run",
        "http+unix://%2Frun%2Fx.sock:80",
        "http+unix://%2Frun%2F",
        "http+unix://%2Frun%00x",
        "http+unix://%2Frun%ff",
        f"http+unix://%2F{'x' * 107}",
    ],
)
def test_what_is_no_base_url_by_a_unix_socket(text: str) -> None:
    with pytest.raises(ValueError, match=r"http\+unix://%2Frun%2Fvllm\.sock/v1"):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["11.0.0.0", "::a00:1", "9.255.255.255"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.0"]),
        ("2001:db8::/32, 0.0.0.0/0", ["2001:db8::1", "1.2.3.4"], ["2001:db9::1"]),
        ("", [], ["10.0.0.1"]),
    ],
)
def test_networks(text: str, inside: list[str], outside: list[str]) -> None:
    networks = parse_networks(text)
    assert all(ip_address(address) in networks for address in inside)
    assert not any(ip_address(address) in networks for address in outside)
    assert None not in networks
    assert bool(networks) == bool(inside)
    assert None in parse_networks(f"{text},UNIX")


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.test", "10.0.0.0/33", "*", "10.0.0.0-10.0.0.9"])
def test_what_are_no_networks(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected networks such as 10\.0\.0\.0/8"):
        parse_networks(text)


@pytest.mark.parametrize("text", ["", "8080", "host:", "host:x", "host:65536", "::1:80", "host:-1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "url", "authority"),
    [
        ("https://api.openai.com", Url("https", "api.openai.com", 443, ""), "api.openai.com"),
        ("https://api.openai.com/v1/", Url("https", "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("http://127.0.0.1:8000", Url("http", "127.0.0.1", 8000, ""), "127.0.0.1:8000"),
        ("http://[::1]:8000/x", Url("http", "::1", 8000, "/x"), "[::1]:8000"),
        ("http://x.test/%6fpen%61i/v1//", Url("http", "x.test", 80, "/openai/v1"), ""),
        ("http://API.Test:80", Url("http", "api.test", 80, ""), "api.test"),
        ("http://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", Url("http", "xn--bcher-kva.test", 80, ""), ""),
    ],
)
def test_base_urls(text: str, url: Url, authority: str) -> None:
    assert parse_url(text) == url
    assert parse_url(text).authority == (authority or url.host)


@pytest.mark.parametrize("url", ["https://api.test.", "https://api.test.:443/v1"])
def test_a_final_dot_is_no_part_of_the_name_that_tls_verifies(url: str) -> None:
    parsed = parse_url(url)
    assert (parsed.host, parsed.authority, parsed.server_name) == ("api.test.", "api.test.", "api.test")


@pytest.mark.parametrize(
    "text",
    [
        "api.openai.com",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x:y",
        "http://user:secret@x",
        "http://x/?key=1",
        "http://x/#f",
        "http://x/a b",
        "http://x\x7f.test/",
        "http://x/\N{LATIN SMALL LETTER E WITH ACUTE}",
        "http://[::1",
        "http://x/v1/..",
        "http://x/v1/%2e%2e",
        "http://x/a%2Fb",
        "http://x/a//b",
        f"http://{'x' * 64}.test",  # no name has a label that long: looking it up would fail
    ],
)
def test_what_is_no_base_url(text: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        parse_url(text)


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("*", ("*",)),
        ("https://app.example", ("https://app.example",)),
        ("https://App.Example:443, http://localhost:3000,", ("https://app.example", "http://localhost:3000")),
        ("http://[::1]:80", ("http://[::1]",)),
        ("chrome-extension://abcdef", ("chrome-extension://abcdef",)),
    ],
)
def test_origins(text: str, origins: tuple[str, ...]) -> None:
    assert parse_origins(text) == origins


@pytest.mark.parametrize("text", ["app.example", "https://app.example/", "https://*.example", "null", "*,https://a.b"])
def test_what_is_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match=r"https://app\.example\.com"):
        parse_origins(text)


def test_how_keys_are_taken() -> None:
    assert parse_auth(" X-API-Key ") == "x-api-key"
    with pytest.raises(ValueError, match="bearer, x-api-key, api-key, x-goog-api-key, aws-sigv4"):
        parse_auth("basic")


def test_the_defaults_make_a_configuration() -> None:
    config = load({})
    assert config.listen == (Address("127.0.0.1", 8080),)
    assert config.upstream is None
    assert config.total_timeout is None
    assert config.low_water is config.high_water is AUTO
    assert config.upstream_max_age == 600


@pytest.mark.parametrize("text", ["0", "off", "0s"])
def test_the_largest_age_of_a_connection_can_be_none(text: str) -> None:
    assert load({"FLOW_UPSTREAM_MAX_AGE": text}).upstream_max_age is None


def test_every_setting_says_what_it_is() -> None:
    assert sorted(entry.field for entry in SETTINGS) == sorted(field.name for field in fields(Config) if field.metadata)
    for entry in SETTINGS:
        assert entry.doc.endswith("."), entry.env
        assert len(entry.doc.split(". ")) <= 2, entry.env
        assert entry.kind.parse(entry.default) == getattr(load({}), entry.field), entry.env
        assert entry.summary
    groups = [entry.group for entry in SETTINGS]
    assert all(a == b or b not in groups[: number + 1] for number, (a, b) in enumerate(pairwise(groups)))


def test_secrets_never_show() -> None:
    for entry in SETTINGS:
        if entry.secret:
            assert entry.field not in repr(load({}))


def test_a_message_says_what_else_is_expected() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_IDLE_TIMEOUT": "soon", "FLOW_CONNECT_TIMEOUT": "0", "FLOW_LISTEN": ","})
    assert caught.value.problems == [
        "FLOW_LISTEN: invalid value ',': expected at least one address",
        "FLOW_CONNECT_TIMEOUT: invalid value '0': expected a time above 0",
        "FLOW_IDLE_TIMEOUT: invalid value 'soon': expected a time such as 500ms, 30s or 5m, or off",
    ]


@pytest.mark.parametrize("off", ["0", "off", "none", "no", "false", "0s", "0.0", " OFF "])
def test_what_can_be_switched_off(off: str) -> None:
    config = load({"FLOW_IDLE_TIMEOUT": off, "FLOW_ADMIN_LISTEN": "off", "FLOW_NOTSENT_LOWAT": "0"})
    assert (config.idle_timeout, config.admin_listen, config.notsent_lowat) == (None, None, None)


def test_what_a_half_close_means() -> None:
    assert load({}).half_close == "leave"
    assert load({"FLOW_HALF_CLOSE": " Serve "}).half_close == "serve"
    with pytest.raises(ConfigError, match="FLOW_HALF_CLOSE: invalid value 'off': expected leave or serve"):
        load({"FLOW_HALF_CLOSE": "off"})


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_HIGH_WATER": "lots", "FLOW_UPSTREAM": "x", "FLOW_LOG_LEVEL": "loud", "FLOW_MAX_CONNECTIONS": "0"})
    told = [problem.split(":")[0] for problem in caught.value.problems]
    assert told == ["FLOW_UPSTREAM", "FLOW_MAX_CONNECTIONS", "FLOW_HIGH_WATER", "FLOW_LOG_LEVEL"]
    assert "'lots'" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://127.0.0.1:6379/0",
        "rediss://user:secret@redis.example:6380",
        "redis+cluster://[::1]:7000",
        "rediss+cluster://redis.example",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_urls_of_redis(url: str) -> None:
    config = load({"FLOW_REDIS_URL": f" {url} "})
    assert config.redis_url == url
    assert "secret" not in repr(config)


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "http://u:secret@x", "redis://", "redis://u:secret@x:y", "unix://"])
def test_what_is_no_url_of_redis_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="FLOW_REDIS_URL") as caught:
        load({"FLOW_REDIS_URL": url})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "k\N{LATIN SMALL LETTER E WITH ACUTE}y", "k\ney"])
def test_a_key_that_will_not_do_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_UPSTREAM_API_KEY": key})
    assert "FLOW_UPSTREAM_API_KEY" in str(caught.value)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"FLOW_LOW_WATER": "16k", "FLOW_HIGH_WATER": "16k"}, "FLOW_LOW_WATER"),
        ({"FLOW_LOW_WATER": "0"}, "FLOW_LOW_WATER"),
        ({"FLOW_LISTEN": ","}, "FLOW_LISTEN"),
        ({"FLOW_CONNECT_TIMEOUT": "0"}, "FLOW_CONNECT_TIMEOUT"),
        ({"FLOW_REDIS_TIMEOUT": "0"}, "FLOW_REDIS_TIMEOUT"),
        ({"FLOW_LEASE_TIME": "500ms"}, "FLOW_LEASE_TIME"),
        ({"FLOW_LIMITS_POLICY": "ajar"}, "FLOW_LIMITS_POLICY"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(settings: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load(settings)


def test_a_misspelt_setting_is_told_with_a_guess() -> None:
    assert unknown_settings({"FLOW_LISTENS": "x", "FLOW_LISTEN": "x", "PATH": "x"}) == [
        "FLOW_LISTENS: unknown setting; did you mean FLOW_LISTEN?"
    ]
    assert unknown_settings({"FLOW_ZZZZZ": "x"}) == ["FLOW_ZZZZZ: unknown setting"]


def test_short_deadlines_are_looked_at_more_often() -> None:
    assert sweep_interval(load({})) == 1.0
    assert sweep_interval(load({"FLOW_IDLE_TIMEOUT": "1ms"})) == pytest.approx(0.02)
    assert sweep_interval(load({}), None, 0.2, 30.0) == pytest.approx(0.05)
    swept = [entry.env for entry in SETTINGS if entry.swept]
    assert {"FLOW_IDLE_TIMEOUT", "FLOW_UPSTREAM_MAX_AGE", "FLOW_HEARTBEAT"} <= set(swept)
    for name in swept:
        if name != "FLOW_LEASE_TIME":  # no shorter than a second
            assert sweep_interval(load({name: "400ms"})) == pytest.approx(0.1), name


@pytest.mark.parametrize("empty", ["", " ", "\r"])
def test_an_empty_value_is_the_default(empty: str) -> None:
    emptied = {entry.env: empty for entry in SETTINGS}
    assert load(emptied) == load({})
    assert load({"FLOW_LOG_LEVEL": "debug"}, {"FLOW_LOG_LEVEL": empty}) == load({})


@pytest.mark.parametrize(
    ("text", "value"),
    [*((text, True) for text in ("on", "true", "Yes", "1")), *((text, False) for text in ("off", "FALSE", "no", "0"))],
)
def test_switches_in_other_words(text: str, value: bool) -> None:
    assert load({"FLOW_REUSE_PORT": text}).reuse_port is value


def test_a_warning_may_be_cut_short() -> None:
    assert [load({"FLOW_LOG_LEVEL": text}).log_level for text in ("warn", "WARNING", "err")] == [
        *("warning", "warning", "error")
    ]


@pytest.mark.parametrize("text", ["drian", "Drained", "cancle"])
def test_a_misspelt_word_is_told_with_a_guess(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected cancel or drain; did you mean (cancel|drain)\?"):
        load({"FLOW_DISCONNECT": text})


def test_a_flag_stands_in_place_of_the_environment() -> None:
    environ = {
        "FLOW_LOG_LEVEL": "debug",
        "FLOW_HIGH_WATER": "9k",
        "FLOW_UPSTREAM_API_KEY": "sk-1",
        "REDIS": "redis://r",
    }
    config = load(environ, {"FLOW_HIGH_WATER": "64k", "FLOW_REDIS_URL": "env:REDIS"} | {"FLOW_LOW_WATER": ""})
    assert (config.log_level, config.high_water) == ("debug", 65536)
    given = {each.name: (each.shown, each.origin) for each in config.given if each.origin is not Origin.DEFAULT}
    assert given == {
        "FLOW_UPSTREAM_API_KEY": ("(set)", Origin.ENVIRONMENT),
        "FLOW_HIGH_WATER": ("64k", Origin.FLAG),
        "FLOW_REDIS_URL": ("env:REDIS", Origin.FLAG),
        "FLOW_LOG_LEVEL": ("debug", Origin.ENVIRONMENT),
    }


def test_a_wrong_flag_is_told_as_such() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"FLOW_HIGH_WATER": "9k"}, {"FLOW_HIGH_WATER": "lots"})
    assert caught.value.problems == [
        "--high-water: invalid value 'lots': expected a size such as 65536, 64k or 1m, or auto"
    ]


@pytest.mark.parametrize("text", ["'64k'", '"64k"', "`64k`", "\u201c64k\u201d"])
def test_quotes_around_a_value_are_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"FLOW_HIGH_WATER: invalid value .*: the quotes are part of the value"):
        load({"FLOW_HIGH_WATER": text})


@pytest.mark.parametrize("text", ["$KEY", "${KEY}", "$(KEY)", "${KEY:-sk-1}"])
def test_a_variable_in_place_of_its_value_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="a variable in it was not replaced by its value") as caught:
        load({"FLOW_UPSTREAM_API_KEY": text})
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("FLOW_CONFIG", "$HOME/flow.toml"), ("FLOW_REDIS_URL", "redis://:$REDIS_PASSWORD@127.0.0.1")],
        ("FLOW_UPSTREAM", "http://${HOST}:80"),
    ],
)
def test_a_variable_within_a_value_is_told(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: .*a variable in it was not replaced"):
        load({name: text})


@pytest.mark.parametrize("key", ["sk-$ecret", "pa$$word", "$2b$12$abc", "a{b}"])
def test_a_dollar_within_a_key_is_no_variable(key: str) -> None:
    assert load({"FLOW_UPSTREAM_API_KEY": key}).upstream_api_key == key
