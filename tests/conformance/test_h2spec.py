"""h2spec, the conformance suite of HTTP/2, against the relay over TLS.

Not with prior knowledge: what does not begin with the preface is answered as HTTP/1.1 there, which h2spec cannot read.
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


@pytest.mark.skipif(H2SPEC is None, reason="h2spec is not on PATH")
@pytest.mark.parametrize(("options", "cases"), [((), 146), (("--strict",), 147)], ids=["plain", "strict"])
async def test_every_case_passes(lab: Lab, tmp_path: Path, options: tuple[str, ...], cases: int) -> None:
    assert H2SPEC is not None
    provider = await lab.provider(answering(response(b"a body of some bytes")))
    relay = await lab.relay(provider.url, **Certificates(tmp_path).settings)
    process = await asyncio.create_subprocess_exec(
        *(H2SPEC, "-t", "-k", "-h", "127.0.0.1", "-p", str(relay.port), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await finishes(process.communicate(), within=60)
    text = output.decode()
    assert process.returncode == 0, text
    counted = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", text)
    assert counted is not None, text
    assert [int(count) for count in counted.groups()] == [cases, cases, 0, 0], text
