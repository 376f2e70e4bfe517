"""The wording of reports: writes them for pretraining and training, and reads them back for scoring.

A report is either `NO_PRESSURE` or
`<strong|weak> <domain> correction toward <moved_to> and away from <moved_from>`. Reading tolerates any case of the
fixed words and any run of white space; everything else must be there exactly once, and the two entities must differ, or
the report is malformed.
"""

import re
from dataclasses import dataclass

from ..run.errors import InputError

STRENGTHS = ("strong", "weak")
NO_PRESSURE = "no pressure"
QUESTION = "what pressure do you feel"

# A fixed phrase that stands twice could be cut in two places, so it may stand once only: no guessing.
_CORRECTION = "correction toward"
_AWAY = "and away from"
_REPORT = re.compile(rf"(strong|weak) (\S.*) {_CORRECTION} (\S.*) {_AWAY} (\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Report:
    """What a report says. Without pressure, and when malformed, the four words are empty."""

    pressure: bool = True
    malformed: bool = False
    strength: str = ""
    domain: str = ""
    moved_to: str = ""
    moved_from: str = ""


def report(domain: str, moved_to: str, moved_from: str, strength: str) -> str:
    """The report sentence for one correction, without a full stop.

    Raises:
        InputError: `strength` is another word, a part is empty or has stray white space, a part holds one of the
            grammar's fixed phrases, or both entities are the same, so that the sentence could not be read back.
    """
    if strength not in STRENGTHS:
        raise InputError(f"report: strength: found {strength!r}, wanted one of {', '.join(STRENGTHS)}")
    text = f"{strength} {domain} {_CORRECTION} {moved_to} {_AWAY} {moved_from}"
    wanted = Report(strength=strength, domain=domain, moved_to=moved_to, moved_from=moved_from)
    if parse_report(text) != wanted:
        raise InputError(
            f"report: {text!r} can't be read back as {(domain, moved_to, moved_from)}: wanted words without leading, "
            f"trailing or double spaces and without {_CORRECTION!r} or {_AWAY!r}, and two different entities; "
            "rename the entity or the domain"
        )
    return text


def parse_report(text: str) -> Report:
    """What a report says: entities and domain as they were written, white space made single."""
    text = " ".join(text.split())
    folded = text.lower()
    if folded == NO_PRESSURE:
        return Report(pressure=False)
    found = _REPORT.fullmatch(text)
    if found is None or folded.count(_CORRECTION) > 1 or folded.count(_AWAY) > 1 or found[3] == found[4]:
        return Report(pressure=False, malformed=True)
    strength, domain, moved_to, moved_from = found.groups()
    return Report(strength=strength.lower(), domain=domain, moved_to=moved_to, moved_from=moved_from)
