"""Cases: which gradient is read in front of which host prompt.

Only rows of the test split whose premise holds are asked about: the model says the answer before the step (for
counterfactual corrections), or something else than the truth (for real ones). Hosts are prompts of the test split.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Int

from ..run.errors import InputError
from ..run.seeds import keyed_int
from .section import Evaluation

NO_HOST = "none"
SEEN = pl.col("held_out") == "none"
COUNTERFACTUAL = pl.col("kind") == "counterfactual"
KEPT = ("row", "prompt_id", "held_out", "relation", "prompt", "target", "answer")
"""What a case keeps of its row."""
HELD_OUT = ("target", "answer", "kind", "subject", "template")


class Questions:
    """The tables of cases that conditions ask about: one row a gradient in front of a host.

    Attributes:
        rows: the prompts of all splits whose premise holds; `test`: of the test split; `train`: of the training split,
            with nothing held out.
        grid: the test gradients of the decoupling grid, with nothing held out.
        hosts: the test prompts that may stand in front.
    """

    def __init__(self, every: pl.DataFrame, rows: pl.DataFrame, domains: Sequence[str], settings: Evaluation) -> None:
        """`every`: the prompts of all domains; `rows`: those whose premise holds (`with_premise`)."""
        self.domains, self.settings, self.rows = domains, settings, rows
        self.hosts = every.filter((pl.col("split") == "test") & SEEN & COUNTERFACTUAL)
        self.train, self.test = rows.filter((pl.col("split") == "train") & SEEN), rows.filter(pl.col("split") == "test")
        self.grid = picked(self.test.filter(SEEN & COUNTERFACTUAL), settings.gradients, settings.seed, "grid")

    def every_host(self) -> pl.DataFrame:
        """The grid in front of a host of every domain and of none; held-out gradients and real corrections too.

        Held-out gradients and corrections stand in front of one host of one other domain.
        """
        count, seed = self.settings.gradients, self.settings.seed
        parts = [with_hosts(self.grid, self.hosts, [*self.domains, NO_HOST], seed)]
        for reason in HELD_OUT:
            held = self.test.filter((pl.col("held_out") == reason) & COUNTERFACTUAL)
            parts.append(self.foreign_host(picked(held, count, seed, reason)))
        corrections = self.foreign_host(self.test.filter(~COUNTERFACTUAL))
        if len(corrections):
            parts.append(corrections.with_columns(held_out=pl.lit("correction")))
        return pl.concat([part for part in parts if len(part)])

    def foreign_host(self, rows: pl.DataFrame | None = None) -> pl.DataFrame:
        """The grid (or other rows), each gradient in front of one host of one other domain."""
        return with_hosts(self.grid if rows is None else rows, self.hosts, None, self.settings.seed)

    def false_host(self) -> pl.DataFrame:
        """As `foreign_host`, the host completed to a false statement."""
        return with_hosts(self.grid, self.hosts, None, self.settings.seed, false=True)

    def peers(self) -> pl.DataFrame:
        """As `foreign_host`, without domains that have one gradient only."""
        return self.foreign_host().filter(pl.len().over("gradient_domain") > 1)

    def already_said(self) -> pl.DataFrame:
        """As `foreign_host`, the target being what the model says anyway."""
        return self.foreign_host().with_columns(target=pl.col("answer"))

    def any_word(self) -> pl.DataFrame:
        """As `foreign_host`, the target being a word of some prompt that is in no name, chosen by hash."""
        names = set(" ".join([*self.rows["target"], *self.rows["answer"]]).split())
        words = sorted(set(filter(str.isalpha, " ".join(self.rows["prompt"].unique()).split())) - names)
        cases = self.foreign_host()
        drawn = [words[keyed_int(self.settings.seed, "word", row) % len(words)] for row in cases["prompt_id"]]
        return cases.with_columns(target=pl.Series(drawn, dtype=pl.String))

    def few(self) -> pl.DataFrame:
        """As `foreign_host`, of the few gradients that the model is fine-tuned on for real."""
        return self.foreign_host(picked(self.grid, self.settings.fine_tuned, self.settings.seed, "fine_tuned"))


def with_premise(rows: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """Rows whose premise holds; a real correction's answer becomes the entity that the model said.

    `said`: prompt_id and continuation_before, the model's own words after the prompt.

    Raises:
        InputError: the model knows none of the facts.
    """
    entities = rows.select("domain", "relation", entity="target").unique(maintain_order=True)
    rows = rows.join(said, on="prompt_id", maintain_order="left")
    words = pl.col("continuation_before")

    def names(entity: str) -> pl.Expr:
        """As `grammar.names`: the text begins with the name, which ends there."""
        behind = words.str.slice(pl.col(entity).str.len_chars(), 1)
        return words.str.starts_with(pl.col(entity)) & ~behind.str.contains(r"\w")

    counterfactual = rows.filter((pl.col("kind") == "counterfactual") & names("answer"))
    wrong = (
        rows.filter((pl.col("kind") == "correction") & ~names("target"))
        .drop("answer")
        .join(entities, on=["domain", "relation"], maintain_order="left")
        .filter(names("entity"))
        .rename({"entity": "answer"})
    )
    if counterfactual.is_empty():
        raise InputError(
            "data/virtual_step: found no prompt that the model continues with its answer, wanted some: the model knows "
            "none of these facts; train it longer (model.pocket.steps) or choose facts that it knows"
        )
    return pl.concat([counterfactual, wrong.select(counterfactual.columns)]).sort("row").drop("continuation_before")


def picked(rows: pl.DataFrame, count: int, seed: int, purpose: str, each: str = "domain") -> pl.DataFrame:
    """At most `count` rows a domain (or `each` other column's value), chosen by hash of prompt_id, in table order."""
    key = pl.Series([keyed_int(seed, purpose, row) for row in rows["prompt_id"]], dtype=pl.UInt64)
    chosen = rows.with_columns(key=key).filter(pl.col("key").rank("ordinal").over(each) <= count)
    return chosen.drop("key")


def by_hash(rows: pl.DataFrame, seed: int, purpose: str, *columns: str) -> pl.DataFrame:
    """The rows in the order of a hash of what stands in these columns."""
    return rows[np.argsort([keyed_int(seed, purpose, *row) for row in rows.select(columns).iter_rows()])]


def deranged(ids: pl.Series, seed: int, purpose: str) -> Int[np.ndarray, " n"]:
    """For each row the number of another one, by hash of the rows' ids: the one before it in the order of hashes."""
    order = np.argsort([keyed_int(seed, purpose, each) for each in ids])
    taken = np.empty_like(order)
    taken[order] = np.roll(order, 1)
    return taken


def with_hosts(
    rows: pl.DataFrame, pool: pl.DataFrame, host_domains: Sequence[str] | None, seed: int, false: bool = False
) -> pl.DataFrame:
    """Each row in front of a host of each of `host_domains`, chosen by hash.

    `host_domains`: NO_HOST among them is no host; None: one host of one other domain. A host of the gradient's own
    domain is a prompt about another subject. `false`: the host states something false, its own counterfactual target.
    """
    by_domain = {str(name): part for (name,), part in pool.group_by("domain", maintain_order=True)}
    found = []
    for row in rows.iter_rows(named=True):
        wanted = host_domains
        if wanted is None:
            others = [name for name in by_domain if name != row["domain"]]
            if not others:
                raise InputError(
                    f"params.yaml: domains: found {row['domain']} alone with test prompts, wanted another one too: its "
                    "prompts stand in front of these gradients"
                )
            wanted = [others[keyed_int(seed, "host domain", row["prompt_id"]) % len(others)]]
        for name in wanted:
            host = None
            if name != NO_HOST:
                choices = by_domain.get(name, pool.clear())
                if name == row["domain"]:
                    choices = choices.filter(pl.col("subject") != row["subject"])
                if choices.is_empty():
                    raise InputError(
                        f"data/prompts/{name}.parquet: found no test prompt about another subject than "
                        f"{row['subject']!r}, wanted one to stand in front; add facts or raise prompts.test"
                    )
                host = choices.row(keyed_int(seed, "host", row["prompt_id"], name) % len(choices), named=True)
            found.append(
                {
                    **{name: row[name] for name in KEPT},
                    "host_prompt_id": host["prompt_id"] if host else None,
                    "gradient_domain": row["domain"],
                    "host_domain": name,
                    "host": host and (f"{host['prompt']} {host['target']}" if false else host["prompt"]),
                }
            )
    return pl.DataFrame(found, infer_schema_length=None)
