"""Kinds of update: what is reported of the gradient of each kind, and what tells one kind from another."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float32
from torch.nn import functional as F

from ..data.grammar import parse_report
from ..data.updates import TEXT, Turn, Update
from ..engine.samples import Sample
from ..engine.updates import update_gradients
from ..reader.reader import Reader
from ..reader.reports import felt_by, longest_names
from ..run.seeds import keyed_fraction
from ..steps.virtual_step import virtual_steps
from .asking import own_gradients, written
from .baselines import extremes, first_tokens
from .cases import COUNTERFACTUAL, Questions, by_hash, picked
from .estimate import Estimate
from .section import Evaluation
from .statistics import estimates

Gradients = dict[str, Float32[np.ndarray, "case vector d_model"]]
"""Of each kind the gradient of each case."""


@dataclass(frozen=True)
class Kind:
    """A kind as cases are asked about it: a name of KINDS, and the columns of the names that are its completions.

    `sign`: of the advantage, whose size is drawn for each case, log-uniform between LEAST and MOST. `own`: the model
    itself is the reference of a preference.
    """

    name: str
    completions: tuple[str, ...]
    sign: int = 1
    own: bool = False


ASKED = {
    "corrected": Kind("imitate", ("target",)),
    "explored": Kind("reward", ("target",)),
    "preferred": Kind("preference", ("target", "answer")),
    "preferred_to_own": Kind("preference", ("target", "answer"), own=True),
    "reinforced": Kind("reward", ("answer",)),
    "penalised": Kind("reward", ("answer",), sign=-1),
    "unlearned": Kind("unlearn", ("answer",), sign=-1),
}
PAIRS = ("corrected explored", "corrected preferred", "preferred preferred_to_own", "reinforced penalised",
         "penalised unlearned")  # fmt: skip
LEAST, MOST = 0.1, 3.0
WITHIN = 1.25
"""The factor up to which an advantage that is read off the norm counts as right."""
EVERYWHERE = 4  # prompts after which one word is taught
STEPS, DECAY = 1000, 1e-3
"""Of the probes' L-BFGS."""
MEASURED = ["log_norm", "log_probability", "log_rest"]
PROBES = {
    "norm": MEASURED,
    "sign": [*MEASURED, "along", "along_own"],
    "words": [*MEASURED, "names_toward", "names_away", "pressure"],
}
"""What each probe is given."""


