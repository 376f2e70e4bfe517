"""The page in headless Chromium: it asks for nothing, works by keyboard, and can be read in both schemes and widths."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from stages import report
from tests.browser import Scheme, browse, find_browser, look, picture
from tests.core.page import fake

LOOKS = [(width, scheme) for width in (390, 1280) for scheme in ("light", "dark")]
CONTRASTS = Path(__file__).with_name("contrasts.js")
OUTSIDE = Path(__file__).with_name("outside.js")
VISIBLE = "[...document.querySelectorAll('#rows > tr')].filter(row => !row.hidden)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if find_browser() is None:
        pytest.skip("no Chromium found, so nobody looked at the page; on Debian: apt-get install chromium")
    root = tmp_path_factory.mktemp("page")
    fake.write(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", ["report"])
        report.main()
        yield report.PAGE.resolve()


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    with browse() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_request_leaves_and_the_console_stays_empty(
    browser: Browser, page: Path, width: int, scheme: Scheme
) -> None:
    tab = look(browser, page, width, scheme)
    tab.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert [url for url in tab.requests if not url.startswith("data:")] == [page.as_uri()]
    assert not tab.messages


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_can_be_read(browser: Browser, page: Path, width: int, scheme: Scheme) -> None:
    tab = look(browser, page, width, scheme).page
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate(OUTSIDE.read_text()) == []
    for measure in ("domain_accuracy", "host_intrusion"):
        tab.evaluate(f"document.querySelector('input[value={measure}]').click()")
        # WCAG AA asks 4.5 of small text; cells where the scale passes middle grey can't do better than 4.4 or so.
        assert tab.evaluate(CONTRASTS.read_text()) == []
    shot = tab.screenshot(full_page=True)
    assert shot.startswith(b"\x89PNG") and len(shot) > 100_000
    assert struct.unpack(">I", shot[16:20])[0] == width


def test_the_filter_works(browser: Browser, page: Path) -> None:
    tab = look(browser, page, 1280, "light").page
    everything = tab.evaluate("document.querySelectorAll('#rows > tr').length")
    assert tab.evaluate(f"{VISIBLE}.length") == 12
    assert tab.inner_text("#status") == f"1\u201312 of {everything}"
    tab.select_option("[name=setting]", "controls.zero")
    assert tab.evaluate(f"{VISIBLE}.map(row => row.dataset.setting)") == ["controls.zero"] * 4
    tab.select_option("[name=outcome]", "right")
    assert tab.evaluate(f"{VISIBLE}.length") == 0
    assert tab.inner_text("#status") == "None fits" and tab.locator("#nothing").is_visible()
    tab.click("#filter [type=reset]")
    tab.wait_for_function(f"{VISIBLE}.length == 12", timeout=60_000)


def test_it_works_by_keyboard(browser: Browser, page: Path) -> None:
    tab = look(browser, page, 1280, "light").page
    tab.evaluate("document.querySelector('input[name=heat]').focus()")
    tab.keyboard.press("ArrowRight")
    shown = "[...document.querySelectorAll('.heat')].filter(map => map.offsetParent).map(map => map.className)"
    assert tab.evaluate(shown) == ["heat target_accuracy"]
    tab.focus("[name=text]")
    tab.keyboard.type("music eye")
    texts = tab.evaluate(f"{VISIBLE}.map(row => row.textContent.toLowerCase())")
    assert all("music" in text and "eye" in text for text in texts)
    tab.evaluate("document.querySelector('#filter').reset()")
    tab.wait_for_timeout(50)
    tab.focus("#next")
    tab.keyboard.press("Enter")
    assert tab.inner_text("#status").startswith("13\u201324 of ")
    order = []
    tab.focus("#theme")
    for _ in range(9):
        tab.keyboard.press("Tab")
        focused = "document.activeElement"
        order.append(tab.evaluate(f"{focused}.name || {focused}.className || {focused}.tagName"))
    assert order == ["scroll wide", "scroll", "scroll wide", *["scroll"] * 4, "heat", "heats"]


def test_the_theme_can_be_chosen_against_the_system(browser: Browser, page: Path) -> None:
    tab = look(browser, page, 1280, "dark").page
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = tab.evaluate(colour)
    tab.focus("#theme")
    tab.keyboard.press("Enter")
    light = tab.evaluate(colour)
    assert light != dark and tab.inner_text("#theme") == "Theme: light"
    tab.reload()
    assert tab.evaluate(colour) == light
    tab.keyboard.press("Tab")
    tab.click("#theme")
    assert tab.evaluate(colour) == dark


def test_without_script_every_report_is_there(browser: Browser, page: Path) -> None:
    tab = look(browser, page, 1280, "light", scripts=False).page
    shown = "#rows > tr:not([hidden])"
    assert tab.locator(shown).count() == tab.locator("#rows > tr").count() > 12
    assert tab.locator("#filter").is_hidden()


def test_the_picture_is_the_headline(browser: Browser, page: Path, tmp_path: Path) -> None:
    picture(browser, page, tmp_path / "docs" / "result.png")
    shot = (tmp_path / "docs" / "result.png").read_bytes()
    assert struct.unpack(">I", shot[16:20])[0] > 2000 and len(shot) > 50_000
