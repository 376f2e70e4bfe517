"""A domain's facts: one YAML file with relations, their templates and their (subject, answer) pairs.

The domains together are a world: a graph, as answers of relations are subjects of others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from ..run.errors import InputError
from ..run.files import read_validated

FACTS = Path("data/facts")


def _spaced_once(text: str) -> str:
    if not text or text != " ".join(text.split()):
        raise InputError(f"found {text!r}, wanted words without leading, trailing or double spaces")
    return text


def noun(text: str) -> str:
    """The text unchanged, after a check that it can name a kind.

    Raises:
        InputError: it isn't one word of lower-case letters.
    """
    if not (text.isalpha() and text.islower()):
        raise InputError(f"found {text!r}, wanted a noun of one lower-case word, as city or element")
    return text


Words = Annotated[str, Field(strict=True), AfterValidator(_spaced_once)]
Kind = Annotated[str, Field(strict=True), AfterValidator(noun)]
"""What an entity is: city, country, element."""


class Fact(BaseModel):
    """One true statement: the relation holds between subject and answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    subject: Words
    answer: Words


class Relation(BaseModel):
    """Templates that end right before the answer, the facts that fill them, and the kinds of their two sides."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    subject: Kind
    answer: Kind
    templates: tuple[Words, ...]
    facts: tuple[Fact, ...]

    @field_validator("templates")
    @classmethod
    def _templates_hold_the_subject_once(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        if len(templates) < 2:
            raise InputError(f"wanted at least 2 templates, found {len(templates)}")
        for template in templates:
            if template.count("{subject}") != 1 or template.replace("{subject}", "").count("{"):
                raise InputError(f"template {template!r} must hold {{subject}} exactly once and no other field")
        if len(set(templates)) < len(templates):
            raise InputError("the same template stands twice")
        return templates

    @field_validator("facts")
    @classmethod
    def _facts_are_distinct(cls, facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
        if not facts:
            raise InputError("the relation is empty: wanted at least one {subject, answer}")
        subjects = [fact.subject for fact in facts]
        if len(set(subjects)) < len(subjects):
            raise InputError(f"duplicate fact: subject {max(subjects, key=subjects.count)!r} stands twice")
        if len({fact.answer for fact in facts}) < 2:
            raise InputError("all facts share one answer: a correction needs another entity to move to")
        return facts

    @property
    def entities(self) -> tuple[str, ...]:
        """The distinct answers, in order of first occurrence."""
        return tuple(dict.fromkeys(fact.answer for fact in self.facts))


class Domain(BaseModel):
    """The content of one facts file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    domain: Words
    description: str
    relations: dict[str, Relation]

    @model_validator(mode="after")
    def _has_relations(self) -> "Domain":
        if not self.relations:
            raise InputError("relations: wanted at least one relation")
        return self

    @property
    def entities(self) -> tuple[str, ...]:
        """The distinct answers of all relations, in order of first occurrence."""
        return tuple(dict.fromkeys(entity for relation in self.relations.values() for entity in relation.entities))


@dataclass(frozen=True)
class World:
    """The facts of several domains as one graph."""

    kinds: dict[str, str]
    """The kind of each entity, subjects and answers."""
    domains: dict[str, str]
    """The domain in which a kind is answered; kinds of subjects alone have none."""
    bridges: tuple[str, ...]
    """The entities that are the answer of one relation and the subject of another, sorted."""
    relations: tuple[tuple[str, str, Relation], ...]
    """Domain, name and content of each relation."""

    @classmethod
    def of(cls, domains: Sequence[Domain]) -> "World":
        """The world that these domains make.

        Raises:
            InputError: a kind is answered in two domains, or an entity has two kinds; names the files and both.
        """
        kinds: dict[str, str] = {}
        answered: dict[str, str] = {}
        named: dict[str, Path] = {}
        relations = tuple((each.domain, name, found) for each in domains for name, found in each.relations.items())
        for domain, name, relation in relations:
            if answered.setdefault(relation.answer, domain) != domain:
                raise InputError(
                    f"{facts_path(domain)}: relations.{name}.answer: kind {relation.answer!r} is answered in "
                    f"{facts_path(answered[relation.answer])} already, wanted one domain for a kind: move the relation "
                    "there, or name another kind"
                )
            sides = [(fact.subject, relation.subject) for fact in relation.facts]
            sides += [(fact.answer, relation.answer) for fact in relation.facts]
            for entity, kind in sides:
                if kinds.setdefault(entity, kind) != kind:
                    raise InputError(
                        f"{facts_path(domain)}: relations.{name}: {entity!r} has kind {kind!r} here and "
                        f"{kinds[entity]!r} in {named[entity]}, wanted one: rename one of the two, or leave it out"
                    )
                named.setdefault(entity, facts_path(domain))
        subjects = {fact.subject for *_, relation in relations for fact in relation.facts}
        answers = {fact.answer for *_, relation in relations for fact in relation.facts}
        return cls(kinds, answered, tuple(sorted(subjects & answers)), relations)

    @property
    def lexicon(self) -> dict[str, str]:
        """The domain of each name whose kind answers a relation."""
        return {name: self.domains[kind] for name, kind in self.kinds.items() if kind in self.domains}

    def questions(self, kind: str) -> list[tuple[str, str, Relation]]:
        """Domain, name and content of the relations whose subjects are of this kind."""
        return [each for each in self.relations if each[2].subject == kind]

    def bridged(self) -> "World":
        """The world itself, after a check that there is a bridge to ask about.

        Raises:
            InputError: no answer is the subject of a relation; names the domains and says what to do.
        """
        if not self.bridges:
            names = ", ".join(dict.fromkeys(domain for domain, *_ in self.relations))
            raise InputError(
                f"data/facts of {names}: a world without a single bridge: no answer of a relation is a subject of "
                "another, so there is nothing to ask about a felt entity: add a relation about an answer, or a domain "
                "that has one"
            )
        return self


def facts_path(domain: str) -> Path:
    """The path of a domain's facts file."""
    return FACTS / f"{domain}.yaml"


def read_domain(domain: str, key: str = "domains") -> Domain:
    """The facts of `data/facts/<domain>.yaml`, checked; `key`: the param that names the domain, for error messages.

    Raises:
        InputError: the file is missing, is not YAML, or breaks the schema; names file, key, what was found and wanted.
    """
    path = facts_path(domain)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FACTS.glob("*.yaml"))) or "none"
        raise InputError(f"params.yaml: {key}: unknown domain {domain!r}: no file {path} (domains with facts: {known})")
    found = read_validated(path, Domain.model_validate)
    if found.domain != domain:
        raise InputError(f"{path}: domain: found {found.domain!r}, wanted the file's name {domain!r}")
    return found
