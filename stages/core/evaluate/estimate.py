"""An estimate: a number with its 95 % interval, its chance and its paired difference; how metrics.json holds it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..run.errors import InputError

Number = int | float
Standing = Literal["above", "at", "below", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A number and what it has to be read beside; None where there is no such thing.

    Attributes:
        value: the number itself: the mean of a score, or a count.
        low, high: 95 % interval of the value.
        chance: the value that the same reports would have on gradients dealt at random.
        rows, entities: how many rows the value is the mean of, and how many entities (clusters) these are of.
        reason: why there is no interval.
        difference: paired difference on the same gradients: real gradient minus control, or reports minus reference.
        spoken: the same score over the reports alone that tell of a pressure.
    """

    value: Number
    low: Number | None = None
    high: Number | None = None
    chance: Number | None = None
    rows: int | None = None
    entities: int | None = None
    reason: str | None = None
    difference: "Estimate | None" = None
    spoken: "Estimate | None" = None

    @property
    def standing(self) -> Standing:
        """Where the interval lies against chance; "at": it includes chance, the effect is null."""
        if self.chance is None or self.low is None or self.high is None:
            return "unknown"
        return "above" if self.low > self.chance else "below" if self.high < self.chance else "at"


NESTED = ("difference", "spoken")


def to_json(metrics: Mapping[str, Any] | Estimate) -> dict[str, Any]:
    """Nested groups of estimates and plain numbers as JSON objects; what an estimate doesn't have is left out."""
    found = vars(metrics) if isinstance(metrics, Estimate) else metrics
    return {
        name: to_json(value) if isinstance(value, Estimate | Mapping) else value
        for name, value in found.items()
        if value is not None
    }


def from_json(content: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """The groups of metrics.json as nested dicts whose leaves are all estimates; a plain number becomes one.

    Raises:
        InputError: a leaf is neither a finite number nor an estimate, or one has an unknown key; names the dotted key.
    """
    found = {}
    for name, value in content.items():
        where = f"{key}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            found[name] = read_estimate(value, where) if "value" in value else from_json(value, where)
        else:
            found[name] = Estimate(finite(value, where))
    return found


def read_estimate(content: Mapping[str, Any], key: str) -> Estimate:
    """One estimate of metrics.json; errors as of `from_json`."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        where = f"{key}.{name}"
        if name not in Estimate.__dataclass_fields__:
            raise InputError(f"{where}: unknown key, wanted one of {', '.join(Estimate.__dataclass_fields__)}")
        if name in NESTED and isinstance(value, Mapping):
            found[name] = read_estimate(value, where)
        else:
            found[name] = value if name == "reason" else finite(value, where)
    return Estimate(**found)


def finite(value: Any, key: str) -> Number:
    """The value, if it is a finite number; errors as of `from_json`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{key}: found {value!r}, wanted a finite number")
    return value


def flat(groups: Mapping[str, Any], key: str = "") -> dict[str, Estimate]:
    """All estimates of nested groups by dotted key, each followed by its `difference` and `spoken`."""
    found: dict[str, Estimate] = {}
    for name, value in groups.items():
        where = f"{key}.{name}".lstrip(".")
        if isinstance(value, Estimate):
            inner = {part: getattr(value, part) for part in NESTED if getattr(value, part) is not None}
            found |= {where: value, **flat(inner, where)}
        else:
            found |= flat(value, where)
    return found
