"""The YAML files of this folder, and the Jinja environment that fills in their texts and the page's templates."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..run.files import read_yaml
from . import metrics

HERE = Path(__file__).parent
FILTERS: tuple[Callable[..., Any], ...] = (
    *(metrics.percent, metrics.bare, metrics.whole, metrics.thousands, metrics.counted, metrics.listed),
    *(metrics.signed, metrics.told, metrics.in_points, metrics.at_most),
    *(metrics.apart, metrics.size, metrics.interval),
)


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
    made.filters |= {one.__name__: one for one in (*FILTERS, spaced, unbroken)}
    made.globals |= {"MEASURES": metrics.MEASURES, "WORDS": metrics.WORDS}
    made.globals |= {"span": metrics.span, "points": metrics.points}
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
