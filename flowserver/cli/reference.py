"""Writes the reference pages: `python -m flowserver.cli.reference settings`, or `metrics` with a scrape as input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from textwrap import fill

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from ..config.entries import Group, Key, Setting
from ..config.file import FILE_KEYS, ROUTE_KEYS, UPSTREAM_KEYS
from ..config.settings import SETTINGS
from ..config.tenants import TENANT_KEYS

_SETTINGS = """# Settings

All settings are environment variables. They are read once, at the start, and `flowserver check` prints them with every
mistake in them. What belongs to one provider, route or tenant is set in the [file](#the-file) of `FLOW_CONFIG`.

- Sizes are bytes, or have a unit: `65536`, `64k`, `1m`, `1g` (powers of 1024).
- Times are seconds, or have a unit: `500ms`, `30`, `30s`, `5m`, `1h`.
- Where a value can be `off`, `0` is the same.
- Addresses are `host:port`, `[v6]:port`, or `:port` for all interfaces, IPv4 and IPv6.
- A reference stands for a secret that is kept elsewhere: `env:NAME` in a variable, `file:PATH` in a file,
  `credential:NAME` in a credential of systemd. Blanks and line ends around it are removed. SIGHUP reads it again, but
  for that of `FLOW_REDIS_URL`, which needs a restart.
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
(`2.5`) or text with a unit (`"500ms"`). A key that is left out has the environment's value, where there is one.
"""
_METRICS = """# Metrics

`/metrics` of `FLOW_ADMIN_LISTEN` serves these in Prometheus' text format. Counters never decrease while the process
runs. `flow_store_...` is there with `FLOW_REDIS_URL` only.
"""


def settings_page() -> str:
    """docs/settings.md, made of the entries of all settings and of the file's keys."""
    reloaded = ", ".join(f"`{entry.env}`" for entry in SETTINGS if entry.reloaded)
    parts = [_SETTINGS, f"\n{fill(_RELOAD.format(names=reloaded), 120, break_long_words=False)}\n"]
    parts += [_group(group, [entry for entry in SETTINGS if entry.group is group]) for group in _groups()]
    parts.append(_FILE)
    for title, keys in (
        ("Above the first table", FILE_KEYS),
        ("`[[upstreams]]`: a provider", UPSTREAM_KEYS),
        ("`[[routes]]`: which requests go to which provider", ROUTE_KEYS),
        ("`[[tenants]]`: who may use the relay, see [tenants.md](tenants.md)", TENANT_KEYS),
    ):
        parts.append(f"\n### {title}\n\n{_keys(keys)}")
    return "".join(parts)


def metrics_page(scrape: str) -> str:
    """docs/metrics.md, made of a scrape in which each family has a sample."""
    families = list(text_string_to_metric_families(scrape))
    of_process = [family for family in families if family.name.startswith(("process_", "python_"))]
    own = [family for family in families if family not in of_process]
    return f"{_METRICS}\n{_metrics(own)}\n## Of the process\n\n{_metrics(of_process)}"


def _groups() -> list[Group]:
    return list(dict.fromkeys(entry.group for entry in SETTINGS))


def _group(group: Group, entries: Iterable[Setting]) -> str:
    text = f"{group.text}\n\n" if group.text else ""
    rows = [(f"`{entry.env}`", _code(entry.default), entry.kind.name, entry.doc) for entry in entries]
    return f"\n## {group.title}\n\n{text}{_table(('setting', 'default', 'value', 'meaning'), rows)}"


def _keys(keys: Iterable[Key]) -> str:
    rows = [(f"`{key.name}`", key.kind.name, f"{'Required. ' if key.required else ''}{key.doc}") for key in keys]
    return _table(("key", "value", "meaning"), rows)


def _metrics(families: Iterable[Metric]) -> str:
    rows = [(f"`{_name(family)}`", family.type, _labels(family), family.documentation) for family in families]
    return _table(("metric", "type", "labels", "meaning"), rows)


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def _labels(family: Metric) -> str:
    """Those of its samples; a histogram's `le` goes without saying."""
    names = dict.fromkeys(name for sample in family.samples for name in sample.labels if name != "le")
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
    """`text` with the names of settings as code, and fit for a cell."""
    return re.sub(r"(?<![`\w])(FLOW_\w+)", r"`\1`", text).replace("|", "\\|")


if __name__ == "__main__":
    if sys.argv[1:] == ["settings"]:
        sys.stdout.write(settings_page())
    elif sys.argv[1:] == ["metrics"]:
        sys.stdout.write(metrics_page(sys.stdin.read()))
    else:
        sys.exit(__doc__)
