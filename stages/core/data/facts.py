"""A domain's facts: one YAML file with relations, their templates and their (subject, answer) pairs."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ..run.errors import InputError, explain, one_line

FACTS = Path("data/facts")


def spaced_once(text: str) -> str:
    """The text unchanged, after a check of its white space.

    Raises:
        InputError: it's empty, or has white space that isn't a single space between two words.
    """
    if not text or text != " ".join(text.split()):
        raise InputError(f"found {text!r}, wanted words without leading, trailing or double spaces")
    return text


Words = Annotated[str, Field(strict=True), AfterValidator(spaced_once)]


class Fact(BaseModel):
    """One true statement: the relation holds between subject and answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    subject: Words
    answer: Words


class Relation(BaseModel):
    """Templates that end right before the answer, and the facts that fill them."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    subject: Words
    answer: Words
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
        seen: dict[str, Fact] = {}
        for fact in facts:
            if fact.subject in seen:
                raise InputError(f"duplicate fact: subject {fact.subject!r} stands twice")
            seen[fact.subject] = fact
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
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
        found = Domain.model_validate(content)
    except YAMLError as error:
        raise InputError(f"{path}: not readable as YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise InputError(explain(str(path), error)) from error
    if found.domain != domain:
        raise InputError(f"{path}: domain: found {found.domain!r}, wanted the file's name {domain!r}")
    return found


from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    """stand-in"""

    kinds: dict[str, str]
    domains: dict[str, str]
    bridges: tuple[str, ...]

    @classmethod
    def of(cls, domains: Sequence[Domain]) -> "World":
        kinds, of = {}, {}
        subjects, answers = set(), set()
        for d in domains:
            for r in d.relations.values():
                of.setdefault(r.answer, d.domain)
                for f in r.facts:
                    kinds.setdefault(f.answer, r.answer)
                    kinds.setdefault(f.subject, r.subject)
                    subjects.add(f.subject); answers.add(f.answer)
        return cls(kinds, of, tuple(sorted(subjects & answers)))
