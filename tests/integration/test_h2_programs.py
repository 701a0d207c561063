"""Clients that others wrote: command-line programs and Python's libraries."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import openai
import orjson
import pytest

from tests.support.h2_lab import Certificates
from tests.support.lab import Lab, RunningRelay, eventually, numbers
from tests.support.peers import curl, program, run

BODY = '{"model": "simulated", "stream": true, "messages": []}'


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def _over_h2(relay: RunningRelay, count: int = 1) -> None:
    lines = await relay.access(count)
    assert {(line["protocol"], line["end"]) for line in lines} == {("h2", "complete")}


async def test_curl_with_prior_knowledge(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    options = ("-H", "x-simulate: events=500", "-H", "content-type: application/json", "-d", BODY)
    printed = await curl("--http2-prior-knowledge", "-N", *options, f"{relay.url}/v1/chat/completions")
    assert numbers(printed) == list(range(500))
    await _over_h2(relay)


async def test_curl_over_tls(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    trust = ("--cacert", certificates.authority)
    printed = await curl("--http2", *trust, "-d", BODY, f"https://localhost:{relay.port}/v1/chat/completions")
    assert numbers(printed) == list(range(20))
    await _over_h2(relay)


async def test_curl_uploads_and_gets_it_back(lab: Lab, tmp_path: Path) -> None:
    _, relay, _ = await lab.simulated()
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 8000)
    options = ("-X", "POST", "-H", "expect: 100-continue", "--data-binary", f"@{upload}")
    printed = await curl("--http2-prior-knowledge", *options, f"{relay.url}/v1/echo")
    assert printed == upload.read_bytes()


async def test_nghttp(lab: Lab, tmp_path: Path) -> None:
    _, relay, _ = await lab.simulated()
    body = tmp_path / "body"
    body.write_text(BODY)
    options = ("-d", str(body), "-H", "x-simulate: events=300")
    status, out, err = await run(program("nghttp"), *options, f"{relay.url}/v1/chat/completions")
    assert (status, numbers(out)) == (0, list(range(300))), err.decode()
    await _over_h2(relay)


async def test_nghttp_asks_for_many_at_once(lab: Lab, tmp_path: Path) -> None:
    _, relay, _ = await lab.simulated()
    body = tmp_path / "body"
    body.write_text(BODY)
    options = ("-n", "-s", "-m", "20", "-d", str(body), "-H", "x-simulate: events=300")
    status, out, err = await run(program("nghttp"), *options, f"{relay.url}/v1/chat/completions")
    assert status == 0, err.decode()
    assert len(re.findall(r" 200 .*/v1/chat/completions", out.decode())) == 20
    await _over_h2(relay, 20)


async def test_h2load_loses_nothing(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    status, out, err = await run(*(program("h2load"), "-n", "600", "-c", "5", "-m", "50"), f"{relay.url}/v1/models")
    assert status == 0, err.decode()
    assert "600 succeeded, 0 failed, 0 errored, 0 timeout" in out.decode()
    await _over_h2(relay, 600)


async def test_httpx(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    async with httpx.AsyncClient(http2=True, verify=certificates.client()) as client:

        async def one() -> bytes:
            url = f"https://localhost:{relay.port}/v1/chat/completions"
            async with client.stream(
                "POST", url, content=BODY, headers={"x-simulate": "events=200 rate=1000"}
            ) as answer:
                assert answer.http_version == "HTTP/2"
                return b"".join([part async for part in answer.aiter_raw()])

        bodies = await asyncio.gather(*(one() for _ in range(30)))
    assert all(numbers(body) == list(range(200)) for body in bodies)
    await _over_h2(relay, 30)


async def test_httpx_leaves_a_stream_without_a_word_and_the_stall_timeout_ends_it(
    lab: Lab, certificates: Certificates
) -> None:
    simulator, relay, _ = await lab.simulated(**certificates.settings, stall_timeout="300ms")
    url = f"https://localhost:{relay.port}/v1/chat/completions"
    async with httpx.AsyncClient(http2=True, verify=certificates.client()) as client:
        async with client.stream("POST", url, content=BODY, headers={"x-simulate": "events=0"}) as answer:
            async for part in answer.aiter_raw():
                assert part
                break
        [line] = await relay.access()
        assert line["end"] == "client_stalled"
        await eventually(lambda: [stream["state"] for stream in simulator.streams] == ["cancelled"])


async def test_the_openai_package(lab: Lab, certificates: Certificates) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    async with openai.AsyncOpenAI(
        api_key="none",
        base_url=f"https://localhost:{relay.port}/v1",
        http_client=openai.DefaultAsyncHttpxClient(http2=True, verify=certificates.client()),
        default_headers={"x-simulate": "events=50 rate=500"},
    ) as client:
        stream = await client.chat.completions.create(
            model="simulated", messages=[{"role": "user", "content": "Go on."}], stream=True
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert [int(digits) for digits in re.findall(r"tok(\d{6})", text)] == list(range(50))
    assert chunks[-1].choices[0].finish_reason == "stop"
    await _over_h2(relay)


NODE = """
const http2 = require('http2');
const session = http2.connect(process.argv[1]);
const ask = (number) => new Promise((resolve, reject) => {
  const stream = session.request({':method': 'POST', ':path': '/v1/chat/completions', 'x-simulate': 'events=300'});
  let text = '';
  stream.setEncoding('utf8');
  stream.on('data', (part) => { text += part; });
  stream.on('end', () => resolve([...text.matchAll(/tok(\\d{6})/g)].map((found) => Number(found[1]))));
  stream.on('error', reject);
  stream.end('{"stream": true}');
});
(async () => {
  const answers = await Promise.all([...Array(40).keys()].map(ask));
  console.log(JSON.stringify(answers));
  session.close();
})();
"""


async def test_node(lab: Lab) -> None:
    _, relay, _ = await lab.simulated()
    status, out, err = await run(program("node"), "-e", NODE, relay.url)
    assert status == 0, err.decode()
    assert orjson.loads(out) == [list(range(300))] * 40
    await _over_h2(relay, 40)


GO = """
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
)

func main() {
	pem, _ := os.ReadFile(os.Args[2])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport}
	var group sync.WaitGroup
	for number := 0; number < 40; number++ {
		group.Add(1)
		go func() {
			defer group.Done()
			request, _ := http.NewRequest("POST", os.Args[1], strings.NewReader(`{"stream": true}`))
			request.Header.Set("x-simulate", "events=300")
			answer, err := client.Do(request)
			if err != nil {
				fmt.Println(err)
				return
			}
			body, err := io.ReadAll(answer.Body)
			text := string(body)
			fmt.Println(answer.Proto, strings.Count(text, "tok"), strings.HasSuffix(text, "[DONE]\\n\\n"), err)
		}()
	}
	group.Wait()
}
"""


async def test_go(lab: Lab, certificates: Certificates, tmp_path: Path) -> None:
    _, relay, _ = await lab.simulated(**certificates.settings)
    source = tmp_path / "client.go"
    source.write_text(GO)
    url = f"https://localhost:{relay.port}/v1/chat/completions"
    status, out, err = await run(program("go"), "run", str(source), url, certificates.authority)
    assert status == 0, err.decode()
    assert out.decode().splitlines() == ["HTTP/2.0 300 true <nil>"] * 40
    await _over_h2(relay, 40)
