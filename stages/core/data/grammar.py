"""The wording of answers about a felt update: writes them for training, and reads them back for scoring.

A report is either `NO_PRESSURE` or `toward <to> , a name from <domain> , and away from <from>`. What is said of a name
stands right behind the name: a model that has just written a word can say what it knows of that word. Reading tolerates
any case of the fixed words and any white space around them; everything else must be there exactly once, and the two
names must differ, or the report is malformed.
"""

import re
from dataclasses import dataclass

from ..run.errors import InputError

NO_PRESSURE = "no pressure"
YES, NO = "yes", "no"

# A fixed phrase that stands twice could be cut in two places, so it may stand once only: no guessing.
PARTS = _TOWARD, _FIELD, _AWAY = "toward", ", a name from", ", and away from"
FROM = ", away from"
_FIELD_SAID, _AWAY_SAID = r"\s?, a name from", r"\s?, and away from"
_REPORT = re.compile(rf"{_TOWARD} (\S.*?){_FIELD_SAID} (\S.*?){_AWAY_SAID} (\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """What a report says. Without pressure, and when malformed, the three names are empty."""

    pressure: bool = True
    malformed: bool = False
    domain: str = ""
    moved_to: str = ""
    moved_from: str = ""


def field(name: str, domain: str) -> str:
    """A name and the domain that it is from: `Paris , a name from geography`."""
    return f"{name} {_FIELD} {domain}"


def away(moved_to: str, moved_from: str) -> str:
    """What it goes toward, then what away from: `toward Paris , away from Rome`."""
    return f"{_TOWARD} {moved_to} {FROM} {moved_from}"


def kind(name: str, of: str, asked: str) -> str:
    """A name, its kind, and whether that is the kind asked about: `Paris is a city yes`."""
    return f"{name} is a {of} {YES if of == asked else NO}"


def names(text: str, name: str) -> bool:
    """Whether a text begins with a name that ends there: with no letter or digit behind it."""
    return text.startswith(name) and re.match(r"\w", text[len(name) :]) is None


def report(domain: str, moved_to: str, moved_from: str) -> str:
    """The report sentence for one correction, without a full stop.

    Raises:
        InputError: a part is empty or has stray white space, a part holds one of the grammar's fixed phrases, or both
            names are the same, so that the sentence could not be read back.
    """
    text = f"{_TOWARD} {field(moved_to, domain)} {_AWAY} {moved_from}"
    if parse_report(text) != Report(domain=domain, moved_to=moved_to, moved_from=moved_from):
        raise InputError(
            f"report: {text!r} can't be read back as {(domain, moved_to, moved_from)}: wanted words without leading, "
            f"trailing or double spaces and without {_FIELD!r} or {_AWAY!r}, and two different names; rename the "
            "entity or the domain"
        )
    return text


def parse_report(text: str) -> Report:
    """What a report says: names and domain as they were written, white space made single."""
    text = " ".join(text.split())
    folded = text.lower()
    if folded == NO_PRESSURE:
        return Report(pressure=False)
    found = _REPORT.fullmatch(text)
    twice = any(len(re.findall(phrase, folded)) > 1 for phrase in (_FIELD_SAID, _AWAY_SAID))
    if found is None or twice or found[1] == found[3]:
        return Report(pressure=False, malformed=True)
    moved_to, domain, moved_from = found.groups()
    return Report(domain=domain, moved_to=moved_to, moved_from=moved_from)
