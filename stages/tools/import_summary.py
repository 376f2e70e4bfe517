"""What a person is told after an import: what came in, what was left out and why, what is thin, what to do next."""

from collections import Counter

from rich.console import Console

from ..core.data.facts import facts_path
from .import_facts import FEWEST, WANTED, Imported, pocket_spelling
from .template import filled_in

FEW = 20
FACTS, ANSWERS, RELATIONS = 100, 60, 2
"""What each of the project's own domains has at least."""


def show(imported: Imported, added: bool, console: Console) -> None:
    """Prints what an import did, in the words of import_summary.txt.j2; the last line says where the domain is."""
    domain = imported.domain
    reasons: Counter[str] = sum((left.counts for left in imported.left.values()), Counter())
    facts = sum(len(relation.facts) for relation in domain.relations.values())
    text = filled_in(
        "import_summary.txt.j2",
        imported=imported,
        added=added,
        columns=console.width,
        path=facts_path(domain.domain),
        reasons=reasons.most_common(),
        examples={reason: text for left in reversed(imported.left.values()) for reason, text in left.examples.items()},
        thin=[name for name, relation in domain.relations.items() if len(relation.templates) < WANTED],
        sizes={
            "facts": (facts, FACTS),
            "answers": (len(domain.entities), ANSWERS),
            "relations": (len(domain.relations), RELATIONS),
        },
        odd=[
            f"{entity} → {pocket_spelling(entity)}" for entity in domain.entities if pocket_spelling(entity) != entity
        ],
        fewest=FEWEST,
        wanted=WANTED,
        few=FEW,
    )
    console.print(text, end="", soft_wrap=True)
