"""Turns facts as others write them into a domain of this project: cleaned, counted, checked and written as YAML.

Nothing is dropped in silence: every row that is left out is counted under the reason why, and `summary` says so.
"""

import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from tokenizers import decoders

from ..core.data.facts import Domain, Fact, Relation, World, facts_path, noun, read_domain
from ..core.data.grammar import report
from ..core.labels.lexicon import holds
from ..core.run.errors import InputError
from ..core.run.files import replacing
from ..core.run.params import plain as plain_name
from . import params_file
from .dependencies import differences
from .fact_sources import Columns, Format, Found, read_source
from .template import filled_in

FEWEST, WANTED = 2, 3
"""Templates a relation: what the schema takes, and what the project's own domains have."""
GIVEN_AWAY = 0.1
"""A template whose own words name the answers of more than this share of the facts is dropped, not the facts."""
FACTS, ANSWERS, RELATIONS = 100, 60, 2
"""What each of the project's own domains has at least."""
FEW = 20
"""Facts of a domain below which its test split may be too small."""
NAMED = "the prompt names the answer"


@dataclass
class Left:
    """Of how many rows what was left out or changed: a count and an example for each reason."""

    rows: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, reason: str, example: str) -> None:
        """Counts one row or template under a reason."""
        self.counts[reason] += 1
        self.examples.setdefault(reason, example)


@dataclass(frozen=True)
class Imported:
    """A domain, and for each relation of its sources what was left out."""

    domain: Domain
    left: dict[str, Left]


def tidy(text: str) -> str:
    """White space made single, composed Unicode, escapes that were escaped twice (in LRE's capitals) undone."""
    text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def slug(text: str) -> str:
    """A relation's key: lower case letters, digits and _."""
    return re.sub(r"\W+", "_", text.lower()).strip("_") or "relation"


def pocket_spelling(text: str) -> str:
    """The text as the pocket model would write it: its tokenizer sets punctuation apart."""
    return decoders.WordPiece(prefix="##").decode(re.findall(r"\w+|[^\w\s]", text))


def pairs_of(found: Found, domain: str, plain: bool, limit: int | None, left: Left) -> list[Fact]:
    """The pairs that can be facts, in the file's order; the others are counted in `left`."""
    kept: dict[str, Fact] = {}
    for raw in found.pairs:
        subject, answer = map(tidy, raw)
        example = f"{subject or '(nothing)'} → {answer or '(nothing)'}"
        if subject and answer and any(" ".join(x.split()) != tidy(x) for x in raw):
            left.note("kept, and respelt: escapes or decomposed letters", example)
        if not subject or not answer:
            left.note("subject or answer is empty", example)
        elif subject in kept and kept[subject].answer == answer:
            left.note("the same fact again", example)
        elif subject in kept:
            left.note("subject again, with another answer (the first stays)", example)
        elif holds(subject, answer):
            left.note(NAMED, example)
        elif not _sayable(domain, answer):
            left.note("the answer can't stand in a report", example)
        elif plain and pocket_spelling(answer) != answer:
            left.note("the pocket model can't write the answer as it stands (--plain)", example)
        elif limit is not None and len(kept) >= limit:
            left.note("beyond --limit", example)
        else:
            kept[subject] = Fact(subject=subject, answer=answer)
    return without_prefixes(list(kept.values()), left)


def without_prefixes(facts: list[Fact], left: Left) -> list[Fact]:
    """Drops facts whose answer goes on from another answer ("New York City", "New York"), or those of the rarer one.

    What a model says is compared with answers word by word from the start, and could not tell the two apart.
    """
    count = Counter(fact.answer for fact in facts)
    dropped: dict[str, str] = {}
    for answer in count:
        parts = answer.split(" ")
        for short in (" ".join(parts[:length]) for length in range(1, len(parts))):
            if short in count:
                rare, common = sorted((answer, short), key=lambda each: (count[each], -len(each)))
                dropped.setdefault(rare, f" ({common})")
    return without(facts, dropped, "one answer begins with another", left)


