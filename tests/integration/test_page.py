"""The live page in a real Chromium, before a real relay. With UPDATE_SCREENSHOTS=1 the pictures of docs/images are made
anew."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from rich.console import Console

from flowserver.cli.top_state import TopState
from flowserver.cli.top_view import screen
from tests.support.admin import TOKEN, table
from tests.support.browser import Browser, browser
from tests.support.lab import Lab, RunningRelay, chat, free_port, simulate
from tests.support.topology import tenant, toml
from tests.support.wire import Wire, request

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
STYLE = ROOT / "flowserver" / "telemetry" / "page" / "page.css"
ROWS = "return [...document.querySelectorAll('#rows tr')].map(row => row.dataset.id)"
LIVE = "return document.querySelector('#state').dataset.state === 'live'"
SAID = "return document.querySelector('#end-result').innerText"
HOSTILE = "<img src=x onerror=window.hurt=1>"

pytestmark = [pytest.mark.slow, pytest.mark.serial]


@pytest.fixture
async def window(tmp_path: Path) -> AsyncIterator[Browser]:
    async with browser(tmp_path) as opened:
        yield opened
        assert await opened.complaints() == []


async def _streams(lab: Lab, relay: RunningRelay, *names: str, rate: int = 20) -> list[Wire]:
    """One stream for each name, which is its request's id."""
    wires = []
    for name in names:
        wire = await lab.client(relay.port)
        await wire.send(chat((f"x-request-id: {name}",), events=0, rate=rate))
        await wire.until(b"data: ")
        wires.append(wire)
    return wires


async def _shows(window: Browser, *names: str) -> None:
    """Wait until the table has the streams of these names, in this order."""
    await window.until(f"{ROWS}.join() === arguments[0]", ",".join(names))


async def _follow(window: Browser, name: str) -> None:
    """Open the details of this stream."""
    await window.click(f"#rows tr[data-id='{name}']")
    await window.until("return document.querySelector('#detail-id').innerText === arguments[0]", name)


def _page(port: int, view: str = "") -> str:
    return f"http://127.0.0.1:{port}/{view}"


