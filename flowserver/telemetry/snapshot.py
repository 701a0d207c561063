"""The metrics of a process as lines of JSON: for each family a head, then a line for each sample, so that it is written
and read in small pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from io import BytesIO

import orjson

from .exposition import Family, Kind, Labels, Merge

AT_A_TIME = 20
"""Lines per piece of work."""

Key = tuple[tuple[str, str], ...]
"""The labels of a sample, sorted."""


class Table:
    """A family whose samples can be looked up."""

    __slots__ = ("bounds", "kind", "merge", "name", "samples", "text")

    def __init__(self, kind: Kind, name: str, text: str, merge: Merge, bounds: list[str]) -> None:
        self.kind = kind
        self.name = name
        self.text = text
        self.merge = merge
        self.bounds = bounds
        self.samples: dict[Key, list[float]] = {}

    def family(self) -> Family:
        samples = [(dict(key), figures) for key, figures in self.samples.items()]
        return Family(self.kind, self.name, self.text, self.merge, samples, self.bounds)


Tables = dict[str, Table]
"""By the names of families, in their order in the snapshot."""


def encoded(family: Family) -> Iterator[bytes]:
    """The lines of a family; each piece is one line."""
    yield _line([family.kind, family.name, family.text, family.merge, family.bounds])
    for labels, figures in family.samples:
        yield _line([labels, figures])


def decoded(snapshot: bytes) -> Generator[bytes, None, Tables]:
    """Yields empty pieces in between; returns the families."""
    tables: Tables = {}
    table: Table | None = None
    for number, line in enumerate(BytesIO(snapshot), 1):
        row = orjson.loads(line)
        if table is None or len(row) > 2:
            kind, name, text, merge, bounds = row
            table = tables[name] = Table(Kind(kind), name, text, Merge(merge), bounds)
        else:
            labels, figures = row
            table.samples[_key(labels)] = figures
        if number % AT_A_TIME == 0:
            yield b""
    return tables


def _key(labels: Labels) -> Key:
    return tuple(sorted(labels.items()))


def _line(row: list[object]) -> bytes:
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
