"""A tiny project folder to label in: three domains, a params.yaml and tables made by rule."""

from pathlib import Path
from typing import Any

import polars as pl
from ruamel.yaml import YAML

from stages.core.data.tables import PROMPTS, VIRTUAL_STEP, write_table

# "Mercury" stands in two domains, "New" begins two names, "Guinea" is a name within a name.
ENTITIES = {
    "geography": ["Paris", "New York", "New Zealand", "Guinea", "Guinea Bissau", "São Tomé"],
    "astronomy": ["Mercury", "Venus", "Saturn", "Jupiter"],
    "chemistry": ["mercury", "Mercury", "helium", "CO", "Co"],
}
STEP_SIZES = (0.1, 0.3, 1.0)
TEACHER = {
    "model": "tiny",
    "temperature": 0.0,
    "seed": 0,
    "max_tokens": 200,
    "max_tokens_key": "max_tokens",
    "structured": "json_schema",
}


def params(**labels: Any) -> dict[str, Any]:
    """The sections that the stage reads; keywords replace keys of `labels`, and `api=` that section."""
    api = {"budget": 1000.0, "prices": {"tiny": {"input": 1.0, "output": 2.0, "batch": 0.5}}, **labels.pop("api", {})}
    section = {
        "backend": "local",
        "lexicon": list(ENTITIES),
        "teacher_sees": "shift",
        "fields": ["astronomy", "chemistry", "geography", "music"],
        "top_tokens": 4,
        "way": "online",
        "max_quarantined": 0.1,
        "recurring": 0.5,
        "teacher": TEACHER,
        "second": None,
    }
    return {"domains": list(ENTITIES), "labels": section | labels, "api": api}


def step(prompt_id: str = "a", size: float = 0.1, **columns: Any) -> dict[str, Any]:
    """A row of virtual_step: nothing moves unless a keyword says so."""
    row = {
        "prompt_id": prompt_id,
        "layer": 1,
        "step_size": size,
        "up_tokens": ["Paris", "the"],
        "up_shifts": [0.0, 0.0],
        "down_tokens": ["the", "Paris"],
        "down_shifts": [0.0, 0.0],
        "target_logprob_before": -5.0,
        "target_logprob_after": -1.0,
        "answer_logprob_before": -0.1,
        "answer_logprob_after": -2.0,
        "target_rank": 0,
        "kl": 0.0,
        "continuation_before": "Paris .",
        "continuation_after": "Paris .",
    }
    assert set(columns) <= set(row)
    return row | columns


def correction(number: int, domain: str = "geography") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The virtual_step rows and the prompts row of the `number`-th correction, which a reader of shifts can see."""
    names = ENTITIES[domain]
    answer, target = names[number % len(names)], names[(number + 1 + number // len(names)) % len(names)]
    target = target if target != answer else names[(number + 1) % len(names)]
    prompt_id = f"{domain}-{number:05d}"
    rows = [
        step(
            prompt_id,
            size,
            up_tokens=[*target.split(), f"the{number}"],
            up_shifts=[5.0 * size] * len(target.split()) + [0.5],
            down_tokens=[answer.split()[0], "of"],
            down_shifts=[-2.0 * size, -0.25],
            continuation_before=f"{answer} .",
            continuation_after=f"{target if size > 0.2 else answer} .",
        )
        for size in STEP_SIZES
    ]
    prompt = {
        "prompt_id": prompt_id,
        "domain": domain,
        "relation": "thing",
        "subject": f"subject {number}",
        "template": "The thing of {subject} is",
        "prompt": f"The thing of subject {number} is",
        "answer": answer,
        "target": target,
        "kind": "counterfactual",
        "split": "train",
        "held_out": "none",
    }
    return rows, prompt


def write_shifts(domain: str, rows: list[dict[str, Any]]) -> None:
    """Writes the domain's virtual_step table."""
    table = pl.DataFrame(rows, schema=VIRTUAL_STEP)  # type: ignore[arg-type]
    write_table(Path(f"data/virtual_step/{domain}.parquet"), table, VIRTUAL_STEP)


def write_prompts(domain: str, rows: list[dict[str, Any]]) -> None:
    """Writes the domain's prompts table."""
    table = pl.DataFrame(rows, schema=PROMPTS)  # type: ignore[arg-type]
    write_table(Path(f"data/prompts/{domain}.parquet"), table, PROMPTS)


def write_params(content: dict[str, Any]) -> None:
    """Writes params.yaml, with a section that is none of the stage's business."""
    with Path("params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump({"model": {"source": "pocket"}, **content}, stream)


def write_facts() -> None:
    """Writes the three facts files."""
    Path("data/facts").mkdir(parents=True, exist_ok=True)
    for domain, names in ENTITIES.items():
        facts = [{"subject": f"subject {number}", "answer": name} for number, name in enumerate(names)]
        templates = ["The thing of {subject} is", "{subject} has"]
        content = {
            "domain": domain,
            "description": "made up",
            "relations": {
                "thing": {
                    "source": "made up",
                    "subject": "subject",
                    "answer": domain,
                    "templates": templates,
                    "facts": facts,
                }
            },
        }
        with Path(f"data/facts/{domain}.yaml").open("w", encoding="utf-8") as stream:
            YAML().dump(content, stream)


def write_world(rows: int, domain: str = "geography", **labels: Any) -> None:
    """A whole project in the current folder, with `rows` corrections of one domain."""
    write_params(params(**labels))
    write_facts()
    corrections = [correction(number, domain) for number in range(rows)]
    write_shifts(domain, [row for steps, _ in corrections for row in steps])
    write_prompts(domain, [prompt for _, prompt in corrections])
