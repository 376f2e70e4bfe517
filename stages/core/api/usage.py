"""Counts of what one run of a stage asked and spent. They go to a side file, never to an output."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Advance = Callable[[int], None]
"""Moves the progress bar on by so many answers."""


@dataclass
class Usage:
    """Counts of requests by who answered them and of failed tries by name; seconds and US dollars."""

    cached: int = 0
    asked: int = 0
    from_other_runs: int = 0
    uncertain: int = 0  # tries whose answer never arrived; they count as spent at their ceiling
    seconds: float = 0.0
    spent_usd: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return vars(self) | {"faults": dict(self.faults), "seconds": round(self.seconds, 3)}