def without(facts: Sequence[Fact], answers: Mapping[str, str], reason: str, left: Left) -> list[Fact]:
    """Drops the facts that have one of these answers, for a reason; `answers`: what is said behind each."""
    for fact in facts:
        if fact.answer in answers:
            left.note(reason, f"{fact.subject} → {fact.answer}{answers[fact.answer]}")
    return [fact for fact in facts if fact.answer not in answers]


def templates_of(found: Found, given: Sequence[str], facts: Sequence[Fact], left: Left) -> list[str]:
    """The templates that fit the schema, those of the command line first; one is made up where there is one only."""
    kept: list[str] = []
    for raw in [*given, *found.templates]:
        template = tidy(raw).replace("{}", "{subject}")
        own = template.replace("{subject}", " ")
        named = sum(holds(own, fact.answer) for fact in facts)
        if template.count("{subject}") != 1 or "{" in own or "}" in own:
            left.note("template dropped: it must hold {subject} (or {}) once and no other braces", repr(raw))
        elif named > GIVEN_AWAY * len(facts):
            left.note("template dropped: it names the answers itself", repr(raw))
        elif template not in kept:
            kept.append(template)
    if len(kept) == 1:
        made = f"The {slug(found.relation).replace('_', ' ')} of {{subject}} is"
        left.note("template made up from the relation's name, as there was one only", repr(made))
        kept.append(made)
    return kept


def kinds_of(found: Found, given: Sequence[str]) -> tuple[str, str]:
    """The kinds of a relation's subjects and answers: the last one given ("country,city"), else the file's own.

    Raises:
        InputError: they are not two lower-case words.
    """
    kinds = given[-1] if given else ",".join(found.kinds)
    subject, _, answer = kinds.partition(",")
    try:
        return noun(subject), noun(answer)
    except InputError as error:
        raise InputError(
            f"relation {slug(found.relation)!r}: kinds of subjects and answers: found {kinds!r}, wanted two nouns of "
            "one lower-case word each: give them with --kinds country,city"
        ) from error


def _sayable(domain: str, answer: str) -> bool:
    try:
        return bool(report(domain, answer, "x"))
    except InputError:
        return False


def build(
    found: Sequence[Found],
    domain: str,
    description: str,
    templates: Sequence[str] = (),
    limit: int | None = None,
    plain: bool = False,
    credit: str | None = None,
    kinds: Sequence[str] = (),
) -> Imported:
    """The domain that these relations make; `templates` and `kinds` ("country,city") may begin with "RELATION=".

    Raises:
        InputError: the name is no domain's name, no relation is left, or one has no template or no kinds; says what to
            do.
    """
    try:
        plain_name(domain)
    except InputError as error:
        raise InputError(f"--domain: {error}") from error
    lefts: dict[str, Left] = {}
    relations: dict[str, Relation] = {}
    for each in found:
        name = slug(each.relation)
        if name in lefts:
            raise InputError(f"--domain {domain}: two sources hold a relation {name!r}: import one of them")
        left = lefts[name] = Left(len(each.pairs))
        facts = pairs_of(each, domain, plain, limit, left)
        kept = templates_of(each, _given(templates, name), facts, left) if facts else []
        if facts and len(kept) < FEWEST:
            raise InputError(
                f"relation {name!r}: found no template that fits, wanted at least {FEWEST}: give them with "
                '--template "The ... of {subject} is"'
            )
        own = [template.replace("{subject}", " ") for template in kept]
        named = {fact.answer: "" for fact in facts if any(holds(text, fact.answer) for text in own)}
        facts = without(facts, named, NAMED, left)
        if len({fact.answer for fact in facts}) < 2:
            left.note("relation dropped: fewer than two answers, and a correction needs another to move to", name)
        else:
            subject, answer = kinds_of(each, _given(kinds, name))
            relations[name] = Relation(
                source=credit or each.source, subject=subject, answer=answer, templates=tuple(kept), facts=tuple(facts)
            )
    if not relations:
        reasons = "; ".join(reason for left in lefts.values() for reason in left.counts) or "it holds no rows"
        raise InputError(f"nothing is left to import: {reasons}")
    return Imported(Domain(domain=domain, description=description, relations=relations), lefts)


