"""Places: the positions of a row, by name, at which its gradient is taken.

`target_<n>` is the position whose output predicts the target's n-th token: `target_1` is the last prompt token,
`target_2` the target's first token, and so on. `subject` is the last token of the subject in the prompt.
"""

import re

from ..run.errors import InputError

FIRST = "target_1"
"""The place that every store has."""
SUBJECT = "subject"


def checked(places: list[str]) -> list[str]:
    """The names as they are.

    Raises:
        InputError: one is no place or stands twice, or `target_1` is missing.
    """
    for place in places:
        if place != SUBJECT and re.fullmatch(r"target_[1-9]\d*", place) is None:
            raise InputError(f"found {place!r}, wanted target_1, target_2, ... or {SUBJECT}")
    if FIRST not in places or len(set(places)) < len(places):
        raise InputError(f"found {places}, wanted {FIRST} among them and none twice")
    return places


def target_token(place: str) -> int:
    """The number of the target's token that a place `target_<n>` predicts: n, from 1."""
    return int(place.removeprefix("target_"))
