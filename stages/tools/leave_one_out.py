"""Leaves out one domain after the other: a projector that never saw it reads its gradients.

Reads what the stages projector and evaluation read. Writes data/leave_one_out/metrics.json. Params: domains, projector,
evaluation. Trains one projector a domain (the first seed): minutes on two cores, so it's no stage but a target of its
own (make leave-one-out). Resumes domain by domain.

  python -m stages.tools.leave_one_out
"""

import argparse
from pathlib import Path
from typing import Any

import polars as pl
import torch

from stages.core.cases import picked, with_hosts, with_premise
from stages.core.files import Scratch, content_hash, read_json, write_json
from stages.core.gathering import gather
from stages.core.measures import SEEN
from stages.core.neural.decoder import Decoder
from stages.core.neural.opening import ModelCard, open_model
from stages.core.neural.reader import Reader
from stages.core.params import Domains, Evaluation, Projector, Section, read_sections
from stages.core.scoring import scored, summary
from stages.core.stage import run
from stages.core.tables import VIRTUAL_STEP, read_table
from stages.projector import card_for, teach

OUTPUT = Path("data/leave_one_out/metrics.json")


class Sections(Section):
    """What this tool reads of params.yaml."""

    domains: Domains
    projector: Projector
    evaluation: Evaluation


def left_out(domain: str, params: Sections, decoder: Decoder, model: ModelCard, scratch: Scratch) -> dict[str, Any]:
    """The scores of `domain`'s test gradients, in front of foreign hosts, by a projector trained on the others."""
    settings, how = params.projector, params.evaluation
    seen = [name for name in params.domains if name != domain]
    kept = settings.model_copy(update={"held_out_domains": [domain], "seeds": settings.seeds[:1]})
    data = gather(seen, settings.layers)
    reader = Reader.new(decoder, card_for(decoder, model, data, kept), kept.seeds[0])
    teach(reader, data, kept, scratch)
    everything = gather(params.domains, settings.layers)
    shifts = read_table(Path("data/virtual_step") / f"{domain}.parquet", VIRTUAL_STEP)
    said = shifts.select("prompt_id", "continuation_before").unique("prompt_id", maintain_order=True)
    own = everything.rows.filter((pl.col("domain") == domain) & (pl.col("kind") == "counterfactual"))
    test = with_premise(own, said).filter((pl.col("split") == "test") & SEEN)
    hosts = everything.rows.filter((pl.col("split") == "test") & SEEN & (pl.col("kind") == "counterfactual"))
    cases = with_hosts(picked(test, how.gradients, how.seed, "grid"), hosts, None, how.seed)
    with torch.no_grad():
        slots, confidence = reader.fill(torch.tensor(everything.gradient[cases["row"].to_numpy()]))
    reports = reader.report_vectors(cases["host"].to_list(), slots, how.report_tokens)
    cases = cases.with_columns(
        condition=pl.lit("left out"), seed=pl.lit(reader.seed), confidence=pl.Series(confidence.cpu().numpy())
    )
    return summary(scored(cases, reports), how.bootstrap, how.seed)


def main() -> None:
    """Leaves out every domain in turn."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.tools.leave_one_out",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    params = read_sections(Sections)
    decoder, model = open_model()
    inputs = [content_hash(Path("data") / f"labels/{name}.parquet") for name in params.domains]
    scratch = Scratch("leave_one_out", params.model_dump_json(), model.model_dump_json(), *inputs)
    found = {}
    for domain in params.domains:
        piece = Scratch("leave_one_out_domain", domain, str(scratch.folder))
        path = scratch.piece(
            f"{domain}.json", lambda at, d=domain, p=piece: write_json(at, left_out(d, params, decoder, model, p))
        )
        piece.clear()
        found[domain] = read_json(path)
        scores = found[domain]
        print(
            f"{domain}: domain {scores['domain_accuracy']:.3f}, target {scores['target_accuracy']:.3f}, answer "
            f"{scores['answer_accuracy']:.3f}, host intrusion {scores['host_intrusion']:.3f}",
            flush=True,
        )
    write_json(OUTPUT, found)
    scratch.clear()
    print(f"{OUTPUT}: {len(found)} domains, each left out once")


if __name__ == "__main__":
    run(main)
