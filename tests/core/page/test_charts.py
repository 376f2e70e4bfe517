import re

import polars as pl
import pytest

from stages.core.page import charts
from stages.core.page.charts import DEEP, HEIGHT, POINTS, WIDTH, curve, grid_of
from stages.core.page.prose import MEASURES, environment
from tests.core.page import fake


def test_cells_stand_where_the_grid_has_them() -> None:
    grid = fake.grid(fake.reports())
    missing = grid.filter(~((pl.col("gradient_domain") == "music") & (pl.col("host_domain") == "none")))
    shown = grid_of(missing)
    assert shown.hosts == [*sorted(fake.DOMAINS), "none"]
    by_pair = {(row["gradient_domain"], row["host_domain"]): row for row in grid.iter_rows(named=True)}
    for domain, cells in shown.rows:
        for host, cell in zip(shown.hosts, cells, strict=True):
            if (domain, host) == ("music", "none"):
                assert cell is None
                continue
            assert cell is not None and all(cell[measure] == by_pair[domain, host][measure] for measure in MEASURES)
            assert (cell["gradient_domain"], cell["host_domain"]) == (domain, host)


def test_cells_of_one_domain_and_deep_ones_are_marked() -> None:
    made = environment(html=True)
    made.globals["charts"] = charts
    figures, grid = made.get_template("figures.html.j2").make_module(), fake.grid(fake.reports())
    shown = re.compile(r'<td class="(.*?)".*?title="gradient (\w+), (?:host (\w+)|no host).*?<data value="(.*?)"')
    for measure in MEASURES:
        cells = shown.findall(getattr(figures, "heatmap")(grid_of(grid), measure))  # noqa: B009 (a macro)
        assert len(cells) == len(grid)
        for kind, gradient, host, value in cells:
            assert ("own" in kind.split()) == (gradient == host) and ("nohost" in kind.split()) == (not host)
            assert ("deep" in kind.split()) == (float(value) >= DEEP)


@pytest.mark.parametrize(("first", "last"), [(6.2, 0.021), (6.5, 0.9), (1.0, 1.0), (0.5, 0.0), (7e-5, 3e-7)])
def test_curves_stay_inside_their_axes(first: float, last: float) -> None:
    steps = 3 * POINTS
    losses = [first + (last - first) * step / steps for step in range(steps + 1)]
    held = [loss if step % 100 == 0 else None for step, loss in enumerate(losses)]
    data = curve(pl.DataFrame({"step": range(steps + 1), "a": losses, "b": held}), {"a": "one", "b": "two"})
    assert data.logarithmic == (last > 0 and first / last >= 20)
    assert 2 <= len(data.losses) <= 12 and data.losses[0].at == 0 and data.losses[-1].at == pytest.approx(100)
    for line in data.lines:
        points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line.path)[1:]]
        assert all(0 <= x <= WIDTH and -0.06 <= y <= HEIGHT + 0.06 for x, y in points)
        assert points[-1][0] == WIDTH and len(points) <= POINTS + 1
        assert (line.first, line.last, line.low) == (losses[0], losses[-1], min(losses))
