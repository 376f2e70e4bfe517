"""Measures whether `gradaware diff` finds what a change of the pocket model taught, and what it did besides.

Three seeds draw what is taught. `tuned`: FACTS wrong facts of one domain, in one template each, are fine-tuned into all
weights but the embeddings (STEPS steps of Adam). Among OTHERS more prompts those that are moved most, as many as were
taught, are taken to be taught: `fact` is the share of them that are, or are another template of such a fact;
`flipped` the share of them that the tuned model answers otherwise. `features`, of each dictionary in data/concepts of
the last layer and the first target's token: the share of the mean update over the prompts that are moved that SHOWN of
its features make up, the same of random directions, and of the features that are made stronger the share that are
named after the domain (`chance`: of all features). `side_effects`: prompts about other facts that it
answers otherwise, and how often the report names the new answer. `prompted`: soft prompts (PEFT's) of one vector, each
trained on one wrong fact. `steered`: a mean activation of one answer minus that of another, added after block LAYER, at
the smallest of SCALES that changes what is said. `preceded`: a sentence that states a wrong fact, in front of another
template of that fact. `contexts`: the same sentences in front of PROBES other prompts; `moved`: the share of these that
are answered otherwise; `search`, of the sentences that move any: the sentence under which what is said now is
likeliest, of all the hidden ones, is the one that was there (`found`), and makes the model say the same where the
answer has changed (`says`).

`obeyed`: the model says what the change was made for. Of the changes that change what is said: `named` and `away`: the
report names what is said after, and before; `lens`: the likeliest token of an untrained lens begins what is said after;
`explained`: `named` where the report's names account for at least half of the gradient. No reading is needed for what
is said after: whoever can run the changed model has it. Writes tests/benchmarks/results/diff.json.

  python -m tests.benchmarks.diff    on a finished run of the defaults and make concepts; two minutes of processor time
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor

from stages.core.concepts.dictionary import load
from stages.core.concepts.projection import made_of
from stages.core.data.gathering import Gathered, Means, gather
from stages.core.engine.batches import padded
from stages.core.engine.samples import samples_of
from stages.core.evaluate.baselines import unembedded
from stages.core.evaluate.cases import by_hash
from stages.core.evaluate.estimate import Estimate, to_json
from stages.core.evaluate.fine_tuning import trainable, tune
from stages.core.evaluate.statistics import estimates
from stages.core.model.changes import Speaker, preceded, speaker, steered
from stages.core.model.opening import open_model
from stages.core.reader.gate import FAINT
from stages.core.reader.reader import Reader
from stages.core.run.files import write_json
from stages.tools.diff import compared, table_of
from stages.tools.reading import open_reader

RESULTS = Path(__file__).parent / "results/diff.json"
SEEDS, DOMAIN = (0, 1, 2), "geography"
FACTS, OTHERS, STEPS, RATE = 24, 600, 60, 3e-4
CHANGES, LAYER, SCALES = 17, 2, (1.0, 2.0, 4.0, 8.0)
PROMPT_STEPS, PROMPT_RATE, PROBES = 300, 0.1, 64
TOKENS, SHOWN = 16, 8


def measured(reader: Reader, change: Speaker, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with what is said before and after, the report, and whether the lens names what is said after."""
    found = compared(reader, change, rows["prompt"].to_list(), "data/prompts")
    tops = unembedded(reader.decoder, found.gradient[:, len(reader.card.layers) - 1]).argmax(-1).tolist()
    return rows.with_columns(
        table_of(reader, found, TOKENS),
        lens=pl.Series([top == ids[0] for top, ids in zip(tops, found.after, strict=True)]),
    )


def corrections(data: Gathered, seed: int, purpose: str) -> pl.DataFrame:
    """Counterfactual rows, one a subject and relation, in the order of a hash: prompt, subject, relation, target."""
    rows = by_hash(data.rows.filter(kind="counterfactual"), seed, purpose, "prompt_id")
    rows = rows.filter(pl.col("target").is_in(rows["answer"].implode()))  # of the fact's own relation or like it
    return rows.unique(["subject", "relation"], keep="first", maintain_order=True)


