"""The page in headless Chromium: it asks for nothing, works by keyboard, and can be read in both schemes and widths."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from stages import report
from stages.core.page.browser import Scheme, Tab, browse, find_browser, picture
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
def tab(page: Path) -> Iterator[Tab]:
    with browse() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_no_request_leaves_and_the_console_stays_empty(tab: Tab, page: Path, width: int, scheme: Scheme) -> None:
    tab.events.clear()
    tab.open(page, width, scheme)
    tab.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    asked = [e["params"]["request"]["url"] for e in tab.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    assert not [
        e
        for e in tab.events
        if e["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    ]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_can_be_read(tab: Tab, page: Path, width: int, scheme: Scheme) -> None:
    tab.open(page, width, scheme)
    assert tab.run("document.documentElement.scrollWidth") == width
    assert cast("list[object]", tab.run(OUTSIDE.read_text())) == []
    for measure in ("domain_accuracy", "host_intrusion"):
        tab.run(f"document.querySelector('input[value={measure}]').click()")
        # WCAG AA asks 4.5 of small text; cells where the scale passes middle grey can't do better than 4.4 or so.
        assert cast("list[object]", tab.run(CONTRASTS.read_text())) == []
    shot = tab.screenshot()
    assert shot.startswith(b"\x89PNG") and len(shot) > 100_000
    assert struct.unpack(">I", shot[16:20])[0] == width


def test_the_filter_works(tab: Tab, page: Path) -> None:
    tab.open(page, 1280, "light")
    everything = tab.run("document.querySelectorAll('#rows > tr').length")
    assert tab.run(f"{VISIBLE}.length") == 12
    assert tab.run("document.getElementById('status').textContent") == f"1\u201312 of {everything}"
    told = "one.dispatchEvent(new Event('input', {bubbles: true}))"
    change = f"(one => {{ one.value = %r; {told} }})(document.querySelector('[name=%s]'))"
    tab.run(change % ("controls.zero", "setting"))
    assert tab.run(f"{VISIBLE}.map(row => row.dataset.setting)") == ["controls.zero"] * 4
    tab.run(change % ("right", "outcome"))
    assert tab.run(f"{VISIBLE}.length") == 0
    assert tab.run("[document.getElementById('status').textContent, document.getElementById('nothing').hidden]") == [
        "None fits",
        False,
    ]
    tab.run("document.querySelector('#filter [type=reset]').click()")
    assert tab.run(f"new Promise(done => setTimeout(() => done({VISIBLE}.length), 50))") == 12


def test_it_works_by_keyboard(tab: Tab, page: Path) -> None:
    tab.open(page, 1280, "light")
    tab.run("document.querySelector('input[name=heat]').focus()")
    tab.press("ArrowRight")
    shown = "[...document.querySelectorAll('.heat')].filter(map => map.offsetParent).map(map => map.className)"
    assert tab.run(shown) == ["heat target_accuracy"]
    tab.run("document.querySelector('[name=text]').focus()")
    for letter in "music eye":
        tab.press(letter)
    texts = cast("list[str]", tab.run(f"{VISIBLE}.map(row => row.textContent.toLowerCase())"))
    assert all("music" in text and "eye" in text for text in texts)
    tab.run("document.querySelector('#filter').reset()")
    tab.run("new Promise(done => setTimeout(done, 50))")
    tab.run("document.getElementById('previous').focus(); document.getElementById('next').focus()")
    tab.press("Enter")
    assert str(tab.run("document.getElementById('status').textContent")).startswith("13\u201324 of ")
    order = []
    tab.run("document.activeElement.blur(); document.getElementById('theme').focus()")
    for _ in range(4):
        tab.press("Tab")
        order.append(
            tab.run("document.activeElement.name || document.activeElement.className || document.activeElement.tagName")
        )
    assert order[:2] == ["heat", "heats"]


def test_the_theme_can_be_chosen_against_the_system(tab: Tab, page: Path) -> None:
    tab.open(page, 1280, "dark")
    tab.run("localStorage.clear()")
    tab.open(page, 1280, "dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = tab.run(colour)
    tab.run("document.getElementById('theme').focus()")
    tab.press("Enter")
    light = tab.run(colour)
    assert light != dark and tab.run("document.getElementById('theme').textContent") == "Theme: light"
    tab.open(page, 1280, "dark")
    assert tab.run(colour) == light
    tab.press("Tab")
    tab.run("document.getElementById('theme').click()")
    assert tab.run(colour) == dark
    tab.run("localStorage.clear()")


def test_without_script_every_report_is_there(tab: Tab, page: Path) -> None:
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(page, 1280, "light")
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run(f"{VISIBLE}.length") == tab.run("document.querySelectorAll('#rows > tr').length")
    assert tab.run("document.getElementById('filter').hidden")


def test_the_picture_is_the_headline(page: Path, tmp_path: Path) -> None:
    picture(page, tmp_path / "docs" / "result.png")
    shot = (tmp_path / "docs" / "result.png").read_bytes()
    assert struct.unpack(">I", shot[16:20])[0] > 2000 and len(shot) > 50_000
