"""h2spec, the conformance suite of HTTP/2, against the relay over TLS and with prior knowledge over plain text.

Over plain text one case cannot pass: bytes that are no HTTP/2 preface are read as HTTP/1.1 there, on purpose, and
h2spec cannot read that answer.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

import pytest

from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, finishes
from tests.support.provider import answering
from tests.support.wire import response

H2SPEC = shutil.which("h2spec")
pytestmark = pytest.mark.skipif(H2SPEC is None, reason="h2spec is not on PATH")
TESTS = {(): 146, ("--strict",): 147}


async def run_h2spec(port: int, *options: str) -> tuple[list[int], str]:
    """Its (tests, passed, skipped, failed), and everything it printed."""
    assert H2SPEC is not None
    process = await asyncio.create_subprocess_exec(
        *(H2SPEC, "-h", "127.0.0.1", "-p", str(port), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await finishes(process.communicate(), within=60)
    text = output.decode()
    counted = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", text)
    assert counted is not None, text
    return [int(count) for count in counted.groups()], text


@pytest.mark.parametrize("options", TESTS, ids=["plain", "strict"])
async def test_every_case_passes_over_tls(lab: Lab, tmp_path: Path, options: tuple[str, ...]) -> None:
    provider = await lab.provider(answering(response(b"a body of some bytes")))
    relay = await lab.relay(provider.url, **Certificates(tmp_path).settings)
    counts, text = await run_h2spec(relay.port, "-t", "-k", *options)
    assert counts == [TESTS[options], TESTS[options], 0, 0], text


@pytest.mark.parametrize("options", TESTS, ids=["plain", "strict"])
async def test_only_a_broken_preface_fails_over_plain_text(lab: Lab, options: tuple[str, ...]) -> None:
    provider = await lab.provider(answering(response(b"a body of some bytes")))
    relay = await lab.relay(provider.url)
    counts, text = await run_h2spec(relay.port, *options)
    assert counts == [TESTS[options], TESTS[options] - 1, 0, 1], text
    failures = text.partition("Failures:")[2]
    assert re.findall(r"× (.*)", failures) == ["2: Sends invalid connection preface"], text
