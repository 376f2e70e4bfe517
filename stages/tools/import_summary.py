"""What a person is told after an import: what came in, what was left out and why, what is thin, what to do next."""

from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from ..core.data.facts import Relation, facts_path
from .import_facts import FEWEST, WANTED, Imported, pocket_spelling

FEW = 20
FACTS, ANSWERS, RELATIONS = 100, 60, 2
"""What each of the project's own domains has at least."""


def show(imported: Imported, added: bool, console: Console) -> None:
    """Prints it; the last line says where the domain is."""
    domain = imported.domain
    console.print(_relations(imported))
    reasons: Counter[str] = sum((left.counts for left in imported.left.values()), Counter())
    examples = {reason: text for left in reversed(imported.left.values()) for reason, text in left.examples.items()}
    if reasons:
        example = {reason: f"{', e.g.' if count > 1 else ':'} {examples[reason]}" for reason, count in reasons.items()}
        console.print("\nLeft out or changed:")
        console.print(_listed((str(count), reason + example[reason]) for reason, count in reasons.most_common()))
    notes = list(_notes(imported))
    if notes:
        console.print("\nWorth knowing:")
        console.print(_listed(("-", note) for note in notes))
    if added:
        console.print(f"\nparams.yaml and dvc.yaml: {domain.domain} is among the domains now. Next: make repro")
    else:
        console.print(
            f"\nNext: this command again with --add --force (puts {domain.domain} into params.yaml and dvc.yaml), then "
            "make repro"
        )
    facts = sum(len(relation.facts) for relation in domain.relations.values())
    console.print(f"{facts_path(domain.domain)}: {facts} facts, {len(domain.entities)} answers")


def _relations(imported: Imported) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("relation", no_wrap=True, overflow="ellipsis")
    for name in ("rows", "facts", "answers", "templates"):
        table.add_column(name, justify="right")
    for name, rows in imported.rows.items():
        relation = imported.domain.relations.get(name)
        found = _sizes(relation) if relation else ("0", "0", "0")
        table.add_row(name, str(rows), *found)
    return table


def _listed(rows: Iterable[tuple[str, str]]) -> Table:
    """Rows of a mark or a count, and a text that wraps beside it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", min_width=5)
    table.add_column()
    for row in rows:
        table.add_row(*row)
    return table


def _sizes(relation: Relation) -> tuple[str, str, str]:
    return str(len(relation.facts)), str(len(relation.entities)), str(len(relation.templates))


def _notes(imported: Imported) -> Iterator[str]:
    domain = imported.domain
    thin = [name for name, relation in domain.relations.items() if len(relation.templates) < WANTED]
    if thin:
        yield (
            f"fewer than {WANTED} templates: {', '.join(thin)}. The schema takes {FEWEST}, the project's own domains "
            f"have {WANTED} or more: the last one is held out, so the more the better (--template)"
        )
    sizes = (
        (sum(len(relation.facts) for relation in domain.relations.values()), FACTS, "facts"),
        (len(domain.entities), ANSWERS, "answers"),
        (len(domain.relations), RELATIONS, "relations"),
    )
    short = [f"{what} {found} of {wanted}" for found, wanted, what in sizes if found < wanted]
    if short:
        facts = sizes[0][0]
        then = "wider intervals" if facts >= FEW else "wide intervals, if its test split is large enough at all"
        yield f"smaller than the project's own domains ({', '.join(short)}): its row will have {then}"
    odd = [entity for entity in domain.entities if pocket_spelling(entity) != entity]
    if odd:
        yield (
            f"answers with punctuation: {len(odd)}. The pocket model sets it apart ({odd[0]} → "
            f"{pocket_spelling(odd[0])}), so that its reports on them count as wrong; --plain leaves them out. A Hub "
            "model writes them as they are"
        )
