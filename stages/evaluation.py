"""Asks the model what it reads in each gradient, in front of foreign hosts and under every control, and scores it.

Reads data/model/, data/peers/, data/projector/, data/questions/ and, of all domains, data/facts, data/prompts,
data/gradients, data/virtual_step and data/labels. Writes data/evaluation/: metrics.json, reports.parquet (every
report), answers.parquet (every answer to a question), grid.csv and conditions.csv (plots). What is read at the
subject's last token, where the stores have it, goes into metrics.json alone. Params: evaluation, domains, questions,
model, peers. Every GPU that is found is used, each for whole conditions and seeds; the pocket model takes some three
minutes on two cores. Resumes condition by condition.

  python -m stages.evaluation
"""

from pathlib import Path

import polars as pl

from .core.data.facts import World, read_domain
from .core.data.gathering import continuations, gather
from .core.data.questions import read_questions
from .core.data.tables import read_table, write_table
from .core.evaluate.answers import answered
from .core.evaluate.asking import Asking, pieces_of
from .core.evaluate.batches import batch_scores
from .core.evaluate.cases import Questions, with_premise
from .core.evaluate.estimate import to_json
from .core.evaluate.interview import Interview, at_subject, peers_of
from .core.evaluate.kinds import kind_scores
from .core.evaluate.metrics import condition_table, grid_table, metrics_of
from .core.evaluate.scores import SCORES
from .core.evaluate.section import Evaluation
from .core.evaluate.table import ANSWERS, REPORTS
from .core.model import ranks
from .core.model.opening import open_model
from .core.model.section import POCKET, Foreign, Model, Peer
from .core.reader.card import read_projector_card
from .core.reader.reader import load_reader
from .core.run.files import replacing, write_json
from .core.run.params import Domains, Name, Names, Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run

PROJECTOR = Path("data/projector")
OUTPUT = Path("data/evaluation")


class Sections(Section):
    """What this stage reads of params.yaml."""

    domains: Domains
    questions: Names
    model: Model
    peers: dict[Name, Peer | Foreign]
    evaluation: Evaluation


def main() -> None:
    """Asks for the reports of every condition, scores them and writes the tables and metrics."""
    parse(__doc__, "evaluation", by_domain=False)
    params = read_sections(Sections)
    ranks.shared("stages.evaluation", params, lambda: work(params))


def work(params: Sections) -> None:
    """Asks for this rank's reports; the first rank then scores and writes all of them."""
    decoder, model = open_model()
    card = read_projector_card(PROJECTOR)
    readers = [load_reader(decoder, PROJECTOR, model.id, model.commit, seed) for seed in card.seeds]
    bias = load_reader(decoder, PROJECTOR, model.id, model.commit, bias_only=True)
    data = gather(params.domains, card.layers, places=card.places).corrections()
    said = continuations(params.domains)
    questions = Questions(data.rows, with_premise(data.rows, said), params.domains, params.evaluation)
    world = World.of([read_domain(name) for name in params.domains])
    sets = {key: one for name in params.questions for key, one in read_questions(name).items()}
    scratch = Scratch("evaluation")
    pieces = pieces_of(questions, readers, bias)
    with progress("evaluation", sum(len(piece.cases) for piece in pieces)) as advance:
        Asking(data, questions, decoder).keep(ranks.own(pieces), scratch, advance)
    if not ranks.finished():
        return
    reports = pl.concat([read_table(scratch.folder / piece.file, REPORTS) for piece in pieces])
    trained = params.model.pocket.asked if params.model.source == POCKET else []
    interview = Interview.of(questions, world, sets, trained)
    slots = interview.slots(readers[0], data)
    main_answers, edits = interview.of_main(readers[0], slots)
    answers, peers, foreign = [main_answers], {}, []
    there = at_subject(decoder, card, data)
    subject = (*there, interview.slots(*there)) if there else None
    for name, peer in peers_of(card, params.peers):
        rows = interview.rows(peer, interview.cases)
        if subject:
            foreign.append(answered(peer, rows, "foreign", subject[2], params.evaluation.report_tokens, "real"))
        if isinstance(params.peers[name], Peer):
            peers[name], own = interview.of_peer(peer, name)
            answers.append(own)
        answers.append(answered(peer, rows, "foreign", slots, params.evaluation.report_tokens, name))
    answers = pl.concat(answers)
    metrics = metrics_of(reports, answers, peers, data, questions, readers[0], sets) | edits
    if subject:
        metrics["subject"] = interview.scores(*subject, questions, foreign)
    metrics["kinds"] = kind_scores(readers[0], questions)
    metrics["batches"] = batch_scores(readers[0], data, questions.foreign_host(), params.evaluation)
    with replacing(OUTPUT) as partial:
        partial.mkdir()
        write_table(partial / "reports.parquet", reports, REPORTS)
        write_table(partial / "answers.parquet", answers, ANSWERS)
        write_json(partial / "metrics.json", to_json(metrics))
        grid_table(reports).write_csv(partial / "grid.csv")
        condition_table(metrics).write_csv(partial / "conditions.csv")
    scratch.clear()
    means = {name: metrics["decoupling"][name].value for name in SCORES}
    found = ", ".join(f"{name.removesuffix('_accuracy').replace('_', ' ')} {mean:.3f}" for name, mean in means.items())
    print(f"{OUTPUT}: {len(reports)} reports; in front of foreign hosts {found}")


if __name__ == "__main__":
    run(main)
