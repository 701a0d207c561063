"""Measures how far estimates of tokens are off: `FLOW_CORPUS=FOLDER python -m bench.estimates`.

Each recording is estimated with constants that were fitted on the recordings of all other repositories, because those
of one repository share models, prompts and habits. `--fit` fits on all recordings and prints the constants for
`flowserver.dialects`. The weights of the byte classes are not fitted here: they come from public tokenizers (see
`flowserver.dialects.byte_classes`).

Left out: recordings without a usage report, with a summary of their reasoning (of unknown length in tokens), and
requests whose long texts the recording has cut.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from bench.stats import percentile
from flowserver.dialects import recognise
from flowserver.dialects.base import Format, Meter, RequestParams
from flowserver.dialects.estimate import Content, Family, Ratio, content_of, family_of, is_cut, shown_tokens
from flowserver.dialects.input_estimate import InputContent, InputEstimate, InputFamily, InputMarkup, input_family
from flowserver.dialects.profiles import quirks_for
from flowserver.events.registry import SCANNERS, BodyKind

_KINDS = {
    ".sse": BodyKind.SSE,
    ".ndjson": BodyKind.NDJSON,
    ".eventstream": BodyKind.EVENTSTREAM,
    ".jsonarray": BodyKind.ARRAY,
}
"""What recordings are, by their extension."""
_MAX_EVENT = 1 << 24
_CUT_TEXT = b"characters elided>"
_MOSTLY = 0.3
"""Share of reasoning from which on an answer is one of reasoning."""
_PENALTY = 0.3
"""For a constant that is one step (see `_OUTPUT_STEPS`) away from its start, in units of the sum of |log error|: one
recording that is off by 30 % moves it by as much."""

# The fits start here, and the penalty holds them near it. The relay's own constants would not do: they were fitted on
# all recordings, so those that are held out would have a part in their own estimates (the median errors fall from 7.1
# and 13.0 % to 6.5 and 11.5 %), and each fit that starts where the last one ended goes further in the same direction.
_OUTPUT_START = {
    "claude": Family(factor=1.2, end=4.0, call=15.0, first_call=20.0, citation=8.0),
    "gemini": Family(factor=1.05, end=1.0, call=0.0, first_call=0.0, citation=6.0),
    "other": Family(factor=1.0, end=1.0, call=8.0, first_call=0.0, citation=6.0),
}
_OUTPUT_STEPS = Family(factor=0.1, end=3.0, call=10.0, first_call=10.0, citation=8.0)
_INPUT_START = {
    "claude": InputFamily(factor=1.17, base=5.0, schemas=330.0, type=6.0),
    "gemini": InputFamily(factor=1.0, base=-1.0, schemas=5.0, type=5.0),
    "cohere": InputFamily(factor=1.0, base=480.0, schemas=300.0, type=5.0),
    "mistral": InputFamily(factor=1.0, base=3.0, schemas=40.0, type=4.0),
    "gpt": InputFamily(factor=1.0, base=7.0, schemas=15.0, type=4.0),
    "grok": InputFamily(factor=1.0, base=150.0, schemas=20.0, type=5.0),
    "other": InputFamily(factor=1.0, base=8.0, schemas=40.0, type=5.0),
}
_INPUT_STEPS = InputFamily(factor=0.08, base=3.0, schemas=20.0, type=2.0)
_WIDE_STEPS = {"claude": (1.0, 1.0, 4.0, 1.0), "cohere": (1.0, 60.0, 10.0, 1.0), "grok": (1.0, 30.0, 2.0, 1.0)}
"""Of families that send more along than what a request shows: how many times `_INPUT_STEPS`."""
_MARKUP_START = InputMarkup(message=3.5, tool=6.0)
_MARKUP_STEPS = InputMarkup(message=1.5, tool=5.0)

_SERVER_TOOLS = (
    b"web_search",
    b"web_fetch",
    b"code_interpreter",
    b"code_execution",
    b"codeExecution",
    b"file_search",
    b"tool_search",
    b"x_search",
    b"google_search",
    b"googleSearch",
    b"urlContext",
    b"url_context",
    b"systemTool",
    b'"mcp',
    b'"computer_',
    b'"previous_response_id":"',
)
"""Any of these in a request: its provider reads more than the request has."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded answer. `tokens` are of what was shown."""

    name: str
    repository: str
    format: str
    kind: str
    family: str
    content: Content
    ended: bool
    tokens: int

    def estimate(self, family: Family) -> float:
        ratio = Ratio(family)
        return max(1.0, ratio.shown(self.content) + ratio.markup(self.content, ended=self.ended))


@dataclass(frozen=True, slots=True)
class Question:
    """One recorded request."""

    name: str
    repository: str
    format: str
    kind: str
    family: str
    content: InputContent
    has_server_tools: bool
    tokens: int

    def estimate(self, family: InputFamily, markup: InputMarkup) -> float:
        return float(self.content.tokens(self.family, family, markup))


