"""Leaves out one domain after the other: a projector that never saw it reads its gradients.

Reads what the stages projector and evaluation read, and params.yaml. Writes data/sweep/leave_one_out.csv, one row a
domain, and names it under `report.sweeps` in params.yaml, so that the page shows it. Trains one projector a domain (the
first seed): minutes on two cores, so it's no stage but a target of its own (make leave-one-out). Resumes domain by
domain.

  python -m stages.tools.leave_one_out
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch

from ..core.data.gathering import Gathered, gather
from ..core.data.tables import VIRTUAL_STEP, read_table
from ..core.evaluate.cases import picked, with_hosts, with_premise
from ..core.evaluate.estimate import from_json, to_json
from ..core.evaluate.measures import SEEN
from ..core.evaluate.scoring import scored, summary
from ..core.evaluate.section import Evaluation
from ..core.model.decoder import Decoder
from ..core.model.opening import ModelCard, open_model
from ..core.page.inputs import read_params
from ..core.page.sweep import LEAVE_ONE_OUT, Experiment, table_of
from ..core.reader.reader import Reader
from ..core.reader.section import Projector
from ..core.run.files import Scratch, content_hash, read_json, write_json
from ..core.run.params import Domains, Section, read_sections
from ..core.run.stage import parse, run
from ..projector import card_for, set_gate, teach
from .sweep import publish


class Sections(Section):
    """What this tool reads of params.yaml."""

    domains: Domains
    projector: Projector
    evaluation: Evaluation


def left_out(domain: str, params: Sections, decoder: Decoder, model: ModelCard, scratch: Scratch) -> dict[str, Any]:
    """The scores of `domain`'s test gradients, in front of foreign hosts, by a projector trained on the others.

    Training leaves out the gradients of the others whose label names `domain` by mistake: no report says its word.
    """
    settings, how = params.projector, params.evaluation
    seen = [name for name in params.domains if name != domain]
    kept = settings.model_copy(update={"held_out_domains": [domain], "seeds": settings.seeds[:1]})
    data = gather(seen, settings.layers)
    data = replace(data, rows=data.rows.filter(pl.col("label_domain").ne_missing(domain)))
    reader = trained(decoder, model, data, kept, scratch)
    everything = gather(params.domains, settings.layers)
    test = picked(askable(everything.rows, [domain]), how.gradients, how.seed, "grid")
    return summary(reported(reader, test, everything, how), how.bootstrap, how.seed)


def trained(decoder: Decoder, model: ModelCard, data: Gathered, settings: Projector, scratch: Scratch) -> Reader:
    """A reader of the first seed, trained on the rows of `data`, its gate set."""
    reader = Reader.new(decoder, card_for(decoder, model, data, settings), settings.seeds[0])
    teach(reader, data, settings, scratch)
    set_gate(reader, data, settings)
    return reader


def askable(rows: pl.DataFrame, domains: Sequence[str]) -> pl.DataFrame:
    """The counterfactual test rows of these domains with nothing held out, whose premise holds."""
    shifts = pl.concat([read_table(Path("data/virtual_step") / f"{name}.parquet", VIRTUAL_STEP) for name in domains])
    said = shifts.select("prompt_id", "continuation_before").unique("prompt_id", maintain_order=True)
    own = rows.filter(pl.col("domain").is_in(domains) & (pl.col("kind") == "counterfactual"))
    return with_premise(own, said).filter((pl.col("split") == "test") & SEEN)


def reported(reader: Reader, asked: pl.DataFrame, data: Gathered, how: Evaluation) -> pl.DataFrame:
    """The reports of these rows' gradients, each in front of one host of one other domain, marked (REPORTS)."""
    hosts = data.rows.filter((pl.col("split") == "test") & SEEN & (pl.col("kind") == "counterfactual"))
    cases = with_hosts(asked, hosts, None, how.seed)
    with torch.no_grad():
        slots, confidence = reader.fill(torch.tensor(data.gradient[cases["row"].to_numpy()]))
    reports = reader.report_vectors(cases["host"].to_list(), slots, how.report_tokens)
    cases = cases.with_columns(
        condition=pl.lit("real"), seed=pl.lit(reader.seed), confidence=pl.Series(confidence.cpu().numpy())
    )
    return scored(cases, reports)


def main() -> None:
    """Leaves out every domain in turn."""
    parse(__doc__, "tools.leave_one_out", by_domain=False)
    params = read_sections(Sections)
    decoder, model = open_model()
    inputs = [content_hash(Path("data") / f"labels/{name}.parquet") for name in params.domains]
    scratch = Scratch("leave_one_out", params.model_dump_json(), model.model_dump_json(), *inputs)
    experiments, found = [], []
    for domain in params.domains:
        piece = Scratch("leave_one_out_domain", domain, str(scratch.folder))
        path = scratch.piece(
            f"{domain}.json",
            lambda at, d=domain, p=piece: write_json(at, to_json(left_out(d, params, decoder, model, p))),
        )
        piece.clear()
        scores = from_json(read_json(path))
        experiments.append(Experiment("Never trained on", domain, {"held_out_domains": [domain]}))
        found.append({"decoupling": scores})
        print(
            f"{domain}: domain {scores['domain_accuracy'].value:.3f}, target {scores['target_accuracy'].value:.3f}, "
            f"answer {scores['answer_accuracy'].value:.3f}, host intrusion {scores['host_intrusion'].value:.3f}",
            flush=True,
        )
    publish(LEAVE_ONE_OUT, table_of(experiments, found, read_params(), params.projector.seeds[:1]))
    scratch.clear()


if __name__ == "__main__":
    run(main)
