"""A page in a real headless Chromium, driven over the DevTools protocol: what is shown, keys, sizes, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from support.browser import chromium
from support.waiting import until


class Tab:
    """State: the socket to the browser, the number of the last command, what the page has logged as wrong."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(timeout=20))
            if told.get("id") == self._last:
                assert "error" not in told, (method, told["error"])
                result: dict[str, Any] = told["result"]
                return result
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(told["params"]["exceptionDetails"]))
        elif told.get("method") == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
            self.complaints.append(told["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        told = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def text(self, selector: str = "body") -> str:
        """What is shown there, in a line; empty where it is not shown."""
        found = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " return e?.checkVisibility() ? e.innerText : ''; })()"
        )
        return " ".join(str(found).split())

    def shows(self, words: str, selector: str = "body", seconds: float = 10) -> None:
        """Wait until the words are to be read there."""
        end = time.monotonic() + seconds
        while words not in (seen := self.text(selector)):
            assert time.monotonic() < end, f"no {words!r} in {selector}: {seen}"
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click of the mouse at its middle, where it must be seen."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def key(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)
            if key == "Enter" and kind == "rawKeyDown":
                self.send("Input.dispatchKeyEvent", type="char", key=key, text="\r", windowsVirtualKeyCode=code)

    def write(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def prefers(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path) -> Path:
        """Of the whole page."""
        told = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(told["data"]))
        return path


@contextlib.contextmanager
def tab(folder: Path, *flags: str) -> Iterator[Tab]:
    """A browser of its own with one empty page."""
    profile = folder / "profile"
    port = profile / "DevToolsActivePort"
    with chromium(profile, "about:blank", "--remote-debugging-port=0", *flags):
        until(lambda: port.exists() and len(port.read_text().split()) > 1, "the browser listens", 30)
        number = port.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json/list") as answer:
            pages = [t for t in json.load(answer) if t["type"] == "page"]
        with connect(pages[0]["webSocketDebuggerUrl"], max_size=None, proxy=None) as socket:
            yield Tab(socket)
