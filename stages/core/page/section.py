"""Section `report` of params.yaml: what the page shows."""

from ..run.params import Count, Name, Section


class Report(Section):
    """`examples`: reports shown on the page of each setting and outcome.

    `sweeps`: names of the tables data/sweep/<name>.csv that the page shows (make sweep writes one and names it here).
    """

    examples: Count
    sweeps: list[Name]
