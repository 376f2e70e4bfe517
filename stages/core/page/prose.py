"""The page's words: YAML files of this folder, numbers written out, and the Jinja environment that fills texts in."""

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..evaluate.estimate import Estimate, Number
from ..run.files import read_yaml

HERE = Path(__file__).parent
WORDS = {
    "domain_accuracy": "Domain",
    "target_accuracy": "Target",
    "answer_accuracy": "Answer",
    "host_intrusion": "Host intrusion",
}
MEASURES = tuple(WORDS)
ACCURACIES = MEASURES[:3]


@cache
def entries(name: str) -> dict[str, Any]:
    """The entries of a YAML file beside this module."""
    return read_yaml(HERE / name)


def environment(html: bool) -> jinja2.Environment:
    """Templates of this folder; an undefined name is an error. `html`: escape what is filled in, drop lines of tags."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=html,
        lstrip_blocks=html,
        keep_trailing_newline=True,
    )
    made.filters |= {one.__name__: one for one in FILTERS}
    made.globals |= {"MEASURES": MEASURES, "WORDS": WORDS, "span": span, "points": points}
    return made


def one_line(text: str) -> str:
    """The text without line breaks, repeated spaces and spaces before punctuation."""
    return re.sub(r" +(?=[.,;:)]( |$))", "", re.sub(r"[ \n]+", " ", text)).strip()


def spaced(name: str) -> str:
    """A key or a domain's name as words."""
    return name.replace("_", " ")


def unbroken(text: str) -> Markup:
    """The text as HTML, with every interval kept on one line."""
    return Markup(re.sub(r"[\d.]+\u2013[\d.]+", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def told(estimate: Estimate, why: bool = True) -> str:
    """An estimate in a sentence: value and, in brackets, its interval or (if `why`) the reason why it has none."""
    beside = interval(estimate) or (why and estimate.reason)
    return percent(estimate.value) + (f" ({beside})" if beside else "")


def in_points(estimate: Estimate) -> str:
    """A distance between fractions in a sentence, in points: value and its interval or the reason why it has none."""
    beside = interval(estimate) or estimate.reason
    return f"{100 * estimate.value:.1f} points" + (f" ({beside})" if beside else "")


def interval(estimate: Estimate) -> str:
    """The interval of an estimate, in percent without the sign; empty where it has none."""
    return "" if estimate.low is None or estimate.high is None else span(estimate.low, estimate.high)


def unsigned(gap: Estimate) -> str:
    """The interval of a paired difference that does not include zero, in points without the sign."""
    assert gap.low is not None and gap.high is not None
    return span(*sorted((abs(gap.low), abs(gap.high))))


def percent(value: Number) -> str:
    """A fraction as a percentage with one decimal, which never rounds to a 0 or 100 that it is not."""
    return f"{bare(value)}\u00a0%"


def bare(value: Number) -> str:
    """A fraction as `percent` writes it, without the percent sign; a share explained may be below 0."""
    if value < 0:
        return signed(value)
    if value in (0, 1):
        return f"{value * 100:.0f}"
    if value > 0.9995 or value < 0.0005:
        return "> 99.9" if value > 0.5 else "< 0.1"
    return f"{value * 100:.1f}"


def thousands(number: Number) -> str:
    """A number with a narrow no-break space between thousands: 1 234 567."""
    return f"{number:,}".replace(",", "\u202f")


def counted(number: Number) -> str:
    """A count in a sentence: "none" for 0."""
    return thousands(number) if number else "none"


def span(low: Number, high: Number) -> str:
    """An interval of percentages, without the sign; the ends round outwards only as `percent` does."""
    ends = [f"{100 * end:.0f}" if end in (0, 1) else f"{100 * end:.1f}" for end in (low, high)]
    return "\u2013".join(ends)


def at_most(bound: Number) -> str:
    """An upper bound of a fraction as a percentage with two decimals, rounded up."""
    return f"{math.ceil(round(1e4 * bound, 6)) / 100:.2f}\u00a0%"


def whole(value: Number) -> str:
    """A fraction as a whole percentage, for a cell of the heatmap; a wrong cell never reads 100, nor an odd one 0."""
    return f"{value * 100:.0f}" if value in (0, 1) else f"{min(99, max(1, round(value * 100)))}"


def points(low: Number, high: Number) -> str:
    """An interval of a difference, in points: it may hold zero, so its ends carry their sign."""
    return f"{signed(low)} to {signed(high)}"


def signed(value: Number) -> str:
    """A difference in points, one decimal; a minus sign that is one."""
    return f"{round(100 * value, 1) + 0.0:.1f}".replace("-", "\u2212")


def listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


FILTERS = (
    *(spaced, unbroken, listed, told, in_points, interval, unsigned),
    *(percent, bare, thousands, counted, at_most, whole, signed),
)
"""What texts and templates can do with a name, a list, an estimate or a number."""
