"""`flowserver simulate` as a process."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_says_where_it_listens_and_ends_with_0(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flowserver", "simulate", "--listen", "127.0.0.1:0", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.startswith(b"simulator listening on http://127.0.0.1:")
        port = int(line.rsplit(b":", 1)[1])
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