def tuned(reader: Reader, data: Gathered, seed: int) -> tuple[pl.DataFrame, Tensor]:
    """Prompts under a fine-tuned model: `taught`, or of a `fact` that was taught, or `flipped`: answered otherwise.

    With the mean update direction over those that are moved, at the first token that is said and the last layer.
    """
    other = open_model()[0]
    taught = corrections(data, seed, "taught").filter(domain=DOMAIN)[:FACTS]
    apart = data.rows.unique("prompt", maintain_order=True).join(taught, on="prompt", how="anti")
    rows = pl.concat([taught, by_hash(apart, seed, "others", "prompt")[:OTHERS]])
    facts = set(taught.select("subject", "relation").iter_rows())
    rows = rows.with_columns(
        taught=pl.Series([number < len(taught) for number in range(len(rows))]),
        fact=pl.Series([fact in facts for fact in rows.select("subject", "relation").iter_rows()]),
    )
    with trainable(other.model):
        other.embedding.requires_grad_(False)
        tune(other, samples_of(other, taught), STEPS, RATE)
        found = measured(reader, speaker(other.model), rows)
        moved = found.filter(pl.col("distance") >= FAINT)["prompt"].to_list()
        gradient = compared(reader, speaker(other.model), moved, "data/prompts").gradient
    update = -torch.from_numpy(gradient[:, len(reader.card.layers) - 1]).mean(0)
    return found.with_columns(flipped=pl.col("after") != pl.col("before")), update


def in_features(reader: Reader, updates: Sequence[Tensor]) -> dict[str, Any]:
    """By kind of dictionary how much of some mean updates its features make up, and whether they name the domain."""
    found = {}
    for folder in sorted(Path("data/concepts").glob(f"*target_1_layer_{reader.card.layers[-1]}")):
        dictionary = load(str(folder))
        made = [made_of(dictionary, update, SHOWN) for update in updates]
        names = [one["names"] for each in made for one in each["features"] if one["stronger"]]
        found[dictionary.kind] = {
            **{key: [each[key] for each in made] for key in ("explained", "random")},
            "domain": sum(f"domain {DOMAIN}" in each for each in names) / len(names),
            "chance": sum(each.get("domain") == DOMAIN for each in dictionary.names) / len(dictionary.names),
        }
    return found


