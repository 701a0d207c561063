"""Shared by OpenAI's formats: careful reading of JSON, usage reports. No I/O."""

from __future__ import annotations

import re
from typing import Any

import orjson

from .base import Auth, KeyPaths, Usage
from .common import count

KEY_PATHS = KeyPaths(
    Auth.BEARER,
    re.compile(r"/(?:completions|responses|embeddings|moderations|realtime|audio/[a-z]+|images/[a-z]+)(?:[/?]|$)"),
)
ACCOUNT_FIELDS = frozenset((b"openai-project",))
HEARTBEAT = b": ping\n"
"""A comment without a blank line: OpenAI's own client library fails on a frame that has no data."""


def parse(data: bytes) -> dict[str, Any] | None:
    """A JSON object; None: `data` is something else."""
    try:
        event = orjson.loads(data)
    except ValueError:
        return None
    return event if type(event) is dict else None


def mapping(value: object) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if type(value) is dict else {}


def entries(value: object) -> list[dict[str, Any]]:
    """The objects in the list `value`; empty if it is not a list."""
    return [entry for entry in value if type(entry) is dict] if type(value) is list else []


def size_of(value: object) -> int:
    """UTF-8 bytes of a text; 0 for anything else."""
    if type(value) is not str:
        return 0
    return len(value) if value.isascii() else len(value.encode())


def read_usage(usage: Usage, report: dict[str, Any], *, reasoning_apart: bool = False) -> int | None:
    """Copy a report into `usage`, in either spelling, prompt/completion or input/output. Missing values stay unchanged.
    Returns its output tokens; None: missing or nonsense.

    Some have names of their own: DeepSeek for its cache hits, Perplexity and Copilot for their reasoning. Some count
    reasoning, audio or their own tools' input separately from both sums: only the total includes it.
    """
    prompt, output = count(report.get("prompt_tokens")), count(report.get("completion_tokens"))
    usage.input = count(report.get("input_tokens"), usage.input) if prompt is None else prompt
    if "prompt_cache_hit_tokens" in report:
        usage.cached = count(report["prompt_cache_hit_tokens"], usage.cached)
    if into := report.get("prompt_tokens_details") or report.get("input_tokens_details"):
        details = mapping(into)
        usage.cached = count(details.get("cached_tokens"), usage.cached)
        usage.cache_written = count(details.get("cache_write_tokens"), usage.cache_written)
    if "reasoning_tokens" in report:
        usage.reasoning = count(report["reasoning_tokens"], usage.reasoning)
    if out := report.get("completion_tokens_details") or report.get("output_tokens_details"):
        usage.reasoning = count(mapping(out).get("reasoning_tokens"), usage.reasoning)
    if output is None:
        output = count(report.get("output_tokens"))
    if output is None and report.get("completion_tokens") is None and report.get("output_tokens") is None:
        output = 0 if usage.input is not None and report.get("total_tokens") == usage.input else None  # embeddings
    if output is not None:
        output += _apart(usage, output, count(report.get("total_tokens")), reasoning_apart=reasoning_apart)
        usage.output = output
    return output


def _apart(usage: Usage, output: int, total: int | None, *, reasoning_apart: bool) -> int:
    """Output tokens that a report has in addition to its `output`. The rest of its total is added to the input."""
    reasoning = usage.reasoning or 0
    if total is None:
        return reasoning if reasoning_apart else 0
    extra = total - output - (usage.input or 0)
    if extra <= 0:
        return 0
    more = reasoning if extra >= reasoning else 0
    if usage.input is not None:
        usage.input += extra - more
    return more
