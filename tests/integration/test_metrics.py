"""What /metrics tells of requests, limits, providers and reloads, in one process and of several workers."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from flowserver import __version__
from tests.support.exposed import broken_rules
from tests.support.lab import Lab, RelayProcess, chat, eventually, page, samples
from tests.support.promtool import needs_promtool, promtool
from tests.support.provider import answering
from tests.support.topology import tenant, toml
from tests.support.wire import request, response

KEY = "flow-" + "k" * 43
AUTH = f"Authorization: Bearer {KEY}"
LIMITS = "requests_per_minute = 3\n[tenants.user]\nconcurrent = 1"


def config(folder: Path, url: str, *lines: str) -> str:
    return toml(folder, {"a": url}, "\n".join([tenant(KEY, *lines)]))


def rewritten(path: str, text: str) -> None:
    Path(path).write_text(text)


def as_it_is(path: str) -> str:
    return Path(path).read_text()


async def said(process: RelayProcess) -> dict[str, float]:
    return samples((await page(process.admin_port, "/metrics")).body.decode())


@pytest.mark.parametrize("fast_path", ["on", "off"])
async def test_requests_are_told_by_tenant_and_end_and_times_by_provider(
    lab: Lab, tmp_path: Path, fast_path: str
) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(None, config=config(tmp_path, simulator.url), fast_path=fast_path, metrics_genai="both")
    client = await lab.client(relay.port)
    for options in ({"events": 5}, {"events": 5, "status": 500}):
        await client.send(chat((AUTH,), **options))
        await client.response()
    await relay.access(2)
    told = await relay.metrics()
    assert told['flow_requests_total{end="complete",status="2xx",tenant="acme"}'] == 1
    assert told['flow_requests_total{end="complete",status="5xx",tenant="acme"}'] == 1
    for name, count in (("head", 2), ("first_token", 1), ("token_interval", 1), ("duration", 2)):
        assert told[f'flow_upstream_{name}_seconds_count{{upstream="a"}}'] == count, name
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="openai",gen_ai_request_model="simulated",upstream="a"'
    assert told[f"gen_ai_client_inference_duration_seconds_count{{{labels}}}"] == 1
    assert told[f'gen_ai_client_inference_duration_seconds_count{{error_type="500",{labels}}}'] == 1


async def test_a_time_to_the_first_token_holds_neither_the_upload_nor_the_queue(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(simulator.url)
    client = await lab.client(relay.port)
    whole = chat(events=5)
    await client.send(whole[:-1])
    await asyncio.sleep(0.3)
    await client.send(whole[-1:])
    await client.response()
    await relay.access()
    told = await relay.metrics()
    upstream = relay.relay.metrics.upstreams[0].name
    of_provider = told[f'flow_upstream_first_token_seconds_sum{{upstream="{upstream}"}}']
    assert told["flow_first_byte_seconds_sum"] - of_provider > 0.29


async def test_refusals_are_told_by_the_limit_that_refused(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    relay = await lab.relay(None, config=config(tmp_path, simulator.url, LIMITS))
    first, second = await lab.client(relay.port), await lab.client(relay.port)
    await first.send(chat((AUTH,), events=1000, rate=100))
    await first.until(b"tok000001")
    for _ in range(3):
        await second.send(chat((AUTH,), events=1))
        assert (await second.response()).status == 429
    first.close()
    await relay.access(4)
    await second.send(chat((AUTH, "x-flow-user: other"), events=1))
    assert (await second.response()).status == 200
    await second.send(chat((AUTH, "x-flow-user: other"), events=1))
    assert (await second.response()).status == 200
    await second.send(chat((AUTH, "x-flow-user: another"), events=1))
    assert (await second.response()).status == 429
    await relay.access(7)
    told = await relay.metrics()
    refusals = {name: value for name, value in told.items() if name.startswith("flow_limit_refusals")}
    assert refusals == {
        'flow_limit_refusals_total{limit="concurrent",scope="user",tenant="acme"}': 3,
        'flow_limit_refusals_total{limit="requests_per_minute",scope="tenant",tenant="acme"}': 1,
    }
    assert told['flow_requests_total{end="limited",status="4xx",tenant="acme"}'] == 4


async def test_a_429_of_a_provider_is_no_refusal_of_the_relay(lab: Lab, tmp_path: Path) -> None:
    provider = await lab.provider(answering(response(b"{}", status="429 Too Many Requests")))
    relay = await lab.relay(None, config=config(tmp_path, provider.url), retry_attempts=1)
    client = await lab.client(relay.port)
    await client.send(chat((AUTH,)))
    assert (await client.response()).status == 429
    await relay.access()
    told = await relay.metrics()
    assert not [name for name in told if name.startswith("flow_limit_refusals")]
    assert told['flow_requests_total{end="complete",status="4xx",tenant="acme"}'] == 1


async def test_the_page_says_which_build_of_which_version_runs(lab: Lab) -> None:
    relay = await lab.relay((await lab.simulator()).url)
    [info] = [name for name in await relay.metrics() if name.startswith("flow_build_info")]
    assert f'version="{__version__}"' in info
    assert 'build="pure"' in info or 'build="compiled"' in info


async def test_a_reload_that_fails_is_told_until_one_succeeds(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    path = config(tmp_path, simulator.url)
    good = as_it_is(path)
    relay = await lab.relay(None, config=path)
    successful, at = "flow_config_last_reload_successful", "flow_config_last_reload_success_timestamp_seconds"
    begun = await relay.metrics()
    assert begun[successful] == 1
    rewritten(path, "upstreams = 1")
    assert not relay.relay.reload()
    failed = await relay.metrics()
    assert (failed[successful], failed[at]) == (0, begun[at])
    rewritten(path, good)
    assert relay.relay.reload()
    again = await relay.metrics()
    assert again[successful] == 1
    assert again[at] > begun[at]


async def test_a_parent_tells_of_reloads_once_for_all_workers(lab: Lab, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    path = config(tmp_path, simulator.url)
    good = as_it_is(path)
    process = await lab.process(None, config=path, workers=2)
    successful = "flow_config_last_reload_successful"
    assert (await said(process))[successful] == 1
    for text, event, value in (("upstreams = 1", "reload_failed", 0), (good, "reloaded", 1)):
        rewritten(path, text)
        process.signal(signal.SIGHUP)
        await eventually(lambda event=event: event in process.events(), event)  # type: ignore[misc]
        assert (await said(process))[successful] == value


# --- names and form ---


async def _used_page(lab: Lab, folder: Path, workers: int) -> bytes:
    """The page of a relay that has served."""
    simulator = await lab.simulator()
    path = config(folder, simulator.url, "requests_per_minute = 4")
    process = await lab.process(None, config=path, workers=workers, metrics_genai="both")
    for _ in range(5):
        client = await lab.client(process.port)
        await client.send(chat((AUTH,), events=5))
        await client.response()
    await client.send(request("POST", "/v1/embeddings", [AUTH], body=b"{}"))
    await client.response()
    return (await page(process.admin_port, "/metrics")).body


@needs_promtool
@pytest.mark.parametrize("workers", [1, 2])
async def test_promtool_finds_nothing_wrong(lab: Lab, tmp_path: Path, workers: int) -> None:
    told = await _used_page(lab, tmp_path, workers)
    assert broken_rules(told.decode()) == []
    assert await asyncio.to_thread(promtool, "check", "metrics", given=told) == (0, "")


@needs_promtool
def test_promtool_would_say_so() -> None:
    _, said = promtool("check", "metrics", given=b"# HELP x_total A gauge.\n# TYPE x_total gauge\nx_total 1\n")
    assert "x_total" in said
