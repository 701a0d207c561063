"""A headless Chromium, driven over WebDriver (w3.org/TR/webdriver2) by chromedriver."""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx

from .lab import free_port
from .peers import program
from .wire import PATIENCE

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "ArrowDown": "\ue015", "ArrowUp": "\ue013", "Tab": "\ue004"}


class Browser:
    """One window."""

    def __init__(self, client: httpx.AsyncClient, session: str) -> None:
        self._client = client
        self._session = session

    async def open(self, url: str) -> None:
        await self._post("url", url=url)

    async def js(self, script: str, *arguments: object) -> Any:
        """What the function body `script` returns."""
        return await self._post("execute/sync", script=script, args=list(arguments))

    async def until(self, script: str, *arguments: object, within: float = PATIENCE) -> Any:
        """Wait until `script` returns something true, and return that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while loop.time() < deadline:
            if found := await self.js(script, *arguments):
                return found
            await asyncio.sleep(0.05)
        text = await self.js("return document.body.innerText")
        raise AssertionError(f"never true: {script}\n{text}")

    async def text(self, selector: str) -> str:
        return str(await self.js("return document.querySelector(arguments[0]).innerText", selector))

    async def texts(self, selector: str) -> list[str]:
        found = await self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)
        return [str(each) for each in found]

    async def click(self, selector: str) -> None:
        await self._element(selector, "click")

    async def type(self, selector: str, text: str) -> None:
        await self._element(selector, "value", text=text)

    async def press(self, *keys: str) -> None:
        """Keys for whatever has the focus, by their names or as characters."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        await self._post("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    async def size(self, width: int, height: int) -> None:
        """Of the page, in pixels."""
        await self._post(
            "chromium/send_command_and_get_result",
            cmd="Emulation.setDeviceMetricsOverride",
            params={"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    async def prefer(self, scheme: str) -> None:
        """What the system prefers: `light` or `dark`."""
        await self._post(
            "chromium/send_command_and_get_result",
            cmd="Emulation.setEmulatedMedia",
            params={"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    async def screenshot(self) -> bytes:
        """A PNG."""
        return b64decode(str(await self._get("screenshot")))

    async def complaints(self) -> list[str]:
        """What the console has said since this was last asked."""
        found = await self._post("se/log", type="browser")
        return [f"{entry['level']} {entry['message']}" for entry in found]

    async def _element(self, selector: str, what: str, **given: object) -> None:
        found = await self._post("element", using="css selector", value=selector)
        [element] = found.values()
        await self._post(f"element/{element}/{what}", **given)

    async def _post(self, what: str, **given: object) -> Any:
        return _value(await self._client.post(f"/session/{self._session}/{what}", json=given))

    async def _get(self, what: str) -> Any:
        return _value(await self._client.get(f"/session/{self._session}/{what}"))


def _value(answer: httpx.Response) -> Any:
    value = answer.json()["value"]
    assert answer.status_code == 200, value
    return value


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A window of a new profile in `folder`. Skips the test where there is no Chromium or no chromedriver."""
    chromium, driver, port = program("chromium"), program("chromedriver"), free_port()
    process = await asyncio.create_subprocess_exec(
        driver, f"--port={port}", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    options = {"binary": chromium, "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}"]}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=40, trust_env=False) as client:
            await _listening(client)
            answer = await client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            session = str(_value(answer)["sessionId"])
            try:
                yield Browser(client, session)
            finally:
                await client.delete(f"/session/{session}")
    finally:
        process.terminate()
        await process.wait()


async def _listening(client: httpx.AsyncClient) -> None:
    for _ in range(500):
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/status")).status_code == 200:
                return
        await asyncio.sleep(0.02)
    raise AssertionError("chromedriver does not listen")
