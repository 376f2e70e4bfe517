"""Reads facts as others write them: LRE tables, CounterFact, CSV, TSV and Parquet with named columns.

Each reader gives relations as they stand in the file; what fits the project's schema is decided in import_facts.py.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from ..core.run.errors import InputError

Format = Literal["lre", "counterfact", "csv", "parquet"]
SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
CASES = 6
"""CounterFact words each case in its own way: a relation's most frequent prompts, so many, become its templates."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table: of subjects, of answers and, where a table holds several, of relations."""

    subject: str | None = None
    answer: str | None = None
    relation: str | None = None


@dataclass(frozen=True)
class Found:
    """One relation as a file has it. `templates` hold {} or {subject}; `pairs` are (subject, answer), "" if missing.

    `kinds` are what the file calls its subjects and its answers, "" if it doesn't say.
    """

    relation: str
    source: str
    templates: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    kinds: tuple[str, str] = ("", "")


def read_source(path: Path, form: Format | None = None, columns: Columns | None = None) -> list[Found]:
    """Reads the relations of a file; `form` None: worked out from its name or content.

    Raises:
        InputError: there is no such file, it's of none of the formats, or a key or column is missing; names it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    kind = form or SUFFIXES.get(path.suffix.lower())
    if kind in ("csv", "parquet"):
        return _table(path, kind, columns or Columns())
    if kind is None and path.suffix.lower() != ".json":
        raise InputError(f"{path}: format unknown from the name: wanted .json, .csv, .tsv or .parquet, or --format")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if kind == "lre" or (kind is None and isinstance(content, dict) and "samples" in content):
        return [_lre(path, content)]
    if kind == "counterfact" or (kind is None and isinstance(content, list)):
        return _counterfact(path, content)
    raise InputError(
        f"{path}: neither an LRE table (an object with 'samples' and 'prompt_templates') nor CounterFact "
        "(a list of cases with 'requested_rewrite')"
    )


def _lre(path: Path, content: Any) -> Found:
    """One relation: `samples` of subject and object; templates with {} (and _zs: the zero-shot ones); kinds."""
    name = str(_key(path, content, "name"))
    templates = [*_key(path, content, "prompt_templates"), *content.get("prompt_templates_zs", [])]
    pairs = [
        (_text(_key(path, sample, "subject", f"samples.{i}.")), _text(_key(path, sample, "object", f"samples.{i}.")))
        for i, sample in enumerate(_key(path, content, "samples"))
    ]
    said = content.get("properties", {})
    kinds = _text(said.get("domain_name")), _text(said.get("range_name"))
    return Found(name, f"LRE {path.stem}", tuple(templates), tuple(pairs), kinds)


def _counterfact(path: Path, content: Any) -> list[Found]:
    """One relation for each `relation_id`; the true answer is `target_true.str`."""
    if not isinstance(content, list):
        raise InputError(f"{path}: found {type(content).__name__}, wanted a list of cases with 'requested_rewrite'")
    pairs: dict[str, list[tuple[str, str]]] = {}
    prompts: dict[str, Counter[str]] = {}
    for i, case in enumerate(content):
        rewrite = _key(path, case, "requested_rewrite", f"{i}.")
        where = f"{i}.requested_rewrite."
        relation = _text(rewrite.get("relation_id")) or path.stem
        answer = _key(path, _key(path, rewrite, "target_true", where), "str", f"{where}target_true.")
        pairs.setdefault(relation, []).append((_text(_key(path, rewrite, "subject", where)), _text(answer)))
        prompts.setdefault(relation, Counter())[str(_key(path, rewrite, "prompt", where))] += 1
    return [
        Found(name, f"CounterFact {name}", tuple(text for text, _ in prompts[name].most_common(CASES)), tuple(rows))
        for name, rows in pairs.items()
    ]


def _table(path: Path, kind: Format, columns: Columns) -> list[Found]:
    """One relation, or one for each value of the relation column; cells are read as text, column names as kinds."""
    try:
        if kind == "parquet":
            table = pl.read_parquet(path)
        else:
            table = pl.read_csv(path, infer_schema=False, separator="\t" if path.suffix.lower() == ".tsv" else ",")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path}: not readable as {kind}: {error}") from error
    named = {"--subject": columns.subject, "--answer": columns.answer, "--relation": columns.relation}
    for option, name in named.items():
        if name is None and option != "--relation":
            raise InputError(f"{path}: {option}: missing: wanted one of the columns {', '.join(table.columns)}")
        if name is not None and name not in table.columns:
            raise InputError(f"{path}: {option}: no column {name!r}, wanted one of {', '.join(table.columns)}")
    subjects, answers = (table[name or ""].to_list() for name in (columns.subject, columns.answer))
    relations = table[columns.relation].to_list() if columns.relation else [path.stem] * len(table)
    grouped: dict[str, list[tuple[str, str]]] = {}
    for relation, subject, answer in zip(relations, subjects, answers, strict=True):
        grouped.setdefault(_text(relation), []).append((_text(subject), _text(answer)))
    kinds = columns.subject or "", columns.answer or ""
    return [Found(name, path.name, (), tuple(pairs), kinds) for name, pairs in grouped.items()]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _key(path: Path, content: Any, key: str, where: str = "") -> Any:
    if not isinstance(content, dict) or key not in content:
        raise InputError(f"{path}: {where}{key}: missing: wanted this key")
    return content[key]