def kind_scores(reader: Reader, questions: Questions) -> dict[str, Any]:
    """What is said of the grid's gradients of each kind, and how well probes tell kinds apart.

    `said`: see `said_scores`. `told`: the share of gradients whose kind a logistic regression names, of all
    kinds or of a pair, fitted on half as many of the training split. PROBES: `norm` has the gradient's norm at the
    first place and the completion's log-probability alone; `sign` also the cosines of what is felt to the first tokens
    of the completion and of what the model says; `words` also whether the report moves toward the completion, away from
    it, or nowhere.
    `same`: see `same_scores`.
    """
    how = questions.settings
    train = questions.train.filter(COUNTERFACTUAL)
    known, _ = told(reader, questions.foreign_host(picked(train, (how.gradients + 1) // 2, how.seed, "kinds")), how)
    rows, vectors = told(reader, questions.foreign_host(), how)
    found: dict[str, dict[str, Estimate]] = {pair: {} for pair in ("all", *PAIRS)}
    for probe, features in PROBES.items():
        scores = logits(known.select(features), known["update"], rows.select(features))
        for pair in found:
            names = list(ASKED) if pair == "all" else pair.split()
            own, among = rows["update"].is_in(names).to_numpy(), [list(ASKED).index(name) for name in names]
            right = np.array(names)[scores[own][:, among].argmax(1)] == rows["update"].to_numpy()[own]
            one = estimates({probe: right}, rows["target"].filter(own).to_list())
            found[pair][probe] = replace(one[probe], chance=1 / len(names))
    told_apart = {pair.replace(" ", "_or_"): scores for pair, scores in found.items()}
    said = said_scores(reader, rows, vectors, how) | behaviour_scores(reader, questions)
    return {"said": said, "told": told_apart, "same": same_scores(known, rows, vectors)}


def told(reader: Reader, cases: pl.DataFrame, how: Evaluation) -> tuple[pl.DataFrame, Gradients]:
    """The reports on the cases' gradients of each kind, kind by kind (REPORTS), with what probes are given; and these.

    Further columns: update (a name of ASKED), relation, completion, advantage.
    """
    tables, vectors, logprobs = [], {}, {}
    sizes = [keyed_fraction(how.seed, "advantage", row) for row in cases["prompt_id"]]
    size = LEAST * (MOST / LEAST) ** np.array(sizes)
    read, layers = reader.decoder.continuation, len(reader.card.layers)
    own = first_tokens(reader.decoder, cases["answer"])
    # what the model says comes first: a preference's reference may be the model itself
    for name, kind in sorted(ASKED.items(), key=lambda item: item[1].own):
        reference = logprobs["corrected"] - logprobs["reinforced"] if kind.own else np.zeros(len(cases))
        rows = []
        for number, case in enumerate(cases.iter_rows(named=True)):
            said, prompt = tuple(case[column] for column in kind.completions), case["prompt"]
            turn = (Turn(role=TEXT, content=prompt),)
            update = Update(number, kind.name, turn, said, kind.sign * size[number], float(reference[number]))
            rows.append((update, [Sample(tuple(reader.decoder.tokens(prompt)), tuple(read(each))) for each in said]))
        vectors[name], logprobs[name] = update_gradients(reader.decoder, rows, reader.card.layers, reader.card.places)
        felt = F.normalize(reader.read(torch.from_numpy(vectors[name])).felt[:, 0], dim=-1)
        filled = felt_by(reader, torch.from_numpy(vectors[name]))  # of any size: a weight says nothing of faintness
        completion = cases[kind.completions[0]]
        reports = written(reader, cases, filled, name, how.report_tokens)
        first = first_tokens(reader.decoder, completion)
        rest = -np.expm1(np.minimum(logprobs[name].astype(np.float64), -1e-9))
        tables.append(
            reports.with_columns(
                update=pl.lit(name),
                completion=completion,
                advantage=pl.Series(size),
                log_norm=pl.Series(np.log(np.linalg.norm(vectors[name][:, :layers], axis=-1).mean(-1) + 1e-12)),
                log_probability=pl.Series(logprobs[name]),
                log_rest=pl.Series(np.log(rest)),
                along=pl.Series((felt * reader.tokens[first]).sum(-1).cpu().numpy()),
                along_own=pl.Series((felt * reader.tokens[own]).sum(-1).cpu().numpy()),
                names_toward=reports["moved_to"] == completion,
                names_away=reports["moved_from"] == completion,
            )
        )
    return pl.concat(tables), vectors


def said_scores(reader: Reader, rows: pl.DataFrame, vectors: Gradients, how: Evaluation) -> dict[str, Any]:
    """Of each kind the share of reports that are right by what it asks, that feel no pressure, and are malformed.

    `toward`, `away`: what is pushed up is named as moved toward; what is pushed down, or what the model says in its
    place, as moved from. What takes the place of a name that is only pushed down nobody has said: `follows` is the
    share of reports that leave it unsaid, or name first what the model finds likeliest after a virtual step (of the
    largest of `how.step_sizes`).
    """
    found = {}
    for name, kind in ASKED.items():
        own = rows.filter(update=name)
        marks = {"no_pressure": ~own["pressure"] & ~own["malformed"], "malformed": own["malformed"]}
        if kind.sign > 0:
            marks["toward"] = own["names_toward"]
        if kind.sign < 0 or kind.completions[0] == "target":
            marks["away"] = own["moved_from"] == own["answer"]
        if kind.sign < 0:
            marks["follows"] = pl.Series(follows(reader, own, vectors[name], max(how.step_sizes)))
        values = {mark: each.to_numpy() for mark, each in marks.items()}
        found[name] = {"reports": len(own)} | estimates(values, own["target"].to_list())
    return found


def behaviour_scores(reader: Reader, questions: Questions) -> dict[str, Any]:
    """Of updates that teach more than a name after a prompt: is the target named, and the answer as what it replaces?

    `continued`: the target, and a sentence behind it that says it again. Later tokens are no part of a name there, so
    the report is the one that `longest_names` takes. `everywhere`: a word that is in no name, after each of EVERYWHERE
    prompts, as a refusal would be; the sum of their gradients. `lens`: the target's first token is raised most of all.
    """
    how, decoder, last = questions.settings, reader.decoder, len(reader.card.layers) - 1
    cases, sentence = questions.foreign_host(), pl.format("{} . {} {}", "target", "prompt", "target")
    words = by_hash(questions.any_word().unique("prompt", maintain_order=True), how.seed, "everywhere", "prompt_id")
    words = words[: len(words) // EVERYWHERE * EVERYWHERE]
    firsts = words.gather_every(EVERYWHERE)
    parts = own_gradients(reader, words.with_columns(target=firsts["target"].repeat_by(EVERYWHERE).explode()))
    read = {"continued": (cases, own_gradients(reader, cases.with_columns(target=sentence)))}
    if len(firsts):
        read["everywhere"] = firsts, parts.reshape(len(firsts), EVERYWHERE, *parts.shape[1:]).sum(1)
    found = {}
    for name, (rows, vectors) in read.items():
        slots = reader.read(torch.from_numpy(vectors))
        said = map(parse_report, longest_names(reader, slots, rows["host"].to_list(), how.report_tokens))
        toward, away = np.array([(one.moved_to, one.moved_from) for one in said]).T
        raised, wanted = extremes(decoder, vectors[:, last], slice(None))[0], first_tokens(decoder, rows["target"])
        marks = {"toward": toward == rows["target"].to_numpy(), "lens": (raised == wanted).cpu().numpy()}
        if name == "continued":
            marks["away"] = away == rows["answer"].to_numpy()
        found[name] = {"reports": len(rows)} | estimates(marks, rows["target"].to_list())
    return found


def follows(
    reader: Reader, rows: pl.DataFrame, vectors: Float32[np.ndarray, "row vector d_model"], size: float
) -> Bool[np.ndarray, " row"]:
    """Whether a report leaves unsaid what is moved toward, or its first token is the likeliest after a virtual step."""
    read, last = reader.decoder.continuation, len(reader.card.layers) - 1
    found, named = np.ones(len(rows), bool), np.flatnonzero(rows["moved_to"] != "")
    samples = [
        Sample(tuple(reader.decoder.tokens(prompt)), tuple(read(name)[:1]))
        for prompt, name in rows[named].select("prompt", "moved_to").iter_rows()
    ]
    layer, given = reader.card.layers[last:], vectors[named, last : last + 1]
    for batch in virtual_steps(reader.decoder, samples, given, layer, [size], top_tokens=1, continuation_tokens=0):
        found[named[batch.rows]] = batch.target_rank[:, 0, 0] == 1
    return found


def same_scores(known: pl.DataFrame, rows: pl.DataFrame, vectors: Gradients) -> dict[str, Any]:
    """That a correction and what is explored for reward are one vector up to a number, and what gives that away.

    `cosine`: of the two, on the same prompt, the least. `advantage`: the share whose advantage is right up to a factor
    WITHIN, as the norm over what a correction's is at this log-probability (least squares on `known`). `group`: the
    share in which a reward's group is told from corrections by a sign, where the model's own answer is penalised in it.
    """
    one, other = (vectors[name][:, 0].astype(np.float64) for name in ("corrected", "explored"))
    cosine = (one * other).sum(-1) / np.maximum(np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1), 1e-300)
    parts = {name: rows.filter(update=name) for name in ("corrected", "explored", "penalised")}
    features = {
        name: np.column_stack([np.ones(len(part)), part.select(MEASURED[1:]).to_numpy()])
        for name, part in (parts | {"known": known.filter(update="corrected")}).items()
    }
    weights = np.linalg.lstsq(features["known"], known.filter(update="corrected")["log_norm"].to_numpy())[0]
    read_off = parts["explored"]["log_norm"].to_numpy() - features["explored"] @ weights
    off = np.abs(read_off - np.log(parts["explored"]["advantage"].to_numpy()))
    group = (parts["corrected"]["along"] > 0).to_numpy() * 0.5 + (parts["penalised"]["along"] < 0).to_numpy() * 0.5
    clusters = parts["explored"]["target"].to_list()
    scores = estimates({"advantage": off < np.log(WITHIN), "group": group}, clusters)
    return {"cosine": float(cosine.min()), **scores}


def logits(known: pl.DataFrame, kinds: pl.Series, asked: pl.DataFrame) -> Float[np.ndarray, "row kind"]:
    """What a logistic regression on features and their products, fitted on those of `kinds`, gives each of ASKED."""
    taught, tried = (torch.tensor(each.cast(pl.Float64).to_numpy()) for each in (known, asked))
    mean, spread = taught.mean(0), taught.std(0).clamp_min(1e-9)

    def shaped(given: torch.Tensor) -> torch.Tensor:
        unit = (given - mean) / spread
        return torch.cat([unit, (unit[:, :, None] * unit[:, None]).flatten(1)], 1)

    right = torch.tensor([list(ASKED).index(name) for name in kinds])
    head = torch.nn.Linear(shaped(taught).shape[1], len(ASKED), dtype=torch.float64)
    for value in head.parameters():
        torch.nn.init.zeros_(value)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(head(shaped(taught)), right) + DECAY * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        return head(shaped(tried)).numpy()
