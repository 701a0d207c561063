"""Relays with distance: a provider, or a client, that is milliseconds away, over links of `bench.wan_rig`.

Whole answers, uploads and streams of a distant provider; what relays take ahead and hold for clients that stop reading
or read slowly; clients whose link drops out. All beside the same without a relay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import CaseResult
from bench.processes import wait_until_quiet
from bench.wan import answers, custody, outages, stalls, streams
from bench.wan.findings import Findings
from bench.wan_rig import why_not

TITLE = "providers and clients at a distance"


@dataclass(frozen=True, slots=True)
class Settings:
    """Of each part."""

    answers: answers.Settings = field(default_factory=answers.Settings)
    streams: streams.Settings = field(default_factory=streams.Settings)
    stalls: stalls.Settings = field(default_factory=stalls.Settings)
    custody: custody.Settings = field(default_factory=custody.Settings)
    outages: outages.Settings = field(default_factory=outages.Settings)


QUICK = Settings(answers.QUICK, streams.QUICK, stalls.QUICK, custody.QUICK, outages.QUICK)

PARTS: dict[str, Callable[[Sequence[str], Settings, Findings], None]] = {
    "answers": lambda relays, settings, findings: answers.measure(relays, settings.answers, findings),
    "streams": lambda relays, settings, findings: streams.measure(relays, settings.streams, findings),
    "stalls": lambda relays, settings, findings: stalls.measure(relays, settings.stalls, findings),
    "custody": lambda relays, settings, findings: custody.measure(relays, settings.custody, findings),
    "outages": lambda relays, settings, findings: outages.measure(relays, settings.outages, findings),
}


def run(relays: Sequence[str], settings: Settings, parts: Sequence[str] = tuple(PARTS)) -> CaseResult:
    """Measures each of `relays` in each of `parts`. Says why where that can't be done."""
    reason = why_not()
    name = "wan" if len(parts) > 1 else f"wan_{parts[0]}"
    if reason is not None:
        return CaseResult(name, TITLE, {}, (), (f"Not measured: {reason}.",))
    findings = Findings()
    for part in parts:
        wait_until_quiet()
        PARTS[part](relays, settings, findings)
    return CaseResult(name, TITLE, _told(settings, parts), findings.figures.figures(), NOTES, findings.series())


NOTES = (
    "A distance is a round trip. Client and relay share a machine, and the provider is behind the link; in outages, the"
    " client is behind it.",
    "new connection: the relay's to the provider. kept: it carried the same once before.",
    "Answers that take too long are given up, and their time is told from the part that came.",
    "Over-read is what the kernel at the other end has acknowledged less what the client read. Where a provider did not"
    " stop in time, it would have been more. Of the aim: what is beyond direct.",
    "Custody is what the relay has and the reader's own kernel has not: flowserver's memory and the queues of the"
    " relay's kernel, for other relays the queues alone.",
    "Caught up: an event that the provider has sent by its timetable is there, as soon as it was before.",
)


def _told(settings: Settings, parts: Sequence[str]) -> dict[str, float | str]:
    """What was run."""
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {"congestion": congestion, **{part: str(getattr(settings, part)) for part in parts}}
