"""What tools print that is mostly words: templates beside this module, filled in."""

from pathlib import Path
from typing import Any

import jinja2


def filled_in(name: str, **values: Any) -> str:
    """The text of a template of this folder; an undefined name is an error. HTML is escaped in .html.j2."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return made.get_template(name).render(**values)
