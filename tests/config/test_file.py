"""The file of providers and routes: what it says, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowserver.config.environment import load
from flowserver.config.errors import ConfigError
from flowserver.config.file import load_topology
from flowserver.config.topology import RouteSpec, Topology
from flowserver.dialects.base import Auth

SECRET = "sk-very-secret"
ENVIRON = {"KEY": SECRET}
ONE = '[[upstreams]]\nname = "a"\nurl = "https://a.test"\n'


def read(folder: Path, text: str, **environ: str) -> Topology:
    path = folder / "flow.toml"
    path.write_text(text, encoding="utf-8")
    return load_topology(load({"FLOW_CONFIG": str(path), **environ}), ENVIRON)


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    found = [problem.removeprefix(f"{folder / 'flow.toml'}: ") for problem in caught.value.problems]
    assert SECRET not in "".join(found)
    return found


def test_without_a_file_one_provider_serves_all() -> None:
    topology = load_topology(load({"FLOW_UPSTREAM": "https://api.test/v1", "FLOW_UPSTREAM_API_KEY": SECRET}), {})
    [spec] = topology.upstreams
    assert (spec.name, str(spec.url), spec.api_key) == ("api.test", "https://api.test/v1", SECRET)
    assert topology.routes == (RouteSpec("*", (), (("api.test",),), "cancel"),)


@pytest.mark.parametrize(
    ("line", "own", "signs"),
    [
        ('url = "https://bedrock-runtime.us-east-1.amazonaws.com"', Auth.AWS_SIGV4, True),
        ('url = "https://bedrock-runtime.us-east-1.amazonaws.com"\napi_key = "env:KEY"', Auth.AWS_SIGV4, False),
        ('url = "https://bedrock-runtime.us-east-1.amazonaws.com"\nauth = "bearer"', Auth.BEARER, False),
        ('url = "https://proxy.test"\nauth = "aws-sigv4"', Auth.AWS_SIGV4, True),
        ('url = "https://proxy.test"\ndialect = "azure"', Auth.API_KEY, False),
        ('url = "https://proxy.test"\ndialect = "azure"\nauth = "bearer"', Auth.BEARER, False),
        ('url = "https://proxy.test"', None, False),
    ],
)
def test_how_a_provider_takes_its_key(tmp_path: Path, line: str, own: Auth | None, signs: bool) -> None:
    [spec] = read(tmp_path, f'[[upstreams]]\nname = "a"\n{line}\n').upstreams
    assert (spec.own_auth, spec.signs) == (own, signs)


def test_a_signature_and_a_key_exclude_each_other(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, ONE + 'auth = "aws-sigv4"\napi_key = "env:KEY"\n')
    assert problem.startswith("upstreams[0].auth: ")
    environ = {"FLOW_UPSTREAM": "https://a.test", "FLOW_UPSTREAM_AUTH": "aws-sigv4", "FLOW_UPSTREAM_API_KEY": SECRET}
    with pytest.raises(ConfigError, match="FLOW_UPSTREAM_AUTH"):
        load_topology(load(environ), {})
    [problem] = problems(tmp_path, ONE, FLOW_UPSTREAM_AUTH="bearer")
    assert problem.startswith("FLOW_UPSTREAM_AUTH: ")


def test_without_a_provider_nothing_works() -> None:
    with pytest.raises(ConfigError, match="FLOW_UPSTREAM"):
        load_topology(load({}), {})


def test_all_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(f"{SECRET}\n")
    topology = read(
        tmp_path,
        """
        [[upstreams]]
        name = "a"
        url = "https://a.test/v1/"
        api_key = "file:a.key"
        protocol = "h2"
        headers = { "X-Team" = "search" }
        models = { "gpt-4o" = "prod" }
        weight = 2
        max_connections = 5
        max_concurrent = 7
        queue = 0
        queue_timeout = "500ms"
        ca = "ca.pem"
        verify = false
        connect_timeout = 1
        first_byte_timeout = "10m"
        idle_timeout = 2.5
        keepalive = "4s"
        max_age = "1h"
        [[upstreams]]
        name = "b"
        url = "http://b.test:8000"
        api_key = "env:KEY"
        [[routes]]
        path = "/v1/*"
        models = ["gpt-*"]
        upstreams = [["a", "b"], "b"]
        """,
    )
    a, b = topology.upstreams
    assert (a.api_key, b.api_key) == (SECRET, SECRET)
    assert (a.protocol, a.headers, a.models) == ("h2", (("X-Team", "search"),), (("gpt-4o", "prod"),))
    assert (a.weight, a.max_connections, a.max_concurrent, a.queue, a.queue_timeout) == (2, 5, 7, 0, 0.5)
    assert (a.ca, a.verify) == (str(tmp_path / "ca.pem"), False)
    assert (a.connect_timeout, a.first_byte_timeout, a.idle_timeout, a.keepalive) == (1, 600, 2.5, 4)
    assert (b.verify, b.max_concurrent, b.keepalive, b.ask_usage) == (True, None, 30, True)
    assert (a.max_age, b.max_age) == (3600, 600)
    assert {600, 2.5, 4, 3600} <= set(topology.swept_times)
    assert topology.routes == (RouteSpec("/v1/*", ("gpt-*",), (("a", "b"), ("b",)), "cancel"),)


# What the environment can switch off, and what a provider says in its place.
CAN_BE_OFF = {
    "first_byte_timeout": "FLOW_FIRST_BYTE_TIMEOUT",
    "idle_timeout": "FLOW_IDLE_TIMEOUT",
    "keepalive": "FLOW_UPSTREAM_KEEPALIVE",
    "max_age": "FLOW_UPSTREAM_MAX_AGE",
}
CAN_NOT = ("queue_timeout", "connect_timeout", "weight", "max_connections", "max_concurrent")


@pytest.mark.parametrize("key", CAN_BE_OFF)
def test_a_provider_s_time_stands_in_place_of_the_environment_s(tmp_path: Path, key: str) -> None:
    environ = {CAN_BE_OFF[key]: "7s"}
    assert getattr(read(tmp_path, ONE, **environ).upstreams[0], key) == 7
    assert getattr(read(tmp_path, f"{ONE}{key} = 3", **environ).upstreams[0], key) == 3
    for off in ("0", "0.0", '"0"', '"0s"', '"off"', '"OFF"', '"none"'):
        assert getattr(read(tmp_path, f"{ONE}{key} = {off}", **environ).upstreams[0], key) is None
    environ = {CAN_BE_OFF[key]: "off"}
    assert getattr(read(tmp_path, ONE, **environ).upstreams[0], key) is None
    assert getattr(read(tmp_path, f"{ONE}{key} = 3", **environ).upstreams[0], key) == 3


@pytest.mark.parametrize("key", CAN_NOT)
@pytest.mark.parametrize("off", ["0", '"off"', '""', "false"])
def test_what_can_t_be_off(tmp_path: Path, key: str, off: str) -> None:
    [problem] = problems(tmp_path, f"{ONE}{key} = {off}")
    assert problem.startswith(f"upstreams[0].{key}: invalid value ")


def test_a_provider_has_the_environment_s_values_for_what_it_leaves_out(tmp_path: Path) -> None:
    environ = {"FLOW_CONNECT_TIMEOUT": "2s", "FLOW_ASK_USAGE": "off", "FLOW_DISCONNECT": "drain"}
    for topology in (
        read(tmp_path, ONE, **environ),
        read(tmp_path, ONE + "[[routes]]\nupstreams = ['a']", **environ),
        load_topology(load({"FLOW_UPSTREAM": "https://a.test", **environ}), {}),
    ):
        [spec], [route] = topology.upstreams, topology.routes
        assert (spec.connect_timeout, spec.ask_usage, route.disconnect) == (2, False, "drain")
    text = ONE + "connect_timeout = 3\nask_usage = true\n[[routes]]\nupstreams = ['a']\ndisconnect = 'cancel'"
    [spec], [route] = read(tmp_path, text, **environ).upstreams, read(tmp_path, text, **environ).routes
    assert (spec.connect_timeout, spec.ask_usage, route.disconnect) == (3, True, "cancel")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("weight = 0", "weight: invalid value 0: expected a whole number from 1 to 1000000000"),
        ("weight = true", "weight: invalid value true: expected a whole number from 1 to 1000000000"),
        (
            "idle_timeout = 'soon'",
            "idle_timeout: invalid value 'soon': expected a time such as 500ms, 30s or 5m, or off",
        ),
        ("idle_timeout = -1", "idle_timeout: invalid value -1: expected a time from 0 to 8760h, a year"),
        ("connect_timeout = 'off'", "connect_timeout: invalid value 'off': expected a time such as 500ms, 30s or 5m"),
        ("connect_timeout = '0s'", "connect_timeout: invalid value '0s': expected a time above 0"),
        ("connect_timeout = []", "connect_timeout: invalid value: expected a time such as 30 or '500ms'"),
        (
            "api_key = 'sk-very-secret'",
            "api_key: invalid value: expected 'env:NAME', 'file:PATH' or 'credential:NAME', not the key itself",
        ),
        ("api_key = 'env:NONE'", "api_key: the variable NONE is not set; set it, or name another one"),
        ("ca = 'a@b\\u0000'", "ca: invalid value: expected text without control characters"),
    ],
)
def test_a_message_says_where_what_and_what_else(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "flow.toml"
    text = f"{ONE}{line}".replace("'", '"')
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.problems == [f"{path}: upstreams[0].{message}"]


def test_a_provider_knows_where_it_comes_from(tmp_path: Path) -> None:
    assert read(tmp_path, ONE).upstreams[0].place == f"{tmp_path / 'flow.toml'}: upstreams[0]"
    assert load_topology(load({"FLOW_UPSTREAM": "https://a.test"}), {}).upstreams[0].place == "FLOW_UPSTREAM"


def test_without_routes_all_providers_serve_in_their_order(tmp_path: Path) -> None:
    topology = read(tmp_path, ONE + "[[upstreams]]\nname = 'b'\nurl = 'https://b.test'")
    assert topology.routes == (RouteSpec("*", (), (("a",), ("b",)), "cancel"),)


def test_the_example_is_right() -> None:
    path = Path(__file__).parent.parent.parent / "flowserver.example.toml"
    environ = {"OPENAI_API_KEY": SECRET, "AZURE_API_KEY": SECRET}
    topology = load_topology(load({"FLOW_CONFIG": str(path)}), environ)
    assert [spec.name for spec in topology.upstreams] == ["openai", "azure", "local"]
    assert topology.tenants == ()


def test_the_tenants_of_the_example_are_right(tmp_path: Path) -> None:
    text = (Path(__file__).parent.parent.parent / "flowserver.example.toml").read_text()
    examples = text[text.index("# [[tenants]]") :].replace("\n# ", "\n").removeprefix("# ")
    found = read(tmp_path, ONE + examples)
    acme, batch = found.tenants
    assert [(row.models, row.price.input) for row in found.prices] == [(("gpt-4o", "gpt-4o-2*"), 2_500_000)]
    assert (acme.name, acme.limits.tokens_per_day, acme.user.requests_per_minute) == ("acme", 5_000_000, 20)
    assert [each.models for each in acme.model_limits] == [("gpt-4o", "gpt-4o-2*")]
    assert (batch.disabled, len(batch.keys)) == (True, 2)


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("nonsense = 1", "upstreams[0].nonsense"),
        ("weight = 0", "upstreams[0].weight"),
        ("weight = -1", "upstreams[0].weight"),
        ("weight = 1.5", "upstreams[0].weight"),
        ("weight = true", "upstreams[0].weight"),
        ("weight = 18446744073709551616", "upstreams[0].weight"),
        ("max_concurrent = 1000000001", "upstreams[0].max_concurrent"),
        ("queue = 18446744073709551616", "upstreams[0].queue"),
        ("keepalive = 18446744073709551616", "upstreams[0].keepalive"),
        ("idle_timeout = 1e300", "upstreams[0].idle_timeout"),
        ('ca = "a\\u0000b"', "upstreams[0].ca"),
        ("max_connections = 0", "upstreams[0].max_connections"),
        ("max_concurrent = 0", "upstreams[0].max_concurrent"),
        ("queue = -1", "upstreams[0].queue"),
        ('queue = "5"', "upstreams[0].queue"),
        ("queue_timeout = 0", "upstreams[0].queue_timeout"),
        ("keepalive = inf", "upstreams[0].keepalive"),
        ("keepalive = nan", "upstreams[0].keepalive"),
        ("max_age = -1", "upstreams[0].max_age"),
        ("max_age = false", "upstreams[0].max_age"),
        ('max_age = "never"', "upstreams[0].max_age"),
        ('idle_timeout = "soon"', "upstreams[0].idle_timeout"),
        ("connect_timeout = []", "upstreams[0].connect_timeout"),
        ('protocol = "h3"', "upstreams[0].protocol"),
        ('verify = "no"', "upstreams[0].verify"),
        ("ca = 1", "upstreams[0].ca"),
        ('api_key = "sk-very-secret"', "upstreams[0].api_key"),
        ('api_key = "env:MISSING"', "upstreams[0].api_key"),
        ('api_key = "env:"', "upstreams[0].api_key"),
        ('api_key = "file:missing.key"', "upstreams[0].api_key"),
        ('api_key = "file:."', "upstreams[0].api_key"),
        ('headers = "x"', "upstreams[0].headers"),
        ("headers = { x = 1 }", "upstreams[0].headers"),
        ('headers = { "x y" = "z" }', "upstreams[0].headers"),
        ('headers = { "x:y" = "z" }', "upstreams[0].headers"),
        ('headers = { x = "sk-very-secret\\r\\ny: z" }', "upstreams[0].headers"),
        ('headers = { x = "sk-very-secret\\u20ac" }', "upstreams[0].headers"),
        ('headers = { x = "a", X = "b" }', "upstreams[0].headers"),
        ('headers = { Host = "z" }', "upstreams[0].headers"),
        ('headers = { content-length = "1" }', "upstreams[0].headers"),
        ('headers = { Transfer-Encoding = "chunked" }', "upstreams[0].headers"),
        ('headers = { connection = "close" }', "upstreams[0].headers"),
        ("models = { x = 1 }", "upstreams[0].models"),
        ("[[routes]]\nupstreams = ['c']", "routes[0].upstreams"),
        ("[[routes]]\nupstreams = [1]", "routes[0].upstreams"),
        ("[[routes]]\nupstreams = []", "routes[0].upstreams"),
        ("[[routes]]\nupstreams = [[]]", "routes[0].upstreams"),
        ("[[routes]]\nupstreams = 'a'", "routes[0].upstreams"),
        ("[[routes]]\nupstreams = ['a']\n[[routes]]", "routes[1].upstreams"),
        ("[[routes]]\nupstreams = ['a']\npath = ''", "routes[0].path"),
        ("[[routes]]\nupstreams = ['a']\npath = 1", "routes[0].path"),
        ("[[routes]]\nupstreams = ['a']\npath = 'v1/*'", "routes[0].path"),
        ("[[routes]]\nupstreams = ['a']\nmax_tokens = 18446744073709551616", "routes[0].max_tokens"),
        ("[[routes]]\nupstreams = ['a']\nopen = true", "routes[0].open"),
        ("[[routes]]\nupstreams = [['a', 'a']]\naffinity = 'client'", "routes[0].affinity"),
        ("[[routes]]\nupstreams = [['a', 'a']]\naffinity = true", "routes[0].affinity"),
        ("[[routes]]\nupstreams = ['a', ['a']]\naffinity = 'session'", "routes[0].affinity"),
        ("[[routes]]\nupstreams = ['a']\nmodels = 'x'", "routes[0].models"),
        ("[[routes]]\nupstreams = ['a']\nmodels = [1]", "routes[0].models"),
        ("[[routes]]\nupstreams = ['a']\nnonsense = 1", "routes[0].nonsense"),
        ("[routes]\nupstreams = ['a']", "routes"),
        ("[other]\nx = 1", "other"),
        ("[[upstreams]]\nname = 'b'", "upstreams[1].url"),
        ("[[upstreams]]\nurl = 'http://b.test'", "upstreams[1].name"),
        ("[[upstreams]]\nname = 'b'\nurl = 'ftp://b.test'", "upstreams[1].url"),
        ("[[upstreams]]\nname = ''\nurl = 'http://b.test'", "upstreams[1].name"),
        ("[[upstreams]]\nname = 'a'\nurl = 'http://b.test'", "upstreams"),
    ],
)
def test_each_mistake_is_told_with_its_place(tmp_path: Path, line: str, place: str) -> None:
    [problem] = problems(tmp_path, ONE + line)
    assert problem.startswith(f"{place}: ")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = ONE + "weight = 0\nqueue = -1\n[[routes]]\nupstreams = ['c', 'a']"
    found = [problem.split(":")[0] for problem in problems(tmp_path, text)]
    assert found == ["upstreams[0].weight", "upstreams[0].queue", "routes[0].upstreams"]


def test_a_file_that_can_t_be_used(tmp_path: Path) -> None:
    assert problems(tmp_path, "[[upstreams")[0]
    assert problems(tmp_path, "") == ["upstreams: expected at least one [[upstreams]] table"]
    assert problems(tmp_path, "upstreams = 3")[0].startswith("upstreams: ")
    assert problems(tmp_path, "x = " + "[" * 100_000)
    assert problems(tmp_path, f"x = {'9' * 5000}")
    with pytest.raises(ConfigError, match="can't be read"):
        load_topology(load({"FLOW_CONFIG": str(tmp_path / "missing.toml")}), {})
    with pytest.raises(ConfigError, match="can't be read"):
        load_topology(load({"FLOW_CONFIG": str(tmp_path)}), {})


def test_tenants_are_told_with_the_rest(tmp_path: Path) -> None:
    text = ONE + "weight = 0\n[[tenants]]\nname = 'a'\n[[tenants]]\nname = 'b'\nkey_sha256 = 'sk-very-secret'"
    found = [problem.split(":")[0] for problem in problems(tmp_path, text)]
    assert found == ["upstreams[0].weight", "tenants[1].key_sha256"]
    [problem] = problems(tmp_path, ONE + "[tenants]\nname = 'a'")
    assert problem.startswith("tenants: ")
    assert [tenant.name for tenant in read(tmp_path, ONE + "[[tenants]]\nname = 'a'").tenants] == ["a"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOW_UPSTREAM", "https://b.test"),
        ("FLOW_UPSTREAM_API_KEY", SECRET),
        ("FLOW_UPSTREAM_DIALECT", "vllm"),
    ],
)
def test_the_file_and_what_belongs_to_the_one_provider_exclude_each_other(
    tmp_path: Path, name: str, value: str
) -> None:
    [problem] = problems(tmp_path, ONE, **{name: value})
    assert problem.startswith(f"{name}: only allowed without FLOW_CONFIG; ")
    read(tmp_path, ONE, **{name: ""})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    assert [spec.name for spec in read(tmp_path, "\ufeff" + ONE).upstreams] == ["a"]
    (tmp_path / "flow.toml").write_bytes(("\ufeff" + ONE).encode("utf-16-le"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_topology(load({"FLOW_CONFIG": str(tmp_path / "flow.toml")}), {})


def test_a_file_says_that_it_has_no_tenants(tmp_path: Path) -> None:
    tenant = "[[tenants]]\nname = 'a'\n"
    assert not read(tmp_path, ONE).open
    assert read(tmp_path, "open = true\n" + ONE).open
    assert not read(tmp_path, "open = false\n" + ONE + tenant).open
    for text in ("open = true\n" + ONE + tenant, "open = 1\n" + ONE, "open = 'yes'\n" + ONE):
        [problem] = problems(tmp_path, text)
        assert problem.startswith("open: ")


@pytest.mark.parametrize("pattern", ["/v1/*", "*", "*/models", "?v1", "[/]v1"])
def test_patterns_that_may_fit_a_path_are_taken(tmp_path: Path, pattern: str) -> None:
    text = f"[[routes]]\nupstreams = ['a']\npath = '{pattern}'\n[[tenants]]\nname = 'a'\npaths = ['{pattern}']"
    assert read(tmp_path, ONE + text).routes[0].path == pattern


def test_patterns_that_fit_no_path_are_told_with_the_remedy(tmp_path: Path) -> None:
    text = "[[routes]]\nupstreams = ['a']\npath = 'v1/*'\n[[tenants]]\nname = 'a'\npaths = ['/v1/a', 'v1/b']"
    route, tenant = problems(tmp_path, ONE + text)
    assert (route.partition(":")[0], tenant.partition(":")[0]) == ("routes[0].path", "tenants[0].paths")
    assert "'/v1/*'" in route
    assert "'/v1/b'" in tenant


def test_secrets_never_show(tmp_path: Path) -> None:
    text = ONE + 'api_key = "env:KEY"\nheaders = { api-key = "sk-very-secret" }'
    assert SECRET not in repr(read(tmp_path, text))
    assert SECRET not in repr(load({"FLOW_UPSTREAM": "https://a.test", "FLOW_UPSTREAM_API_KEY": SECRET}))
    for secret in (f"{SECRET} x", f"{SECRET}\u20ac"):
        (tmp_path / "bad.key").write_text(secret, encoding="utf-8")
        problems(tmp_path, ONE + 'api_key = "file:bad.key"')


def test_the_models_that_it_names(tmp_path: Path) -> None:
    text = """
        [[upstreams]]
        name = "a"
        url = "https://a.test"
        models = { "alias" = "real" }
        [[routes]]
        models = ["routed", "gpt-*", "o?", "x[12]"]
        upstreams = ["a"]
        [[tenants]]
        name = "acme"
        models = ["allowed", "*"]
        model_limits = [{ models = ["limited", "llama-*"], tokens_per_day = 1 }]
    """
    assert read(tmp_path, text).models == {"alias", "real", "routed", "allowed", "limited"}
    assert load_topology(load({"FLOW_UPSTREAM": "https://api.test"}), {}).models == frozenset()
    long = read(tmp_path, text.replace("alias", "m" * 1000)).models
    assert max(map(len, long)) == 256
