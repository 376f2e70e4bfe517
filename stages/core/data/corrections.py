"""The prompts table: corrections (prompt, answer that the model gives, target that it should give) and their splits.

What is held out is decided by a hash of the name, subject or template itself, the same in every domain and for every
row, so that no order of work and no other domain can leak it: a held-out name is in no training row, neither as target
nor as answer; a held-out subject, template or kind never trains. A row that would be held out for two reasons is left
out, so that each held-out score has one cause.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from ..run.seeds import digest, keyed_fraction, keyed_rng
from .facts import Domain, Fact, Relation
from .held_out import HeldOut, held
from .section import Prompts
from .tables import PROMPTS


def split_of(
    settings: Prompts,
    out: HeldOut,
    relation: tuple[str, str, Relation],
    fact: Fact,
    template: str,
    last: bool,
    target: str,
) -> tuple[str, str] | None:
    """The columns (split, held_out) of a row; None if the row is held out for more than one reason.

    `relation`: its domain, name and content. `last`: the template is its relation's last one, which is the one held
    out. A relation of a held-out kind, as subject or answer, is held out for its kind; of two held-out names it is the
    target's that counts.
    """
    domain, name, content = relation
    names = {"target": held(out, target, content.answer), "answer": held(out, fact.answer, content.answer)}
    of_kind = not {content.subject, content.answer}.isdisjoint(out.kinds)
    reasons = ["kind" if of_kind else next((one for one, why in names.items() if why), None)]
    if keyed_fraction(out.seed, "held out", domain, name, fact.subject) < out.subjects:
        reasons.append("subject")
    if last:
        reasons.append("template")
    reasons = [reason for reason in reasons if reason]
    if len(reasons) > 1:
        return None
    if reasons:
        return "test", reasons[0]
    return drawn_split(settings, template.format(subject=fact.subject)), "none"


def drawn_split(settings: Prompts, prompt: str) -> str:
    """The split of a prompt with nothing held out, by its hash."""
    draw = keyed_fraction(settings.seed, "split", prompt)
    return "test" if draw < settings.test else "validation" if draw < settings.test + settings.validation else "train"


@dataclass(frozen=True)
class Material:
    """A generator's additions to one fact: more templates, and wrong answers beside the relation's entities."""

    templates: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()


def targets_of(
    settings: Prompts, domain: str, relation: Relation, fact: Fact, material: Material, number: int
) -> Iterator[tuple[str, str]]:
    """The (kind, target) pairs of one fact and its template `number`: counterfactuals, then the correction.

    Counterfactual targets are other entities of the relation and generated wrong answers, drawn without repetition.
    Every prompt of the first `correction_templates` templates also gets the truth as a target: a correction, where the
    model turns out to be wrong.
    """
    others = list(dict.fromkeys([*relation.entities, *material.wrong_answers]))
    others.remove(fact.answer)
    rng = keyed_rng(settings.seed, "targets", domain, fact.subject, number)
    for index in rng.permutation(len(others))[: settings.targets]:
        yield "counterfactual", others[index]
    if number < settings.correction_templates:
        yield "correction", fact.answer


def open_names(domain: Domain, out: HeldOut) -> list[str]:
    """The names that answer some relation of the domain and are not held out, sorted."""
    kinds = {name: relation.answer for relation in domain.relations.values() for name in relation.entities}
    return sorted(name for name, kind in kinds.items() if not held(out, name, kind))


def further_targets(settings: Prompts, domain: str, names: Sequence[str], fact: Fact, number: int) -> list[str]:
    """Some of these names, of other relations, as further targets of one fact and its template `number`."""
    rng = keyed_rng(settings.seed, "further targets", domain, fact.subject, number)
    order = rng.permutation(len(names))[: settings.further_targets]
    return [names[int(index)] for index in order]


def make_prompts(
    domain: Domain,
    settings: Prompts,
    out: HeldOut,
    generated: Mapping[tuple[str, str], Material] | None = None,
) -> pl.DataFrame:
    """The prompts table of a domain (columns: tables.PROMPTS), in the order of its facts file.

    `out`: what is held out. `generated`: material by (relation, subject). Its templates stand before the relation's
    last one, which stays the one that is held out.
    """
    rows, every = [], open_names(domain, out)
    for name, relation in domain.relations.items():
        others = [other for other in every if other not in relation.entities]
        for fact in relation.facts:
            material = (generated or {}).get((name, fact.subject), Material())
            templates = (*relation.templates[:-1], *material.templates, relation.templates[-1])
            for number, template in enumerate(templates):
                last = number == len(templates) - 1
                further = further_targets(settings, domain.domain, others, fact, number)
                own = list(targets_of(settings, domain.domain, relation, fact, material, number))
                for kind, target in [*own, *(("counterfactual", other) for other in further)]:
                    placed = split_of(settings, out, (domain.domain, name, relation), fact, template, last, target)
                    if placed is None or (target in further and placed[0] != "train"):
                        continue
                    prompt = template.format(subject=fact.subject)
                    rows.append(
                        {
                            "prompt_id": digest(domain.domain, name, prompt, target, kind)[:16],
                            "domain": domain.domain,
                            "relation": name,
                            "subject": fact.subject,
                            "template": template,
                            "prompt": prompt,
                            "answer": fact.answer if kind == "counterfactual" else None,
                            "target": target,
                            "kind": kind,
                            "split": placed[0],
                            "held_out": placed[1],
                        }
                    )
    return pl.DataFrame(rows, schema=PROMPTS)