@dataclass(frozen=True, slots=True)
class Recorded:
    answers: list[Answer]
    questions: list[Question]
    cut: int
    """Requests that were left out because their texts were cut."""


# --- recordings ------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Recorded:
    """All recordings of APIs that are counted."""
    answers: list[Answer] = []
    questions: list[Question] = []
    cut = 0
    for path in sorted(folder.glob("*/*")):
        if path.suffix not in _KINDS:
            continue
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        target = _target(about, path.suffix)
        format = recognise(target)
        if format is None:
            continue
        request = about["request_body"] if isinstance(about["request_body"], dict) else {}
        params = format.read_params(target, request)
        meter = _metered(path, format, params, about["provider_host"] or "")
        name, repository = f"{path.parent.name}/{path.name}", path.name.partition("__")[0]
        if answer := _answer(meter, params, name, repository, format.name):
            answers.append(answer)
        body = orjson.dumps(request)
        if request and meter.usage.input:
            if _CUT_TEXT in body:
                cut += 1
            else:
                questions.append(_question(body, meter, params, name, repository, format.name))
    return Recorded(answers, questions, cut)


def _target(about: Mapping[str, Any], extension: str) -> str:
    """The request's target; some recordings have lost its query."""
    target = "/" + str(about["request_path"]).lstrip("/")
    return target + "?alt=sse" if extension == ".sse" and target.endswith(":streamGenerateContent") else target


def _metered(path: Path, format: Format, params: RequestParams, host: str) -> Meter:
    """A meter that has read all of it."""
    meter = format.meter(params, quirks_for(None, host), cuttable=False)
    body = path.read_bytes()
    kind = _KINDS[path.suffix]
    if kind is BodyKind.ARRAY:
        meter.read_whole(body)
    else:
        scanner = SCANNERS[kind](_MAX_EVENT)
        for name, data, _ in (*scanner.feed(body), *scanner.finish()):
            meter.read(name, data)
    meter.content.settle()
    return meter


def _answer(meter: Meter, params: RequestParams, name: str, repository: str, format: str) -> Answer | None:
    """None: there is nothing to compare."""
    tokens, content = shown_tokens(meter), content_of(meter)
    if tokens is None or tokens <= 0 or not (content.content_bytes or content.calls):
        return None
    shown = meter.reasoning_bytes > _MOSTLY * content.content_bytes
    kind = "reasoning" if shown else "tools" if content.calls else "text"
    ended = (meter.finish is not None or meter.finished) and not is_cut(meter.finish)
    return Answer(name, repository, format, kind, family_of(format, params.model), content, ended, tokens)


def _question(body: bytes, meter: Meter, params: RequestParams, name: str, repository: str, format: str) -> Question:
    estimate = InputEstimate()
    estimate.feed(body)
    content = estimate.content()
    kind = "input with schemas" if content.types or content.tools else "input"
    family = input_family(format, params.model)
    server_tools = any(tool in body for tool in _SERVER_TOOLS)
    return Question(name, repository, format, kind, family, content, server_tools, meter.usage.input or 0)


# --- fitting ---------------------------------------------------------------------------------------------------------


def _fit(loss: Callable[[list[float]], float], size: int) -> list[float]:
    """The numbers of steps from the start that make `loss`, with a penalty, least: one coordinate after the other."""

    def penalised(steps: list[float]) -> float:
        return loss(steps) + _PENALTY * sum(step * step for step in steps)

    best = [0.0] * size
    least = penalised(best)
    for width in (1.0, 0.5, 0.25, 0.12):
        for _ in range(5):
            before = least
            for index in range(size):
                for step in (width, -width):
                    while (value := penalised(moved := _moved(best, index, step))) < least - 1e-9:
                        best, least = moved, value
            if least == before:
                break
    return best


def _moved(steps: list[float], index: int, by: float) -> list[float]:
    moved = steps.copy()
    moved[index] += by
    return moved


def _values(record: Any) -> list[float]:
    return [getattr(record, field.name) for field in fields(record)]


def _error(estimate: float, tokens: int) -> float:
    return abs(math.log(max(estimate, 0.5) / tokens))


def fit_output(answers: Sequence[Answer]) -> dict[str, Family]:
    """No constant is negative, so that a count never falls."""
    names, width = list(_OUTPUT_START), len(fields(Family))
    scales = _values(_OUTPUT_STEPS)

    def families(steps: Sequence[float]) -> dict[str, Family]:
        made = {}
        for number, name in enumerate(names):
            own = steps[number * width : (number + 1) * width]
            start = _values(_OUTPUT_START[name])
            made[name] = Family(*(max(0.0, a + b * c) for a, b, c in zip(start, own, scales, strict=True)))
        return made

    def loss(steps: list[float]) -> float:
        made = families(steps)
        return sum(_error(each.estimate(made[each.family]), each.tokens) for each in answers)

    return families(_fit(loss, width * len(names)))


