import re
from itertools import product
from pathlib import Path
from typing import cast

import polars as pl
import pytest
from playwright.sync_api import Browser

from stages.core.page.charts import HEIGHT, WIDTH
from stages.tools.real_step import AGREES, SCORES, STEP_SIZES, UPDATES, agreeing
from stages.tools.real_step_figure import panels, render
from tests.browser import Scheme, browse, find_browser, look
from tests.core.page.test_browser import CONTRASTS, LOOKS, OUTSIDE
from tests.core.page.test_page import ADDRESSES, Page

LAYERS = (0, 5, 11)


@pytest.fixture
def curve() -> pl.DataFrame:
    """Agreement that falls with step size and layer, below 0 and below chance in the end."""
    rows = [
        (optimiser, update, layer, size, 1 - 0.25 * place - 0.05 * layer, 1 - 0.04 * place * (layer + 1), -0.02, 0.6)
        for optimiser, update, layer, (place, size) in product(("sgd", "adam"), UPDATES, LAYERS, enumerate(STEP_SIZES))
    ]
    return pl.DataFrame(rows, schema=["optimiser", "update", "layer", "step_size", *SCORES], orient="row")


def drawn(curve: pl.DataFrame) -> str:
    slope = {"finite_difference": -0.25, "minus_gradient_norm": -0.25, "median_relative_error": 2e-5}
    agreement = {optimiser: agreeing(curve.filter(optimiser=optimiser)) for optimiser in ("sgd", "adam")}
    metrics = {"samples": 9, "top_tokens": 20, "agrees_from": AGREES, "agreement": agreement}
    return render(curve, {**metrics, "slope": {str(layer): slope for layer in LAYERS}})


def points(path: str) -> list[tuple[float, float]]:
    return [cast("tuple[float, float]", tuple(map(float, pair.split()))) for pair in re.split("[ML]", path)[1:]]


def test_a_line_stands_at_its_values_and_a_dot_where_both_measures_agree(curve: pl.DataFrame) -> None:
    found = panels(curve, AGREES)
    assert list(found) == ["sgd", "adam"]
    for optimiser, shown in found.items():
        assert [panel.update for panel in shown] == list(UPDATES)
        for panel, measure in product(shown, AGREES):
            (plot,) = (plot for plot in panel.plots if plot.measure == measure)
            low, high = float(plot.ticks[0].text), float(plot.ticks[-1].text)
            assert low <= curve[measure].min() and high == 1  # type: ignore[operator]
            assert plot.threshold == pytest.approx(100 * (AGREES[measure] - low) / (high - low))
            for layer, line in zip(LAYERS, plot.lines, strict=True):
                rows = curve.filter(optimiser=optimiser, update=panel.update, layer=layer)
                at = points(line.path)
                assert [low + (high - low) * (1 - y / HEIGHT) for _, y in at] == pytest.approx(rows[measure], abs=1e-3)
                assert at[0][0] == 0 and at[-1][0] == WIDTH and sorted(at) == at
                agree = [place for place, row in zip(at, rows.iter_rows(named=True), strict=True) if agrees(row)]
                assert points(line.dots.replace("h0", "")) == agree


def agrees(row: dict[str, float]) -> bool:
    return all(row[name] >= least for name, least in AGREES.items())


def test_the_page_refers_to_nothing_outside_and_says_every_value(curve: pl.DataFrame) -> None:
    page = Page(drawn(curve))
    found = [value for _, attributes in page.elements for name, value in attributes.items() if name in ADDRESSES]
    assert found == ["data:,"]
    assert "url(" not in "".join(page.text["style"]) and "script" not in {tag for tag, _ in page.elements}
    plots = [attributes["aria-label"] for _, attributes in page.elements if attributes.get("role") == "img"]
    assert len(plots) == 2 * len(UPDATES) * len(AGREES)
    assert "Layer 11: 0.45, 0.20" in plots[0] and plots[0].startswith("SGD, real step 3e-05: correlation")


def test_one_layer_that_never_agrees_is_drawn_too(curve: pl.DataFrame) -> None:
    html = drawn(curve.with_columns(sign_agreement=0.5))
    assert "Agrees at 0\u00a0% of the points drawn." in html and "h0" not in html
    (plot, _) = panels(curve.filter(layer=5), AGREES)["sgd"][0].plots
    assert [line.layer for line in plot.lines] == [5]


@pytest.fixture(scope="module")
def browser():
    if find_browser() is None:
        pytest.skip("no Chromium found, so nobody looked at the figure; on Debian: apt-get install chromium")
    with browse() as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_it_can_be_read(browser: Browser, curve: pl.DataFrame, tmp_path: Path, width: int, scheme: Scheme) -> None:
    page = tmp_path / "plot.html"
    page.write_text(drawn(curve), encoding="utf-8")
    tab = look(browser, page, width, scheme)
    assert tab.page.evaluate("document.documentElement.scrollWidth") == width
    assert tab.page.evaluate(OUTSIDE.read_text()) == []
    assert tab.page.evaluate(CONTRASTS.read_text()) == []
    assert not tab.messages
