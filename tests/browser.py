"""Headless Chromium for tests and benchmarks, over the DevTools protocol and a pipe.

No library is needed: `--remote-debugging-pipe` reads commands from descriptor 3 and answers on 4, as JSON
that ends with a zero byte. WebGL2 runs in software (SwiftShader), on machines with a GPU as well, so that
pictures are the same everywhere; the page around it is painted by the CPU, as it is without a GPU. Nothing
but loopback can be reached.

    with Browser() as browser:
        browser.goto(url)
        assert browser.evaluate("document.title") == "…"
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = """
--headless=new --no-sandbox --remote-debugging-pipe --no-first-run --disable-extensions --mute-audio
--disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage
--disable-background-timer-throttling --disable-renderer-backgrounding --hide-scrollbars
--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --force-color-profile=srgb
--disable-gpu-compositing
""".split()
LOCAL_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1 , EXCLUDE localhost"
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27, " ": 32}

Point = tuple[float, float]


class BrowserError(AssertionError):
    """The page threw, or the browser refused a command."""


def find_chromium() -> str | None:
    """The browser's path, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. Coordinates are CSS pixels from the page's top left.

    requests: URLs that the page has asked for, in order, without data: and blob:. errors: console errors and
    uncaught exceptions, as text. Both grow while commands run. Raises FileNotFoundError without Chromium:
    tests skip with `find_chromium`.
    """

    def __init__(
        self, width: int = 800, height: int = 600, *, timeout: float = 120, arguments: Sequence[str] = ()
    ):
        path = find_chromium()
        if path is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed")
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._timeout, self._last, self._session, self._buffer = timeout, 0, "", b""
        self._events: list[dict[str, Any]] = []
        self._folder = tempfile.mkdtemp(prefix="browser-")
        command = [path, *ARGUMENTS, LOCAL_ONLY, f"--user-data-dir={self._folder}", *arguments, "about:blank"]
        self._process, self._write, self._read = _started(command)
        try:
            target = self.command("Target.createTarget", url="about:blank")["targetId"]
            attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.command(f"{domain}.enable")
            self.resize(width, height)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all of its processes, and remove its profile."""
        os.close(self._write)
        os.close(self._read)
        try:
            os.killpg(self._process, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self._process, 0)
        shutil.rmtree(self._folder, ignore_errors=True)

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + self._timeout
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]  # type: ignore[no-any-return]

    def goto(self, url: str | Path) -> None:
        """Open a URL, or a file, and wait for its load event."""
        address = url.absolute().as_uri() if isinstance(url, Path) else url
        self._events.clear()
        if error := self.command("Page.navigate", url=address).get("errorText"):
            raise BrowserError(f"{address}: {error}")
        self._wait_for_event("Page.loadEventFired", f"loading {address}")

    def back(self) -> None:
        """Go back to the page before, and wait until it is there. What is evaluated earlier would fail."""
        self._events.clear()
        self.evaluate("setTimeout(() => history.back())")
        self._wait_for_event("Page.frameNavigated", "going back")

    def _wait_for_event(self, method: str, during: str) -> None:
        end = time.monotonic() + self._timeout
        while not any(event["method"] == method for event in self._events):
            self._receive(end, during)

    def evaluate(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression, which may be a promise. With arguments (JSON), the
        expression is a function that gets them. Raises BrowserError when it throws."""
        if arguments:
            expression = f"({expression})({', '.join(json.dumps(one) for one in arguments)})"
        # By handles: a promise that nothing else holds may be collected before it is done.
        held = self._result("Runtime.evaluate", expression=expression, userGesture=True)
        if held.get("subtype") == "promise":
            handle = held["objectId"]
            held = self._result("Runtime.awaitPromise", promiseObjectId=handle, returnByValue=True)
            self.command("Runtime.releaseObject", objectId=handle)
        elif handle := held.get("objectId"):
            itself = "function() { return this; }"
            held = self._result(
                "Runtime.callFunctionOn", functionDeclaration=itself, objectId=handle, returnByValue=True
            )
            self.command("Runtime.releaseObject", objectId=handle)
        return held.get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """The first value of `expression` that is true in JavaScript. Raises BrowserError after `seconds`."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise BrowserError(f"not within {seconds:g} s: {expression}; errors: {self.errors}")
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path | None = None) -> bytes:
        """The page as PNG, written to `path` as well."""
        data = base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def resize(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """Set the viewport, in CSS pixels; scale: device pixels each. mobile: a touch screen."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=scale, mobile=mobile,
        )  # fmt: skip
        self.command("Emulation.setTouchEmulationEnabled", enabled=mobile, maxTouchPoints=5 if mobile else 1)

    def mouse(self, kind: str, at: Point, *, button: str = "none", count: int = 0, **more: Any) -> None:
        """One event: kind is mouseMoved, mousePressed, mouseReleased or mouseWheel (with deltaX, deltaY)."""
        held = {"left": 1, "right": 2, "middle": 4}.get(button, 0)
        buttons = held if kind != "mouseReleased" else 0
        self.command(
            "Input.dispatchMouseEvent",
            type=kind, x=at[0], y=at[1], button=button, buttons=buttons, clickCount=count, **more,
        )  # fmt: skip

    def click(self, at: Point, *, times: int = 1, button: str = "left") -> None:
        """Click, or double-click with times=2."""
        for count in range(1, times + 1):
            self.mouse("mousePressed", at, button=button, count=count)
            self.mouse("mouseReleased", at, button=button, count=count)

    def drag(self, start: Point, end: Point, *, button: str = "left", steps: int = 8, **more: Any) -> None:
        """Press at `start`, move to `end`, release. more: modifiers (1 alt, 2 ctrl, 4 meta, 8 shift)."""
        self.mouse("mouseMoved", start, **more)
        self.mouse("mousePressed", start, button=button, count=1, **more)
        for step in range(1, steps + 1):
            share = step / steps
            at = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
            self.mouse("mouseMoved", at, button=button, **more)
        self.mouse("mouseReleased", end, button=button, count=1, **more)

    def wheel(self, at: Point, dy: float, dx: float = 0) -> None:
        self.mouse("mouseWheel", at, deltaX=dx, deltaY=dy)

    def touch(self, *paths: Sequence[Point]) -> None:
        """Fingers that go down together, move along their paths (all of one length) and lift. A tap is a path
        of one point."""
        for step, points in enumerate(zip(*paths)):
            fingers = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(points)]
            kind = "touchMove" if step else "touchStart"
            self.command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)
        self.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def key(self, key: str) -> None:
        """Press and release a key, named as in KeyboardEvent.key."""
        code = KEYS.get(key) or (ord(key.upper()) if len(key) == 1 else 0)
        text = {"text": key} if len(key) == 1 else {}
        both = {"key": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown", **both, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", **both)

    def outside_requests(self) -> list[str]:
        """Requests for anything but files and loopback."""
        self.evaluate("0")  # takes in what has happened until now
        return [
            url
            for url in self.requests
            if (parts := urlsplit(url)).scheme != "file" and parts.hostname not in ("127.0.0.1", "localhost")
        ]

    def _result(self, method: str, **parameters: Any) -> dict[str, Any]:
        answer = self.command(method, **parameters)
        if "exceptionDetails" in answer:
            raise BrowserError(_exception(answer["exceptionDetails"]))
        return answer["result"]  # type: ignore[no-any-return]

    def _receive(self, end: float, during: str) -> dict[str, Any]:
        """The next message. Events are noted on the way."""
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._read], [], [], left)[0]:
                raise TimeoutError(f"the browser did not answer within {self._timeout:g} s: {during}")
            data = os.read(self._read, 1 << 20)
            if not data:
                raise BrowserError(f"the browser ended: {during}")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event["method"], event["params"]
        self._events.append(event)
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                self.requests.append(url)
        elif method == "Runtime.exceptionThrown":
            self.errors.append(_exception(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(arg.get("value", arg)) for arg in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])


def _started(command: list[str]) -> tuple[int, int, int]:
    """Process id, its own group; the descriptor to write commands to, and the one to read answers from."""
    ends = [*os.pipe(), *os.pipe()]
    # Above 3 and 4, which the child's ends become.
    read_commands, write, read, write_answers = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    devnull = os.open(os.devnull, os.O_RDWR)
    files = [(os.POSIX_SPAWN_DUP2, devnull, n) for n in (0, 1, 2)]
    files += [(os.POSIX_SPAWN_DUP2, read_commands, 3), (os.POSIX_SPAWN_DUP2, write_answers, 4)]
    process = os.posix_spawn(command[0], command, os.environ, file_actions=files, setpgroup=0)
    for end in (read_commands, write_answers, devnull):
        os.close(end)
    return process, write, read


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
