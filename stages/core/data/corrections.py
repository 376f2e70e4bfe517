"""The prompts table: corrections (prompt, answer that the model gives, target that it should give) and their splits.

What is held out is decided by a hash of the name, subject or template itself, the same in every domain and for every
row, so that no order of work and no other domain can leak it: a held-out name is in no training row, neither as target
nor as answer; a held-out subject, template or kind never trains. A row that would be held out for two reasons is left
out, so that each held-out score has one cause. Section `prompts` of params.yaml is declared here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from ..api.section import Asking
from ..run.params import Count, Section, Share
from ..run.seeds import digest, keyed_fraction, keyed_rng
from .facts import Domain, Fact
from .held_out import HeldOut, held
from .tables import PROMPTS


class Generator(Asking):
    """The language model that writes prompts: how many `paraphrases` and plausible `wrong_answers` for each fact."""

    paraphrases: Count
    wrong_answers: Count


class Prompts(Section):
    """How prompts are made and split.

    `generator`: prompts from the facts' templates alone, or also from a language model (section `openai`), or also
    `rows` of one's own data, from data/rows.

    `targets`: counterfactual targets a prompt. `further_targets`: names that answer other relations of the domain, as
    targets of a prompt that trains: what reads gradients is to learn from any name.
    `correction_templates`: templates of a fact that also get the truth as a target: a correction, where the model turns
    out to be wrong. `validation`, `test`: shares of the prompts of seen entities.
    """

    generator: Literal["facts", "openai", "rows"]
    openai: Generator
    targets: Count
    further_targets: Annotated[int, Field(ge=0)]
    correction_templates: Annotated[int, Field(ge=0)]
    validation: Share
    test: Share
    seed: int


@dataclass(frozen=True)
class Material:
    """A generator's additions to one fact: more templates, and wrong answers beside the relation's entities."""

    templates: tuple[str, ...] = ()
    wrong_answers: tuple[str, ...] = ()


def split_of(
    settings: Prompts, out: HeldOut, domain: Domain, name: str, fact: Fact, template: str, target: str
) -> tuple[str, str] | None:
    """The columns (split, held_out) of a row of relation `name`; None if it is held out for more than one reason.

    A relation of a held-out kind, as subject or answer, is held out for its kind; of two held-out names it is the
    target's that counts. Of a relation's templates the last one is held out.
    """
    relation = domain.relations[name]
    reasons = []
    if not {relation.subject, relation.answer}.isdisjoint(out.kinds):
        reasons.append("kind")
    elif held(out, target, relation.answer):
        reasons.append("target")
    elif held(out, fact.answer, relation.answer):
        reasons.append("answer")
    if keyed_fraction(out.seed, "held out", domain.domain, name, fact.subject) < out.subjects:
        reasons.append("subject")
    if template == relation.templates[-1]:
        reasons.append("template")
    if not reasons:
        return drawn_split(settings, template.format(subject=fact.subject)), "none"
    return ("test", reasons[0]) if len(reasons) == 1 else None


def drawn_split(settings: Prompts, prompt: str) -> str:
    """The split of a prompt with nothing held out, by its hash."""
    draw = keyed_fraction(settings.seed, "split", prompt)
    return "test" if draw < settings.test else "validation" if draw < settings.test + settings.validation else "train"


def make_prompts(
    domain: Domain,
    settings: Prompts,
    out: HeldOut,
    generated: Mapping[tuple[str, str], Material] | None = None,
) -> pl.DataFrame:
    """The prompts table of a domain (columns: tables.PROMPTS), in the order of its facts file.

    Targets of a fact and template: other entities of the relation and generated wrong answers; the truth (a
    correction); names that are not held out and answer other relations of the domain, where the row trains.

    `out`: what is held out. `generated`: material by (relation, subject). Its templates stand before the relation's
    last one, which stays the one that is held out.
    """
    rows = []
    kinds = {name: relation.answer for relation in domain.relations.values() for name in relation.entities}
    free = sorted(name for name, kind in kinds.items() if not held(out, name, kind))
    for name, relation in domain.relations.items():
        own = relation.entities
        elsewhere = [other for other in free if other not in own]
        for fact in relation.facts:
            material = (generated or {}).get((name, fact.subject), Material())
            others = [other for other in dict.fromkeys([*own, *material.wrong_answers]) if other != fact.answer]
            for number, template in enumerate((*relation.templates[:-1], *material.templates, relation.templates[-1])):
                identity = (domain.domain, fact.subject, number)
                targets = drawn(others, settings.targets, settings.seed, "targets", *identity)
                pairs = [("counterfactual", target) for target in targets]
                if number < settings.correction_templates:
                    pairs.append(("correction", fact.answer))
                more = drawn(elsewhere, settings.further_targets, settings.seed, "further targets", *identity)
                further = [target for target in more if target not in targets]
                pairs += [("counterfactual", target) for target in further]
                for kind, target in pairs:
                    placed = split_of(settings, out, domain, name, fact, template, target)
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


def drawn(names: Sequence[str], count: int, seed: int, *identity: str | int) -> list[str]:
    """So many of the names, without repetition, by a draw keyed on (seed, identity)."""
    order = keyed_rng(seed, *identity).permutation(len(names))[:count]
    return [names[int(index)] for index in order]
