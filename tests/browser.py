"""Headless Chromium for the tests of the report page, and for the picture in the README.

  python -m tests.browser data/report/index.html docs/result.png

writes the picture. Playwright drives the system's own Chromium; nothing is downloaded.
"""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
Scheme = Literal["light", "dark"]


def find_browser() -> str | None:
    """The browser's command, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def browse() -> Iterator[Browser]:
    """Starts a browser with an empty profile and ends it with the block.

    Raises:
        ValueError: no browser is installed.
    """
    command = find_browser()
    if command is None:
        raise ValueError(f"browser: none of {', '.join(NAMES)} is installed; on Debian: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@dataclass(frozen=True)
class Tab:
    """An open page. `requests`: every address that it asked for. `messages`: its console, and its errors."""

    page: Page
    requests: list[str]
    messages: list[str]


def look(browser: Browser, file: Path, width: int, scheme: Scheme, scripts: bool = True, scale: int = 1) -> Tab:
    """A file in a new window of this width (CSS pixels) and colour scheme; windows share no storage."""
    size = {"width": width, "height": 900}
    context = browser.new_context(
        viewport=size,  # type: ignore[arg-type]
        color_scheme=scheme,
        is_mobile=width < 500,
        java_script_enabled=scripts,
        device_scale_factor=scale,
    )
    tab = Tab(context.new_page(), [], [])
    tab.page.on("request", lambda request: tab.requests.append(request.url))
    tab.page.on("console", lambda message: tab.messages.append(message.text))
    tab.page.on("pageerror", lambda error: tab.messages.append(str(error)))
    tab.page.goto(file.resolve().as_uri())
    return tab


def picture(browser: Browser, file: Path, image: Path) -> None:
    """Saves the page's headline (findings, figures and the example) as a PNG, in two pixels a CSS pixel."""
    page = look(browser, file, 1120, "light", scale=2).page
    box = page.locator("#headline").bounding_box()
    assert box is not None
    clip = {"x": max(0, box["x"] - 24), "y": max(0, box["y"] - 24)}
    clip |= {"width": box["width"] + 48, "height": box["height"] + 48}
    page.screenshot(path=image, full_page=True, clip=clip)  # type: ignore[arg-type]


def main() -> None:
    """Takes the picture and says where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    with browse() as browser:
        picture(browser, options.page, options.image)
    print(f"{options.image}: {options.image.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
