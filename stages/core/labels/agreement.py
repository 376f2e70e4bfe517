"""Agreement of labels: with the known correction, with another teacher's, and among their own wordings.

Pure functions of tables. Entities agree when they are the same words, whatever the case and punctuation.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import polars as pl

from .lexicon import padded, words


def agreement_with_corrections(labels: pl.DataFrame, prompts: pl.DataFrame) -> dict[str, int | float]:
    """Shares of labels that name the known target, answer (of prompts that have one) and domain; 0 of no rows.

    Only labels whose prompt_id stands in `prompts` count.
    """
    rows = labels.select("prompt_id", "moved_to", "moved_from", named="domain").join(
        prompts.select("prompt_id", "target", "answer", "domain"), on="prompt_id", maintain_order="left"
    )
    return {
        "rows": len(rows),
        "target_accuracy": _same(rows, "moved_to", "target"),
        "answer_accuracy": _same(rows.filter(pl.col("answer").is_not_null()), "moved_from", "answer"),
        "domain_accuracy": _same(rows, "named", "domain"),
    }


def agreement_of_teachers(first: pl.DataFrame, second: pl.DataFrame) -> dict[str, int | float]:
    """Shares of the prompts labelled by both on which they agree, and Cohen's kappa of the domain."""
    rows = second.join(first, on="prompt_id", suffix="_first", maintain_order="left")
    return {
        "rows": len(rows),
        "moved_to": _same(rows, "moved_to", "moved_to_first"),
        "moved_from": _same(rows, "moved_from", "moved_from_first"),
        "domain": _same(rows, "domain", "domain_first"),
        "domain_kappa": kappa(rows["domain"].to_list(), rows["domain_first"].to_list()),
    }


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa: agreement beyond chance, 1 when all agree, 0 at chance and of no rows."""
    total = len(first)
    if not total:
        return 0.0
    observed = sum(a == b for a, b in zip(first, second, strict=True)) / total
    one, two = Counter(first), Counter(second)
    chance = sum(one[name] * two[name] for name in one) / total**2
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)


def recurring(labels: pl.DataFrame, share: float) -> dict[str, float]:
    """Wordings of the summary, entities and domain taken out, that more than `share` of the labels use; most first.

    The local teacher's wordings are its forms; a model that words thousands of shifts alike may not read them.
    """
    wordings: Counter[str] = Counter()
    for row in labels.select("summary", "moved_from", "moved_to", "domain").iter_rows(named=True):
        wording = padded(row["summary"])
        names = {name: padded(row[name]) for name in ("moved_from", "moved_to", "domain")}
        for name in sorted(names, key=lambda name: -len(names[name])):  # longest first: one may hold another
            wording = wording.replace(names[name], f" <{name}> ") if names[name].strip() else wording
        wordings[wording.strip()] += 1
    return {text: count / len(labels) for text, count in wordings.most_common() if count / len(labels) > share}


def _same(rows: pl.DataFrame, left: str, right: str) -> float:
    pairs = list(zip(rows[left], rows[right], strict=True))
    return sum(words(a) == words(b) for a, b in pairs) / len(pairs) if pairs else 0.0
