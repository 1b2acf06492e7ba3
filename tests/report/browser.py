"""A headless Chromium driven through its DevTools pipe: no driver and no package needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-default-apps --disable-extensions --mute-audio --remote-debugging-pipe"
)
LIMIT = 60.0
"""Seconds after which an answer that does not come fails the test."""


def find() -> str | None:
    """Path of a browser, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page. ``errors`` collects console errors, failed loads and exceptions that nobody caught."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 900)) -> None:
        path = find()
        assert path is not None
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True, exist_ok=True)
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in (to_child, from_child)]

        def attach() -> None:  # the browser reads its commands from 3 and answers on 4
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        command = [path, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}", f"--window-size={size[0]},{size[1]}", "about:blank"]
        none = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=attach, pass_fds=(3, 4), stdin=none, stdout=none, stderr=none)
        for end in high:
            os.close(end)
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._last, self.errors = b"", 0, []
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    errors: list[str]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A DevTools command's result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser closed its pipe"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")
        return message

    def open(self, path: Path) -> float:
        """Load a file and wait until every figure is drawn; gives the seconds from navigation to the load event."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")
        return float(self.run("performance.getEntriesByType('navigation')[0].loadEventEnd")) / 1000

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait for a JavaScript condition."""
        end = time.monotonic() + LIMIT
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            self.run("new Promise((done) => setTimeout(done, 30))")

    def downloaded(self, name: str) -> str:
        """Text of a downloaded file, once it is whole."""
        end = time.monotonic() + LIMIT
        while not (self.downloads / name).exists():
            assert time.monotonic() < end, f"{name} was not downloaded; there: {list(self.downloads.iterdir())}"
            self.run("new Promise((done) => setTimeout(done, 30))")
        return (self.downloads / name).read_text("utf-8")

    def media(self, *, scheme: str = "light", kind: str = "") -> None:
        """Emulate a colour scheme, and a medium such as ``print``."""
        self.call("Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}])

    def resize(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Size of the window in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self) -> bytes:
        """The page as printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])
