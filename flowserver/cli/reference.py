"""Writes the reference pages, docs/settings.md and docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill

from ..config.entries import Group, Key, Setting
from ..config.file_keys import FILE_KEYS, HEALTH_KEYS, OUTLIER_KEYS, ROUTE_KEYS, UPSTREAM_KEYS
from ..config.prices import PRICE_KEYS
from ..config.settings import SETTINGS
from ..config.tenants import TENANT_KEYS
from ..telemetry.exposition import Kind
from ..telemetry.labels import MAX_MODELS, MAX_TENANTS
from ..telemetry.quotas import KEPT, REFRESH
from ..telemetry.quotas import MAX_TENANTS as TENANTS_WITH_QUOTAS
from ..telemetry.snapshot import Table

_SETTINGS = """# Settings

All settings are environment variables, and flags of `flowserver serve` and `flowserver check`, which override them:
`--high-water 64k` overrides `FLOW_HIGH_WATER`. They are read once, at the start, and `flowserver check` prints them
with every mistake in them. What belongs to one provider, route or tenant is set in the [file](#the-file) of
`FLOW_CONFIG`.

- An empty value means the default. Whitespace around a value is ignored.
- Sizes are bytes, or have a unit: `65536`, `64k`, `1.5m`, `1g` (powers of 1024; `64KB` and `64 KiB` are the same).
- Times are seconds, or have units: `500ms`, `30`, `30s`, `5m`, `1h30m`, `1d`.
- Numbers may have underscores between their digits: `10_000`.
- `true`, `yes` and `1` mean `on`; `false`, `no` and `0` mean `off`. A switch's flag without a value means `on`.
- Where a value can be `off`, `0` means the same.
- A secret can't be given as a flag, since anyone who lists processes would see it; a reference to one can.
- Addresses are `host:port`, `[v6]:port`, `:port` for all interfaces, IPv4 and IPv6, or `unix:/path` for a Unix socket.
- A reference stands for a secret that is kept elsewhere: `env:NAME` in a variable, `file:PATH` in a file,
  `credential:NAME` in a credential of systemd. Whitespace around it is removed. SIGHUP reads it again, except that of
  `FLOW_REDIS_URL`, which needs a restart.
- A value out of bounds is refused at the start: sizes of buffers above 1g, other sizes above 1024g, counts above a
  billion, times above a year.
"""
_RELOAD = (
    "SIGHUP reads the files of {names} again, for new requests and connections "
    "([providers.md](providers.md#reading-the-file-again)). All other settings need a restart."
)
_FILE = """
## The file

`FLOW_CONFIG` names a TOML file; [flowserver.example.toml](../flowserver.example.toml) is an example. Times are seconds
(`2.5`) or text with a unit (`"500ms"`). A key that is left out takes the environment's value, if there is one.
`flowserver config schema` prints its JSON Schema, for completion and checks in an editor.
"""
_METRICS = """# Metrics

`/metrics` of `FLOW_ADMIN_LISTEN` serves these in Prometheus' text format. Counters never decrease while the process
runs. `flow_store_...` exists only with `FLOW_REDIS_URL`.

Several workers have one page, made by their parent. The last column says how their figures are combined: by `sum`,
`max` or `min`, or as `each` worker's own, with the label `worker` (`parent` for the parent itself). Sums of counters
and histograms include workers that are gone. For a worker that does not answer within a second, the last figures are
shown, and `flow_worker_up` is 0.
"""
_WORKERS = """
## Of workers

The parent of several workers adds these.

"""
_QUOTAS = """
## Used quotas

`flow_limit_used_ratio` is the part of a quota that is used or [leased](tenants.md#leases): of the tokens and dollars
per day and per month of each tenant, and of its `model_limits`. Limits per minute have no such figure, nor have those
of users and sessions.

The limit store is asked when this page is, at most every {refresh} seconds. A single process, which counts in its own
memory, has the answers at once. With several workers or Redis they come later: the page shows those that have come
since the last scrape, so its figures are as old as that. A quota has no figure while the store does not answer, if the
last answer is older than {minutes} minutes, and between the end of a period and the next answer. Each process shows up
to {tenants} tenants, those with open streams first. Tenants kept in Redis are shown by the processes that have served
them.
"""
_GENAI = """
## Names of OpenTelemetry

`FLOW_METRICS_GENAI` selects which of OpenTelemetry's conventions for generative AI names the token metrics. `old` is
the default, as the convention asks of existing implementations: most backends read the old names, and the new ones are
still in development. To migrate, set `both`: nothing that reads the old names breaks, and queries can change one by
one. Then set `new`, which leaves the old names out, so that the page is as short as before.

| old: semantic-conventions 1.36 | new: semantic-conventions-genai 0.1.0 |
|---|---|
| sums of `gen_ai_client_token_usage` | `gen_ai_client_inference_usage_input_tokens_total`, `..._output_tokens_total` |
| buckets of `gen_ai_client_token_usage` | `gen_ai_client_inference_operation_input_tokens`, `..._output_tokens` |
| `gen_ai_server_time_to_first_token_seconds` | the same |
| | of streams `gen_ai_client_inference_time_to_first_chunk_seconds` |
| `gen_ai_server_time_per_output_token_seconds` | the same |
| | `gen_ai_client_inference_duration_seconds`, `gen_ai_client_embeddings_duration_seconds` |

With the old names `gen_ai_provider_name` is the name of the `[[upstreams]]` table. With the new ones it is the
convention's name of such a provider (`openai`, `anthropic`, `aws.bedrock`), the relay's own name is in `upstream`, and
`gen_ai_operation_name` distinguishes chat from embeddings. `gen_ai_server_...` has the same names in both, and the new
labels only with `new`. Tokens have `gen_ai_token_modality="unknown"`, since few providers report modalities. Tokens by
tenant are in `flow_tokens_total`. `gen_ai.client.inference.time_per_output_chunk` is left out: a histogram of chunks
would cost CPU for each chunk.

## Cardinality

Each label has a bound, so that no client can make the page grow without limit:

| label | most values |
|---|---|
| `upstream`, old `gen_ai_provider_name` | the providers that were configured since the start |
| new `gen_ai_provider_name`, `gen_ai_operation_name` | one for each provider; 4 |
| `gen_ai_request_model`, `model` | {models}, or as many as the configuration names; further ones share `other` |
| `tenant` | the first {tenants} to appear; further ones share `other` |
| `tenant` of `flow_limit_used_ratio` | {shown} in each process |
| `models` | the `model_limits` of a tenant |
| `status` | of `flow_requests_total` 6 classes, of `flow_responses_total` the statuses that providers send |
| `error_type` | the ends, and the statuses that providers send |
| `end`, `reason`, `code`, `cause`, `result`, `kind`, `limit`, `scope`, and the like | fixed lists |
| `worker` | the workers and their parent |

A series appears once it has a value, so only combinations that occur count. `flow_tokens_total` may have the most
series: one for each combination of provider, model, tenant and kind of token. The histograms of a provider, model and
operation take up to {old} lines with the old names and {new} with the new ones, those of a provider another {times}.
Users, sessions and request ids are not labels: the log has them.
"""
_COLUMNS = ("metric", "type", "labels", "meaning")


def settings_page() -> str:
    """The text of docs/settings.md, from the declarations of all settings and of the file's keys."""
    reloaded = ", ".join(f"`{entry.env}`" for entry in SETTINGS if entry.reloaded)
    parts = [_SETTINGS, f"\n{fill(_RELOAD.format(names=reloaded), 120, break_long_words=False)}\n"]
    parts += [_group(group, [entry for entry in SETTINGS if entry.group is group]) for group in _groups()]
    parts.append(_FILE)
    for title, keys in (
        ("Above the first table", FILE_KEYS),
        ("`[[upstreams]]`: a provider", UPSTREAM_KEYS),
        ("`health` of a provider, see [providers.md](providers.md#health-checks)", HEALTH_KEYS),
        ("`[[routes]]`: which requests go to which provider", ROUTE_KEYS),
        ("`outliers` of a route, see [providers.md](providers.md#outliers)", OUTLIER_KEYS),
        ("`[[tenants]]`: who may use the relay, see [tenants.md](tenants.md)", TENANT_KEYS),
        ("`[[prices]]`: what tokens cost, see [costs.md](costs.md)", PRICE_KEYS),
    ):
        parts.append(f"\n### {title}\n\n{_keys(keys)}")
    return "".join(parts)


def metrics_page(told: Iterable[Table], of_workers: Iterable[Table]) -> str:
    """The text of docs/metrics.md. `told`: the metrics of a process, with a sample for each family; `of_workers`: what
    a parent adds."""
    told = list(told)
    of_process = [table for table in told if table.name.startswith(("process_", "python_"))]
    own = [table for table in told if table not in of_process]
    process = f"## Of the process\n\n{_merged(of_process)}"
    of_parent = _table(_COLUMNS, map(_row, of_workers))
    quotas = _QUOTAS.format(refresh=round(REFRESH), minutes=round(KEPT / 60), tenants=TENANTS_WITH_QUOTAS)
    return f"{_METRICS}\n{_merged(own)}\n{process}{_WORKERS}{of_parent}{quotas}{_genai(own)}"


def _genai(tables: Iterable[Table]) -> str:
    """The sections on names and on cardinality, with the bounds of labels."""
    lines = {table.name: len(table.bounds) + 3 for table in tables if table.kind is Kind.HISTOGRAM}
    usage = "gen_ai_client_token_usage"
    new = [name for name in lines if name.startswith("gen_ai_client_inference")]
    return _GENAI.format(
        models=MAX_MODELS,
        tenants=MAX_TENANTS,
        shown=TENANTS_WITH_QUOTAS,
        old=lines[usage] + sum(number for name, number in lines.items() if name.startswith(("gen_ai_server", usage))),
        new=sum(lines[name] for name in new),
        times=sum(number for name, number in lines.items() if name.startswith("flow_upstream_")),
    )


def _groups() -> list[Group]:
    return list(dict.fromkeys(entry.group for entry in SETTINGS))


def _group(group: Group, entries: Iterable[Setting]) -> str:
    text = f"{group.text}\n\n" if group.text else ""
    rows = [(f"`{entry.env}`", _code(entry.default), entry.kind.name, entry.doc) for entry in entries]
    return f"\n## {group.title}\n\n{text}{_table(('setting', 'default', 'value', 'meaning'), rows)}"


def _keys(keys: Iterable[Key]) -> str:
    rows = [(f"`{key.name}`", key.kind.name, f"{'Required. ' if key.required else ''}{key.doc}") for key in keys]
    return _table(("key", "value", "meaning"), rows)


def _merged(tables: Iterable[Table]) -> str:
    return _table((*_COLUMNS, "workers"), [(*_row(table), table.merge) for table in tables])


def _row(table: Table) -> tuple[str, ...]:
    return f"`{table.family().title}`", table.kind, _labels(table), table.text


def _labels(table: Table) -> str:
    """The labels of its samples, without a histogram's `le`."""
    names = dict.fromkeys(name for key in table.samples for name, _ in key)
    return ", ".join(f"`{name}`" for name in names)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines(head, rows)) + "\n"


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _line(head)
    yield "|" + "---|" * len(head)
    for row in rows:
        yield _line([_marked(cell) for cell in row])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked(text: str) -> str:
    """`text` with the names of settings marked as code, and escaped for a table cell."""
    return re.sub(r"(?<![`\w])(FLOW_\w+)", r"`\1`", text).replace("|", "\\|")
