"""Recorded provider streams, where FLOW_CORPUS says they lie; tests that need them skip where it is not set."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

EXTENSIONS = (".sse", ".ndjson", ".eventstream", ".jsonarray")


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
        """What the sidecar tells of the usage, which is the last report as it came, with what else is billed: the cache
        beside Anthropic's input, the steps before its last one, what Gemini's own tools have read."""
        usage = {name: tokens for name, tokens in self.about["usage"].items() if name != "total"}
        if self.kind == "anthropic-messages":
            if steps := self._steps:
                usage |= {name: sum(step.get(name) or 0 for step in steps) for name in usage.keys() & steps[-1].keys()}
            usage["input_tokens"] += sum(usage.get(f"cache_{kind}_input_tokens") or 0 for kind in ("read", "creation"))
        elif by_tools := re.findall(rb'"toolUsePromptTokenCount":\s*(\d+)', self.body):
            usage["input_tokens"] += int(by_tools[-1])
        return usage

    @property
    def _steps(self) -> list[dict[str, Any]]:
        deltas = [line[6:] for line in self.body.splitlines() if line.startswith(b'data: {"type":"message_delta"')]
        steps: list[dict[str, Any]] = json.loads(deltas[-1])["usage"].get("iterations") or [] if deltas else []
        return steps


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
