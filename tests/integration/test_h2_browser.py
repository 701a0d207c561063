"""A browser reads a stream over HTTP/2 with fetch(), and what it posts comes through."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson

from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, eventually
from tests.support.peers import program
from tests.support.provider import Caller
from tests.support.wire import CHUNKED_HEAD, LAST_CHUNK, chunk, response

PAGE = b"""<!doctype html><title>stream</title><script>
(async () => {
  const read = async (number) => {
    const answer = await fetch('/stream?' + number, {method: 'POST', body: 'x'.repeat(100000)});
    const reader = answer.body.getReader();
    const decoder = new TextDecoder();
    let text = '', parts = 0;
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      parts += 1;
      text += decoder.decode(value, {stream: true});
    }
    const entry = performance.getEntriesByName(answer.url)[0];
    return {text, parts, protocol: entry ? entry.nextHopProtocol : ''};
  };
  const controller = new AbortController();
  const left = await fetch('/endless', {signal: controller.signal});
  await left.body.getReader().read();
  controller.abort();
  const results = await Promise.all([...Array(10).keys()].map(read));
  await fetch('/result', {method: 'POST', body: JSON.stringify(results)});
})().catch((error) => fetch('/result', {method: 'POST', body: JSON.stringify(String(error))}));
</script>"""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
)
EVENTS = 20


async def test_chromium_reads_streams_with_fetch(lab: Lab, tmp_path: Path) -> None:
    chromium = program("chromium")
    result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    left = asyncio.Event()

    async def script(caller: Caller) -> None:
        while True:
            message = await caller.request()
            target = message.start.split(" ")[1]
            if target == "/":
                await caller.send(response(PAGE, ["Content-Type: text/html"]))
            elif target == "/result":
                await caller.send(response())
                result.set_result(message.body)
            elif target == "/endless":
                await caller.send(CHUNKED_HEAD + chunk(b"data: first\n\n"))
                await caller.rest()
                left.set()
                return
            elif target.startswith("/stream"):
                assert len(message.body) == 100_000
                await caller.send(CHUNKED_HEAD)
                for number in range(EVENTS):
                    await caller.send(chunk(b"data: %d\n\n" % number))
                    await asyncio.sleep(0.005)
                await caller.send(LAST_CHUNK)
            else:
                await caller.send(response(status="404 Not Found"))

    provider = await lab.provider(script)
    relay = await lab.relay(provider.url, **Certificates(tmp_path).settings)
    process = await asyncio.create_subprocess_exec(
        *(chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"https://localhost:{relay.port}/"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(40):
            results = orjson.loads(await result)
    finally:
        process.terminate()
        await process.wait()
    assert isinstance(results, list), results
    expected = "".join(f"data: {number}\n\n" for number in range(EVENTS))
    assert [entry["text"] for entry in results] == [expected] * 10
    assert {entry["protocol"] for entry in results} == {"h2"}
    assert all(entry["parts"] > 1 for entry in results)
    await eventually(left.is_set, "the stream that the page left is cancelled")
    assert {line["protocol"] for line in relay.lines("access")} == {"h2"}
