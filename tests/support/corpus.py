"""Recorded provider streams, where FLOW_CORPUS says they lie; tests that need them skip where it is not set."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

EXTENSIONS = (".sse", ".ndjson", ".eventstream", ".jsonarray")


_CACHE = ("cache_read_input_tokens", "cache_creation_input_tokens")


@dataclass(frozen=True)
class Recording:
    """One stream. `path` is its body; a sidecar beside it tells what is in it."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def kind(self) -> str:
        """The folder: the wire format."""
        return self.path.parent.name

    @cached_property
    def about(self) -> dict[str, Any]:
        sidecar = self.path.with_suffix(".json")
        loaded: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        return loaded

    @cached_property
    def body(self) -> bytes:
        return self.path.read_bytes()

    @property
    def billed(self) -> dict[str, Any]:
        """The usage in the sidecar's words, as it is billed: with what providers count apart, a cache, tools of their
        own, what ran before the answer, and xAI's reasoning."""
        usage = {name: tokens for name, tokens in self.about["usage"].items() if name != "total"}
        raw = self.about["usage_raw"] or {}
        steps = raw.get("iterations") or []
        for name in (*_CACHE, "input_tokens", "output_tokens") if steps else ():
            usage[name] = sum(step[name] for step in steps)
        apart = sum(usage.get(name) or 0 for name in _CACHE) + raw.get("toolUsePromptTokenCount", 0)
        if usage.get("input_tokens") is not None:
            usage["input_tokens"] += apart
        if self.about["provider_host"] == "api.x.ai" and self.about["request_path"].endswith("/completions"):
            usage["output_tokens"] += usage["reasoning_tokens"]
        return usage


def recordings(*kinds: str) -> list[Recording]:
    """All of these kinds (none: of every kind); none at all where FLOW_CORPUS is not set."""
    folder = os.environ.get("FLOW_CORPUS")
    if not folder:
        return []
    return [
        Recording(path)
        for path in sorted(Path(folder).glob("*/*"))
        if path.suffix in EXTENSIONS and (not kinds or path.parent.name in kinds)
    ]


def each_recording(*kinds: str) -> pytest.MarkDecorator:
    """Parametrizes `recording`; one skipped case where there are none."""
    found = [pytest.param(recording, id=recording.name) for recording in recordings(*kinds)]
    missing = pytest.param(None, marks=pytest.mark.skip(reason="FLOW_CORPUS does not name a folder of recordings"))
    return pytest.mark.parametrize("recording", found or [missing])