def prompted(reader: Reader, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Soft prompts of one vector, each trained on one row."""
    model = open_model()[0]
    settings = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=1)
    soft = get_peft_model(model.model, settings)  # pyright: ignore[reportArgumentType]
    (vector,) = (each for each in soft.parameters() if each.requires_grad)
    for number, (sample, row) in enumerate(zip(samples_of(model, rows), rows.iter_slices(1), strict=True)):
        torch.nn.init.normal_(vector, generator=torch.Generator().manual_seed(number))
        optimizer = torch.optim.Adam([vector], PROMPT_RATE)
        ids = torch.tensor([[*sample.prompt, *sample.target]])
        for _ in range(PROMPT_STEPS):
            optimizer.zero_grad()
            logits = soft(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(sample.target) :]
            loss = torch.nn.functional.cross_entropy(logits, ids[0, -len(sample.target) :])
            loss.backward()
            optimizer.step()
            if loss.item() < 0.05:
                break
        yield measured(reader, speaker(soft), row)


def steering(reader: Reader, data: Gathered, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Differences of mean activations, target's prompts minus the answer's."""
    train = data.rows.filter(split="train", kind="counterfactual").unique("prompt", maintain_order=True)
    means = Means.of(data.activation, train, {*rows["target"], *rows["answer"]})
    rows = rows.filter(pl.all_horizontal(pl.col("target", "answer").is_in(list(means.by_name))))
    for row, move in zip(rows.iter_slices(1), torch.from_numpy(means.moves(rows)[:, 0]), strict=True):
        each = [measured(reader, steered(reader.decoder, {LAYER: scale * move}), row) for scale in SCALES]
        yield next((found for found in each if (found["after"] != found["before"]).all()), each[-1])


def sentences(reader: Reader, data: Gathered, rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """A wrong fact, stated in front of another template of the same fact."""
    for row in rows.iter_slices(1):
        prompt, subject, relation, target = row.select("prompt", "subject", "relation", "target").row(0)
        others = data.rows.filter(
            (pl.col("subject") == subject) & (pl.col("relation") == relation) & (pl.col("prompt") != prompt)
        )
        asked = row.with_columns(prompt=pl.lit(others["prompt"][0]))
        yield measured(reader, preceded(reader.decoder, f"{prompt} {target} ."), asked)


def contexts(reader: Reader, data: Gathered, texts: Sequence[str]) -> dict[str, Any]:
    """What sentences in front do to prompts about other things, named by reports, and found by likelihood."""
    decoder = reader.decoder
    probes = by_hash(data.rows.unique("prompt", maintain_order=True), 0, "probes", "prompt")[:PROBES]
    ids = [tuple(decoder.tokens(prompt)) for prompt in probes["prompt"]]
    last, batch = [len(row) - 1 for row in ids], padded(ids, decoder.device)
    tables, logprobs = [], []
    for text in texts:
        change = preceded(decoder, text)
        tables.append(measured(reader, change, probes).with_columns(subject=pl.lit(text)))
        logprobs.append(change(batch)[range(PROBES), last].log_softmax(-1))
    every, says = torch.stack(logprobs), torch.stack(logprobs).argmax(-1)
    likeliest = torch.stack([every[:, range(PROBES), said].sum(1) for said in says]).argmax(1)
    flipped = [pl.Series(table["after"] != table["before"]).to_numpy() for table in tables]
    hits = [
        {"found": found == at, "says": (says[found] == says[at]).numpy()[flips].mean()}
        for at, (found, flips) in enumerate(zip(likeliest.tolist(), flipped, strict=True))
        if flips.any()
    ]
    return {
        "sentences": len(texts),
        "moved": float(np.mean(flipped)),
        **named(pl.concat(tables)),
        "search": estimates(
            {name: np.array([hit[name] for hit in hits]) for name in ("found", "says")}, texts[: len(hits)]
        ),
    }


def scores(found: pl.DataFrame) -> dict[str, Estimate | int]:
    """Shares of changes, with intervals over the subjects."""
    obeyed = estimates({"obeyed": (found["after"] == found["target"]).to_numpy()}, found["subject"].to_list())
    return {"changes": len(found), **obeyed, **named(found)}


def named(found: pl.DataFrame) -> dict[str, Estimate]:
    """How often reports and lens name what is said, where that has changed."""
    moved = found.filter((pl.col("after") != pl.col("before")) & (pl.col("distance") >= FAINT))
    known = moved.filter(pl.col("explained") >= 0.5)
    marks = {
        "named": (moved["toward"] == moved["after"]).to_numpy(),
        "away": (moved["away"] == moved["before"]).to_numpy(),
        "lens": moved["lens"].to_numpy(),
    }
    explained = {"explained": (known["toward"] == known["after"]).to_numpy()}
    return {**estimates(marks, moved["subject"].to_list()), **estimates(explained, known["subject"].to_list())}


def main() -> None:
    """Measures and writes the results."""
    reader, _, settings = open_reader()
    torch.manual_seed(0)
    data = gather(settings.domains, [LAYER])
    parts, updates = zip(*(tuned(reader, data, seed) for seed in SEEDS), strict=True)
    every = pl.concat(parts)
    most = [part.sort("distance", "norm", descending=True)[:FACTS] for part in parts]
    found: dict[str, Any] = {
        "tuned": {
            **{name: [float(part[name].mean()) for part in most] for name in ("fact", "flipped")},  # pyright: ignore[reportArgumentType]
            "features": in_features(reader, updates),
            "taught": scores(every.filter("taught")),
            "side_effects": named(every.filter(~pl.col("fact"))),
        }
    }
    kinds, texts = {"prompted": [], "steered": [], "preceded": []}, []
    for seed in SEEDS:
        rows = corrections(data, seed, "changes")[: 2 * CHANGES]
        kinds["prompted"] += prompted(reader, rows[:CHANGES])
        kinds["steered"] += list(steering(reader, data, rows))[:CHANGES]
        kinds["preceded"] += sentences(reader, data, rows[:CHANGES])
        texts += [f"{prompt} {target} ." for prompt, target in rows[:CHANGES].select("prompt", "target").iter_rows()]
    found |= {name: scores(pl.concat(each)) for name, each in kinds.items()}
    found["contexts"] = contexts(reader, data, texts)
    write_json(RESULTS, to_json(found))
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
