"""A real Chromium, driven by its own protocol over a websocket: no other package is needed."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

PATIENCE_S = 30.0
"""A busy machine has so long; where nothing is wrong, everything takes milliseconds."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """Return the program, or skip the test."""
    for name in PROGRAMS:
        if found := shutil.which(name):
            return found
    pytest.skip("there is no Chromium: `make web-test` installs it from the system's packages")


class Page:
    """One page of a browser."""

    def __init__(self, socket_url: str) -> None:
        self._socket = websocket.create_connection(socket_url, PATIENCE_S, suppress_origin=True)
        self._ids = itertools.count(1)
        self.requests: list[str] = []
        """The URLs that the page asked for, websockets too."""
        self.errors: list[str] = []
        """What the console showed as errors or warnings, and exceptions."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call the browser and return its result."""
        identity = next(self._ids)
        self._socket.send(json.dumps({"id": identity, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == identity:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: Any) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Network.webSocketCreated":
                self.requests.append(parameters["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.errors.append(parameters["entry"]["text"])

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, patience_s: float = PATIENCE_S) -> Any:
        """Wait until an expression is true; return its value."""
        give_up_at = time.monotonic() + patience_s
        while True:
            value = self.run(expression)
            if value:
                return value
            assert time.monotonic() < give_up_at, f"it never came true: {expression}; {self.errors}"
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def size(self, width: int, height: int, scale: float = 1.0, *, is_phone: bool = False) -> None:
        """Set the size of the window, in the page's pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is shown as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser with an empty profile in that folder."""
    command = [
        chromium(), "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run",
        "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb", "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file, give_up_at = folder / "DevToolsActivePort", time.monotonic() + PATIENCE_S
            while not (port_file.exists() and port_file.read_text().count("\n")):
                assert process.poll() is None, "Chromium ended at once"
                assert time.monotonic() < give_up_at, "Chromium does not start"
                time.sleep(0.02)
            port = port_file.read_text().split("\n")[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                [target] = [each for each in json.load(answer) if each["type"] == "page"]
            page = Page(target["webSocketDebuggerUrl"])
            try:
                yield page
            finally:
                page.close()
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