def fit_input(questions: Sequence[Question]) -> tuple[dict[str, InputFamily], InputMarkup]:
    names, width = list(_INPUT_START), len(fields(InputFamily))

    def families(steps: Sequence[float]) -> tuple[dict[str, InputFamily], InputMarkup]:
        made = {}
        for number, name in enumerate(names):
            own = steps[number * width : (number + 1) * width]
            wide = _WIDE_STEPS.get(name, (1.0,) * width)
            scales = [a * b for a, b in zip(_values(_INPUT_STEPS), wide, strict=True)]
            start = _values(_INPUT_START[name])
            made[name] = InputFamily(*(a + b * c for a, b, c in zip(start, own, scales, strict=True)))
        shared = zip(_values(_MARKUP_START), steps[-2:], _values(_MARKUP_STEPS), strict=True)
        return made, InputMarkup(*(max(0.0, a + b * c) for a, b, c in shared))

    def loss(steps: list[float]) -> float:
        made, markup = families(steps)
        return sum(_error(each.estimate(made[each.family], markup), each.tokens) for each in questions)

    return families(_fit(loss, width * len(names) + 2))


# --- errors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Held:
    """One recording, estimated from those of other repositories."""

    of: Answer | Question
    estimate: int

    @property
    def error(self) -> float:
        """Relative."""
        return abs(self.estimate - self.of.tokens) / self.of.tokens


@dataclass(frozen=True, slots=True)
class Errors:
    count: int
    median: float
    p90: float


def errors(held: Iterable[Held]) -> Errors:
    found = sorted(each.error for each in held)
    return Errors(len(found), percentile(found, 50), percentile(found, 90)) if found else Errors(0, 0.0, 0.0)


def held_out_answers(answers: Sequence[Answer]) -> list[Held]:
    held = []
    for repository in sorted({each.repository for each in answers}):
        made = fit_output([each for each in answers if each.repository != repository])
        held += [Held(each, int(each.estimate(made[each.family]))) for each in answers if each.repository == repository]
    return held


def held_out_questions(questions: Sequence[Question]) -> list[Held]:
    """Requests with a tool of the provider's own take no part in the fit."""
    held = []
    for repository in sorted({each.repository for each in questions}):
        made, markup = fit_input(
            [each for each in questions if each.repository != repository and not each.has_server_tools]
        )
        held += [
            Held(each, round(each.estimate(made[each.family], markup)))
            for each in questions
            if each.repository == repository
        ]
    return held


def table(answers: Sequence[Held], questions: Sequence[Held]) -> list[tuple[str, Errors]]:
    """By kind of content, by length and by format."""
    usual = [each for each in questions if not _is_served(each)]
    rows = [("output", errors(answers))]
    rows += _grouped("  ", answers, lambda each: each.of.kind)
    rows += _grouped("  ", answers, lambda each: "50 tokens or more" if each.of.tokens >= 50 else "fewer than 50")
    rows += _grouped("  ", answers, lambda each: each.of.format)
    rows += [("input", errors(usual))]
    rows += _grouped("  ", usual, lambda each: each.of.kind)
    rows += _grouped("  ", usual, lambda each: each.of.format)
    return [*rows, ("input, with providers' own tools", errors(questions))]


def _is_served(each: Held) -> bool:
    return isinstance(each.of, Question) and each.of.has_server_tools


def _grouped(indent: str, held: Sequence[Held], key: Callable[[Held], str]) -> list[tuple[str, Errors]]:
    return [
        (indent + group, errors(each for each in held if key(each) == group))
        for group in sorted({key(each) for each in held})
    ]


def _show(rows: Iterable[tuple[str, Errors]]) -> None:
    print(f"{'relative error, held out by repository':<40} {'n':>4} {'median':>7} {'p90':>7}")
    for name, found in rows:
        print(f"{name:<40} {found.count:4d} {found.median:7.1%} {found.p90:7.1%}")


def _show_fit(recorded: Recorded) -> None:
    usual = [each for each in recorded.questions if not each.has_server_tools]
    families, markup = fit_input(usual)
    for known in (fit_output(recorded.answers), families):
        for name, family in known.items():
            print(f'    "{name}": {_written(family)},')
    print(_written(markup))


def _written(record: Any) -> str:
    values = ", ".join(f"{field.name}={round(getattr(record, field.name), 2)}" for field in fields(record))
    return f"{type(record).__name__}({values})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true", help="print the constants, fitted on all recordings")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="print the N worst estimates as well")
    options = parser.parse_args()
    folder = os.environ.get("FLOW_CORPUS")
    if not folder:
        print("FLOW_CORPUS does not name a folder of recordings", file=sys.stderr)
        return 2
    recorded = read(Path(folder))
    if options.fit:
        _show_fit(recorded)
        return 0
    answers, questions = held_out_answers(recorded.answers), held_out_questions(recorded.questions)
    _show(table(answers, questions))
    print(f"{recorded.cut} requests were left out, whose texts the recordings have cut")
    for held in (answers, questions):
        for each in sorted(held, key=lambda each: -each.error)[: options.worst]:
            print(f"{each.error:7.0%} {each.estimate:7d} for {each.of.tokens:7d}  {each.of.family:8} {each.of.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