def _given(values: Sequence[str], relation: str) -> list[str]:
    """What the command line gives (templates, kinds) that is meant for a relation, without "RELATION="."""
    parts = [re.fullmatch(r"(?:(\w+)=)?(.*)", value, re.DOTALL) for value in values]
    return [part[2] for part in parts if part and (part[1] is None or slug(part[1]) == relation)]


def written(domain: Domain) -> str:
    """The domain as YAML, in the layout of the project's own facts files: a fact a line."""
    content = domain.model_dump(mode="json")
    for relation in content["relations"].values():
        relation["facts"] = list(map(CommentedMap, relation["facts"]))
        for fact in relation["facts"]:
            fact.fa.set_flow_style()
    stream = StringIO()
    params_file.round_trip().dump(content, stream)
    return stream.getvalue()


def import_domain(
    sources: Sequence[Path],
    domain: str,
    form: Format | None = None,
    columns: Columns | None = None,
    templates: Sequence[str] = (),
    limit: int | None = None,
    plain: bool = False,
    credit: str | None = None,
    force: bool = False,
    add: bool = False,
    kinds: Sequence[str] = (),
) -> Imported:
    """Reads the sources and writes data/facts/<domain>.yaml; with `add`, also params.yaml and dvc.yaml.

    Raises:
        InputError: the file is there already (without `force`), with `add` the domain does not fit the world of the
            others, or see `build` and `read_source`; nothing is written.
    """
    path = facts_path(domain)
    if path.exists() and not force:
        raise InputError(f"{path}: is there already: choose another --domain, or overwrite it with --force")
    found = [relation for source in sources for relation in read_source(source, form, columns)]
    description = f"Imported from {', '.join(source.name for source in sources)}"
    imported = build(found, domain, description, templates, limit, plain, credit, kinds)
    text = written(imported.domain)
    assert Domain.model_validate(YAML(typ="safe").load(text)) == imported.domain, path
    params = _added(params_file.read(), imported.domain) if add else ""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    if add:
        params_file.write(params)
        differences(Path.cwd(), write=True)
    return imported


def _added(text: str, domain: Domain) -> str:
    """params.yaml with the domain in `domains` and in `labels.lexicon`, after a check that it fits the others."""
    params = params_file.content(text)
    others = [name for name in params["domains"] if name != domain.domain and facts_path(name).is_file()]
    World.of([*map(read_domain, others), domain])
    lists = {"domains": params["domains"], "labels.lexicon": params["labels"]["lexicon"]}
    return params_file.edited(text, {key: [*dict.fromkeys([*old, domain.domain])] for key, old in lists.items()})


def summary(imported: Imported, added: bool) -> str:
    """What came in, what was left out and why, what is thin, what to do next; in the last line where the domain is."""
    domain = imported.domain
    reasons: Counter[str] = sum((left.counts for left in imported.left.values()), Counter())
    facts = sum(len(relation.facts) for relation in domain.relations.values())
    odd = [entity for entity in domain.entities if pocket_spelling(entity) != entity]
    return filled_in(
        "import_summary.txt.j2",
        imported=imported,
        added=added,
        columns=shutil.get_terminal_size().columns,
        path=facts_path(domain.domain),
        reasons=reasons.most_common(),
        examples={reason: text for left in reversed(imported.left.values()) for reason, text in left.examples.items()},
        thin=[name for name, relation in domain.relations.items() if len(relation.templates) < WANTED],
        sizes={
            "facts": (facts, FACTS),
            "answers": (len(domain.entities), ANSWERS),
            "relations": (len(domain.relations), RELATIONS),
        },
        odd=[f"{entity} → {pocket_spelling(entity)}" for entity in odd],
        fewest=FEWEST,
        wanted=WANTED,
        few=FEW,
    )