async def test_it_shows_what_the_relay_does_and_goes_on(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated()
    await _streams(lab, relay, "one", "two")
    await window.open(_page(relay.admin_port))
    await window.until(LIVE)
    await window.until(f"{ROWS}.length === 2")
    await window.until("return document.querySelectorAll('.tile canvas').length === 4")
    assert await window.js("return document.querySelector('[data-chart=streams] .figure').innerText") == "2"
    tokens = "return Number([...document.querySelectorAll('#rows tr')][0].children[5].innerText.replace(/,/g, ''))"
    before = await window.js(tokens)
    await window.until(f"{tokens.replace('return ', 'return arguments[0] + 20 < ')}", before)
    assert "127.0.0.1" in await window.text("#providers")
    assert "Memory" in await window.text("#relay")
    assert await window.js("return document.title") == "2 streams · flowserver"
    await _streams(lab, relay, "three")
    await window.until(f"{ROWS}.length === 3")


async def test_the_last_ends_are_told_by_their_reasons(lab: Lab, window: Browser) -> None:
    _, relay, client = await lab.simulated()
    await client.send(chat(("x-request-id: whole",), events=3))
    await client.response()
    [left] = await _streams(lab, relay, "left")
    left.close()
    await relay.access(2)
    await window.open(_page(relay.admin_port))
    await window.until("return document.querySelectorAll('#ends li').length === 2")
    ends = await window.texts("#ends li")
    assert ends[0].startswith("client gone · 200")
    assert ends[1].startswith("complete · 200")
    assert "simulated" in ends[1]
    assert "3 tokens" in ends[1]
    assert await window.js("return [...document.querySelectorAll('#reasons .chip')].length") == 2
    assert await window.text("#empty") == "No stream is open."


async def test_it_sorts_and_filters_by_the_relay(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated()
    await _streams(lab, relay, "slow-a", rate=5)
    await _streams(lab, relay, "quick-b", rate=200)
    await _streams(lab, relay, "mid-c", rate=50)
    await window.open(_page(relay.admin_port, "#sort=-age_seconds"))
    await _shows(window, "slow-a", "quick-b", "mid-c")
    await window.click("#columns th:nth-child(5) button")
    await _shows(window, "quick-b", "mid-c", "slow-a")
    sort = "return document.querySelector('#columns th:nth-child(5)').getAttribute('aria-sort')"
    assert await window.js(sort) == "descending"
    await window.click("#columns th:nth-child(5) button")
    await _shows(window, "slow-a", "mid-c", "quick-b")
    assert await window.js(sort) == "ascending"
    await window.js("document.activeElement.blur()")
    await window.press("/", *"id:k-b")
    await _shows(window, "quick-b")
    await window.until("return document.querySelector('#shown').innerText === '1 of 3 fit'")
    assert await window.js("return location.hash") == "#filter=id%3Ak-b&sort=tokens_per_second"
    await window.press("Escape")
    await window.until(f"{ROWS}.length === 3")
    await window.click("#holders .chip.provider")
    await window.until("return document.querySelector('#filter').value === 'slow:provider'")
    await window.type("#filter", " nobody")
    await window.until("return document.querySelector('#empty').innerText === 'No open stream fits the filter.'")


async def test_of_many_streams_it_shows_the_first_and_finds_any(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated()
    await _streams(lab, relay, *(f"many-{number:03}" for number in range(130)), rate=2)
    await window.open(_page(relay.admin_port, "#sort=-age_seconds"))
    await window.until("return document.querySelector('#shown').innerText === '130, the first 100'")
    assert "many-129" not in await window.js(ROWS)
    await window.type("#filter", "many-129")
    await _shows(window, "many-129")
    await window.js("const s = document.querySelector('#limit'); s.value = '250'; s.dispatchEvent(new Event('change'))")
    await window.press("Escape")
    await window.until(f"{ROWS}.length === 130")


async def test_a_stream_is_followed_with_the_keys_until_its_end(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated()
    _, second = await _streams(lab, relay, "first", "second")
    await window.open(_page(relay.admin_port, "#sort=-age_seconds"))
    await _shows(window, "first", "second")
    await window.press("j", "j")
    assert await window.js("return document.activeElement.dataset.id") == "second"
    await window.press("Enter")
    await window.until("return document.querySelector('#detail-state').innerText.startsWith('streaming')")
    assert await window.text("#detail-id") == "second"
    assert "simulated" in await window.text("#detail-fields")
    assert await window.js("return document.activeElement.id") == "close"
    second.close()
    await window.until("return document.querySelector('#detail-state').innerText.startsWith('Ended: client gone')")
    assert await window.js("return document.querySelector('#end').disabled")
    await window.press("Escape")
    assert await window.js("return document.querySelector('#detail').hidden")


async def test_money_is_told_in_dollars(lab: Lab, window: Browser, tmp_path: Path) -> None:
    simulator = await lab.simulator()
    key = _key("acme")
    prices = '[[prices]]\nmodels = ["simulated"]\ninput = 3\noutput = 1500\n'
    file = tenant(key, "usd_per_day = 2500", "tokens_per_day = 5000") + prices
    relay = await lab.relay(None, config=toml(tmp_path, {"only": simulator.url}, file))
    wire = await lab.client(relay.port)
    await wire.send(chat((f"Authorization: Bearer {key}",), events=0, rate=200))
    await wire.until(b"data: ")
    await window.open(_page(relay.admin_port))
    tenants = "return document.querySelector('#tenants').innerText"
    await window.until(f"{tenants}.includes('of $2,500.00')")
    assert "dollars today" in await window.text("#tenants")
    assert "of 5,000" in await window.text("#tenants")
    await window.click("#rows tr")
    cost = r"return /Cost\s+\$[0-9]+\.[0-9]{2}/.test(document.querySelector('#detail-fields').innerText)"
    await window.until(cost)


async def test_a_provider_that_is_taken_out_is_shown_so(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated(admin_token=TOKEN)
    await window.open(_page(relay.admin_port))
    await window.until("return document.querySelector('#providers').innerText.includes('healthy')")
    [provider] = orjson.loads((await relay.page("/live?once")).body)["upstreams"]
    await table(relay.admin_port, "POST", f"/upstreams/{provider['name']}/out", token=TOKEN)
    await window.until("return document.querySelector('#providers').innerText.includes('taken out by an operator')")


async def test_ending_a_stream_takes_the_token_that_was_typed_once(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated(admin_token="right-right-right")
    one, two, three = await _streams(lab, relay, "one", "two", "three")
    await window.open(_page(relay.admin_port, "#sort=-age_seconds"))
    await _shows(window, "one", "two", "three")
    await _follow(window, "one")
    await window.click("#end")
    assert await window.js("return document.activeElement.id") == "token"
    await window.type("#token", "wrong")
    await window.press("Enter")
    await window.until(f'{SAID} === "This is not the relay\'s admin token."')
    assert relay.relay.metrics.open
    await window.type("#token", "right-right-right")
    await window.click("#end")
    await window.until(f"{SAID} === 'The relay ends it.'")
    await asyncio.wait_for(one.rest(), 10)
    await window.until("return document.querySelector('#detail-state').innerText.startsWith('Ended')")
    assert [line["end"] for line in await relay.access(1)] == ["ended_by_operator"]
    await window.press("Escape")
    await _follow(window, "two")
    await window.click("#end")  # the token is known by now
    await window.until(f"{SAID} === 'The relay ends it.'")
    await asyncio.wait_for(two.rest(), 10)
    assert await window.js("return [localStorage.length, document.querySelector('#token').value]") == [0, ""]
    await window.press("Escape")
    await _follow(window, "three")
    await window.click("#forget")
    assert await window.js("return sessionStorage.length") == 0
    assert len(relay.relay.metrics.open) == 1
    three.close()
    assert ["401" in each for each in await window.complaints()] == [True]


async def test_ending_a_stream_where_no_token_is_set_says_what_to_set(lab: Lab, window: Browser) -> None:
    _, relay, _ = await lab.simulated()
    await _streams(lab, relay, "one")
    await window.open(_page(relay.admin_port))
    await _shows(window, "one")
    await _follow(window, "one")
    await window.click("#end")
    await window.type("#token", "any")
    await window.press("Enter")
    await window.until(f"{SAID}.includes('FLOW_ADMIN_TOKEN')")
    assert relay.relay.metrics.open
    assert ["403" in each for each in await window.complaints()] == [True]


async def test_it_survives_a_restart_of_the_relay(lab: Lab, tmp_path: Path) -> None:
    simulator, admin = await lab.simulator(), free_port()
    settings = {"admin_listen": f"127.0.0.1:{admin}", "listen": f"127.0.0.1:{free_port()}"}
    relay = await lab.process(simulator.url, **settings)
    async with browser(tmp_path) as window:
        await window.open(_page(admin))
        await window.until(LIVE)
        relay.signal(signal.SIGKILL)
        await relay.exit_status()
        await window.until("return document.querySelector('#state').dataset.state === 'lost'")
        assert "asking again" in await window.text("#state")
        assert await window.js("return document.body.classList.contains('stale')")
        again = await lab.process(simulator.url, **settings)
        await window.until(LIVE)
        await window.until("return document.querySelector('#notice').innerText.includes('started again')")
        wire = await lab.client(again.port)
        await wire.send(chat(("x-request-id: after",), events=0, rate=20))
        await _shows(window, "after")
        complaints = await window.complaints()
        assert all("ERR_CONNECTION_REFUSED" in each or "ERR_INCOMPLETE" in each for each in complaints), complaints


async def test_hostile_names_are_text(lab: Lab, window: Browser) -> None:
    _, relay, client = await lab.simulated()
    body = orjson.dumps({"model": HOSTILE, "stream": True, "user": HOSTILE, "messages": []})
    lines = ["Content-Type: application/json", simulate(events=0, rate=20)]
    await client.send(request("POST", "/v1/chat/completions", lines, body=body))
    await client.until(b"data: ")
    await window.open(_page(relay.admin_port))
    await window.until(f"{ROWS}.length === 1")
    assert (await window.text("#rows")).startswith(HOSTILE)
    await window.click("#rows tr")
    await window.until("return document.querySelector('#detail-fields').innerText.includes('<img')")
    client.close()
    await window.until("return document.querySelector('#ends').innerText.includes('<img')")
    assert await window.js("return [window.hurt ?? null, document.querySelectorAll('main img').length]") == [None, 0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_light_or_dark_as_the_system_or_the_reader_wants(lab: Lab, window: Browser, scheme: str) -> None:
    _, relay, _ = await lab.simulated()
    await window.prefer(scheme)
    await window.open(_page(relay.admin_port))
    theme = "return document.documentElement.dataset.theme"
    assert await window.js(theme) == scheme
    brightness = "return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)[0]"
    assert (await window.js(brightness) > 128) is (scheme == "light")
    await window.click("#theme")
    assert await window.js(theme) == "light"
    await window.press("t")
    assert await window.js(theme) == "dark"
    await window.open(_page(relay.admin_port, "?again"))
    assert await window.js(theme) == "dark"


@pytest.mark.parametrize("width", [400, 700, 1000, 1440])
async def test_the_page_is_never_wider_than_its_window(lab: Lab, window: Browser, width: int) -> None:
    _, relay, _ = await lab.simulated()
    await _streams(lab, relay, "a" * 200, "short")
    await window.size(width, 900)
    await window.open(_page(relay.admin_port))
    await window.until(f"{ROWS}.length === 2")
    assert await window.js("return document.documentElement.scrollWidth <= innerWidth")
    await window.click("#rows tr")
    await window.until("return document.querySelector('#detail-state').innerText !== ''")
    assert await window.js("return document.documentElement.scrollWidth <= innerWidth")
    assert await window.js("return document.querySelector('#detail').getBoundingClientRect().left >= 0")


async def test_what_the_page_may_do_is_bounded_by_its_policy(lab: Lab, tmp_path: Path) -> None:
    _, relay, _ = await lab.simulated()
    answer = await relay.page("/")
    policy = answer.get("content-security-policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    async with browser(tmp_path) as window:
        await window.open(_page(relay.admin_port))
        await window.until(LIVE)
        await window.js(
            "const s = document.createElement('script');"
            "try { s.textContent = 'window.hurt = 1'; document.body.append(s); } catch { }"
        )
        assert await window.js("return window.hurt ?? null") is None
        assert any("Content Security Policy" in each or "TrustedScript" in each for each in await window.complaints())


async def test_all_workers_are_on_the_page(lab: Lab, window: Browser) -> None:
    simulator = await lab.simulator()
    relay = await lab.process(simulator.url, workers=2)
    wires = [await lab.client(relay.port) for _ in range(6)]
    for number, wire in enumerate(wires):
        await wire.send(chat((f"x-request-id: of-{number}",), events=0, rate=20))
        await wire.until(b"data: ")
    await window.open(_page(relay.admin_port, "#sort=request_id"))
    await window.until(f"{ROWS}.length === 6")
    await window.until("return document.querySelector('#relay').innerText.includes('worker 1 late')")
    await window.click("#rows tr")
    await window.until("return document.querySelector('#detail-fields').innerText.startsWith('Worker')")


# The pictures of the documentation


@pytest.mark.skipif(not os.environ.get("UPDATE_SCREENSHOTS"), reason="UPDATE_SCREENSHOTS is not set")
async def test_pictures(lab: Lab, window: Browser, tmp_path: Path) -> None:
    async with _busy_relay(lab, tmp_path) as relay:
        await window.prefer("light")
        await window.size(1280, 900)
        await window.open(_page(relay.admin_port))
        await asyncio.sleep(70)
        await _keep(window, "page-light.png")
        _keep_top(orjson.loads((await relay.page("/live?once")).body))
        await window.click("#rows tr:nth-child(2)")
        await window.prefer("dark")
        await asyncio.sleep(8)
        await _keep(window, "page-dark.png")
        await window.press("Escape")
        await window.prefer("light")
        await window.size(400, 860)
        await asyncio.sleep(2)
        await _keep(window, "page-narrow.png")


async def _keep(window: Browser, name: str) -> None:
    """With 256 colours, in half of the bytes: those of the page's own style, as dots are too small to get one by
    themselves, and as many others as there is room for."""
    images = pytest.importorskip("PIL.Image")
    picture = images.open(io.BytesIO(await window.screenshot())).convert("RGB")
    style = {bytes.fromhex(found) for found in re.findall(r"#([0-9a-f]{6})\b", STYLE.read_text(encoding="utf-8"))}
    others = 256 - len(style)
    palette = images.new("P", (1, 1))
    palette.putpalette(bytes(picture.quantize(others).getpalette()[: 3 * others]) + b"".join(sorted(style)))
    picture.quantize(palette=palette, dither=images.Dither.NONE).save(IMAGES / name, optimize=True)


def _keep_top(live: dict[str, object]) -> None:
    """What `flowserver top` shows of the same. Its picture asks no other host for a font."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(screen(live, TopState(), width=100, height=28))
    drawing = console.export_svg(title="flowserver top")
    drawing = re.sub(r"<!--.*?-->|@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    drawing = drawing.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace")
    (IMAGES / "top.svg").write_text("\n".join(line.rstrip() for line in drawing.splitlines() if line.strip()) + "\n")


PRICES = {"gpt-4o": (2.5, 10), "gpt-4o-mini": (0.15, 0.6), "claude-sonnet-4": (3, 15), "llama-3.1-70b": (0.3, 0.4)}
MODELS = {"gpt-4o": 42, "gpt-4o-mini": 80, "claude-sonnet-4": 55, "llama-3.1-70b": 30}


@contextlib.asynccontextmanager
async def _busy_relay(lab: Lab, folder: Path) -> AsyncIterator[RunningRelay]:
    """Three providers, three tenants, and clients some of whom are slow."""
    simulators = [await lab.simulator() for _ in range(3)]
    limits = {
        "acme": ["usd_per_day = 2.50", "concurrent = 40"],
        "globex": ["tokens_per_minute = 90_000"],
        "initech": ["tokens_per_month = 2_000_000"],
    }
    tenants = [tenant(_key(name), *lines, name=name) for name, lines in limits.items()]
    routes = [
        f'[[routes]]\nmodels = ["{model}*"]\nupstreams = ["{upstream}"]\n'
        for model, upstream in (("gpt", "openai"), ("claude", "anthropic"), ("llama", "vllm"))
    ]
    prices = [
        f'[[prices]]\nmodels = ["{model}"]\ninput = {input}\noutput = {output}\n'
        for model, (input, output) in PRICES.items()
    ]
    openai, anthropic, vllm = (simulator.url for simulator in simulators)
    upstreams: dict[str, dict[str, object]] = {
        "openai": {"url": openai, "max_concurrent": 40, "queue": 50},
        "anthropic": {"url": anthropic},
        "vllm": {"url": vllm, "max_concurrent": 12, "queue": 50},
    }
    config = toml(folder, upstreams, "\n".join([*tenants, *routes, *prices]))
    relay = await lab.relay(None, config=config)
    clients = [asyncio.create_task(_keep_asking(relay.port, number, list(limits))) for number in range(56)]
    try:
        yield relay
    finally:
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


def _key(name: str) -> str:
    return "flow-" + name[0] * 43


async def _keep_asking(port: int, number: int, tenants: list[str]) -> None:
    await asyncio.sleep(number * 0.15)
    model, rate = list(MODELS.items())[number % len(MODELS)]
    is_slow = number % 8 == 3
    body = orjson.dumps({"model": model, "stream": True, "user": ("ann", "bob", "eve")[number % 3], "messages": []})
    for turn in range(1000):
        events = 250 + (number * 97 + turn * 193) % 900
        script = simulate(events=events, rate=rate, first=0.2 + number % 5 * 0.15, size=900 if is_slow else 280)
        lines = ["Content-Type: application/json", f"Authorization: Bearer {_key(tenants[number % 3])}", script]
        wire = await Wire.connect(port, receive_buffer=4096 if is_slow else None)
        try:
            await wire.send(request("POST", "/v1/chat/completions", lines, body=body))
            await _read(wire, 1500 if is_slow else 65536, pause=0.3 if is_slow else 0.0)
        finally:
            wire.close()
        await asyncio.sleep(1 + number % 4)


async def _read(wire: Wire, size: int, *, pause: float) -> None:
    data = b"more"
    while not data.endswith(b"0\r\n\r\n"):
        data = await wire.receive(size)
        await asyncio.sleep(pause)
