"""A headless Chromium to look at the page with: for tests, and for the picture in the README.

`python -m stages.core.page.browser data/report/index.html docs/result.png` takes the picture. It talks to the browser
over a pipe (the DevTools protocol), so nothing is needed but the browser itself. No stage imports this.
"""

import argparse
import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
Scheme = Literal["light", "dark"]


def find_browser() -> str | None:
    """The browser's command, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Tab:
    """One open page. `events`: every event that the browser told of, in order."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._buffer = write, read, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends one command and waits for its answer.

        Raises:
            RuntimeError: the browser refuses the command or goes away.
        """
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda found: found.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"browser: {method}: {answer['error']['message']}")
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Reads on until a message is `wanted`; events on the way are kept."""
        while True:
            while b"\0" not in self._buffer:
                chunk = os.read(self._read, 1 << 20)
                if not chunk:
                    raise RuntimeError("browser: went away")
                self._buffer += chunk
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            if "method" in message:
                self.events.append(message)
            if wanted(message):
                return message

    def open(self, page: Path, width: int, scheme: Scheme, height: int = 900) -> None:
        """Loads a file in a window of this size and colour scheme, and waits until it stands."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=page.resolve().as_uri())
        self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page.

        Raises:
            RuntimeError: the script throws.
        """
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"browser: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Presses one key: a named one (Tab, Enter, ...) or a character."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowDown": 40}.get(key, ord(key.upper()[0]))
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, selector: str | None = None, scale: int = 1) -> bytes:
        """A PNG of the whole page, or of the element that `selector` finds with a margin around it."""
        box = f"document.querySelector({json.dumps(selector or 'html')}).getBoundingClientRect()"
        x, y, width, height = self.run(f"(b => [b.x, b.y + scrollY, b.width, b.height])({box})")
        margin = 24 if selector else 0
        clip = {"x": max(0, x - margin), "y": max(0, y - margin), "scale": scale}
        clip |= {"width": width + 2 * margin, "height": height + 2 * margin}
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(answer["data"])


@contextmanager
def browse() -> Iterator[Tab]:
    """Starts a browser with a new, empty profile, which goes when the block ends.

    Raises:
        ValueError: no browser is installed.
    """
    command = find_browser()
    if command is None:
        raise ValueError(f"browser: none of {', '.join(NAMES)} is installed; on Debian: apt-get install chromium")
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()

    def wire() -> None:  # the browser reads commands from descriptor 3 and writes to 4
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (down_read, up_write)]  # out of the way of 3 and 4
        for end, wanted in zip(ends, (3, 4), strict=True):
            os.dup2(end, wanted)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [command, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=wire,
            start_new_session=True,
        )
        os.close(down_read)
        os.close(up_write)
        try:
            yield Tab(down_write, up_read)
        finally:
            os.close(down_write)  # the browser ends with its pipe
            os.close(up_read)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def picture(page: Path, image: Path, scheme: Scheme = "light") -> None:
    """Saves the page's headline (findings, figures and the example) as a PNG of 2240 pixels' width."""
    with browse() as tab:
        tab.open(page, 1120, scheme)
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(tab.screenshot("#headline", scale=2))


def main(arguments: list[str] | None = None) -> None:
    """Takes the picture and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args(arguments)
    picture(options.page, options.image)
    print(f"{options.image}: {options.image.stat().st_size // 1000} kB")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
