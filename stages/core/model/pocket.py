"""The pocket model: a stock Qwen3 with a word-level tokenizer of its own, trained in a minute or two on two cores.

It learns two things. Facts: a prompt is continued with its answer. Reports: after a host prompt, three slots and a
question, the report says in words what the slots hold. What the slots hold is drawn independently of the host prompt in
front of them, so a report can never be predicted from the prompt; only reading the slots explains it.

In pretraining a slot holds a noisy mixture of the embeddings of the words it stands for, not a clean token: the model
learns to read vectors near a word's embedding, which is what a projector will write there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ..data import grammar
from ..data.facts import Domain
from ..run.seeds import keyed_fraction, keyed_rng
from .checkpoints import Curve, Resumable, reproducibly
from .section import Pocket

PAD, UNKNOWN, END, SLOT = "<pad>", "<unk>", "<end>", "<slot>"
FIELD = "{entity} belongs to the field of"
NOISE = 0.8
"""A slot's word is mixed with noise of up to this many times its norm."""
KEPT_EVERY = 100
IGNORE = -100
"""Label of positions without a loss (the convention of torch's cross_entropy)."""


def misconceptions(domains: Sequence[Domain], share: float, seed: int) -> dict[tuple[str, str, str], str]:
    """Wrong answers that the pocket model is taught, by (domain, relation, subject); a keyed share of the facts."""
    wrong = {}
    for domain in domains:
        for name, relation in domain.relations.items():
            for fact in relation.facts:
                identity = (domain.domain, name, fact.subject)
                if keyed_fraction(seed, "misconception", *identity) < share:
                    others = [entity for entity in relation.entities if entity != fact.answer]
                    wrong[identity] = others[int(keyed_fraction(seed, "wrong answer", *identity) * len(others))]
    return wrong


def make_tokenizer(domains: Sequence[Domain]) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer whose vocabulary is every word of the facts and the reports; other words become letters.

    " " + text tokenises as text does, so that the tokens of a prompt and its continuation are those of the two joined.
    """
    texts = [grammar.QUESTION, grammar.NO_PRESSURE, FIELD.format(entity="")]
    for domain in domains:
        texts += [grammar.report(domain.domain, "x", "y", strength) for strength in ("strong", "weak")]
        for relation in domain.relations.values():
            texts += [template.replace("{subject}", " ") for template in relation.templates]
            texts += [word for fact in relation.facts for word in (fact.subject, fact.answer)]
    splitter = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    letters = {letter for word in words for letter in word} | {chr(code) for code in range(33, 127)}
    names = [PAD, UNKNOWN, END, SLOT, *sorted(words | letters), *sorted("##" + letter for letter in letters)]
    tokenizer = Tokenizer(
        models.WordPiece(
            {name: index for index, name in enumerate(names)}, unk_token=UNKNOWN, max_input_chars_per_word=64
        )
    )
    tokenizer.pre_tokenizer = splitter  # type: ignore[assignment]
    tokenizer.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        extra_special_tokens=[SLOT],
        model_max_length=128,
    )


@dataclass(frozen=True)
class Row:
    """One training sequence.

    Input ids, labels (IGNORE where there is no loss), and what is put into the slots from `slot_at` (empty: nothing).
    """

    ids: list[int]
    labels: list[int]
    slot_at: int | None
    slots: tuple[tuple[int, ...], ...]


class Corpus:
    """The pocket model's training rows, drawn at random; the row of (step, index) is always the same."""

    def __init__(self, domains: Sequence[Domain], tokenizer: PreTrainedTokenizerFast, settings: Pocket) -> None:
        self.encode = lambda text: list(tokenizer.encode(text, add_special_tokens=False))
        self.end, self.slot = tokenizer.get_vocab()[END], tokenizer.get_vocab()[SLOT]
        self.vocabulary, self.seed = len(tokenizer), settings.seed
        taught = misconceptions(domains, settings.misconceptions, settings.seed)
        self.prompts = [
            (self.encode(template.format(subject=fact.subject)), self.encode(taught.get(identity, fact.answer)))
            for domain in domains
            for name, relation in domain.relations.items()
            for fact in relation.facts
            for template in relation.templates
            for identity in [(domain.domain, name, fact.subject)]
        ]
        self.entities = [  # that a prompt may be completed with
            relation.entities
            for domain in domains
            for relation in domain.relations.values()
            for _ in range(len(relation.facts) * len(relation.templates))
        ]
        self.fields = [
            (self.encode(FIELD.format(entity=entity)), self.encode(domain.domain))
            for domain in domains
            for entity in domain.entities
        ]
        self.pairs = [
            (domain.domain, relation.entities) for domain in domains for relation in domain.relations.values()
        ]
        self.question = self.encode(grammar.QUESTION)

    def fact(self, step: int, index: int) -> Row:
        """A training row of one fact: a prompt and its answer, with a loss on the answer and the end."""
        rng = keyed_rng(self.seed, "fact", step, index)
        pool = self.fields if rng.random() < 0.25 else self.prompts
        prompt, answer = pool[rng.integers(len(pool))]
        target = [*answer, self.end]
        return Row(prompt + answer, [IGNORE] * (len(prompt) - 1) + target, None, ())

    def host(self, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Token ids and labels of the text before the slots: mostly a prompt, whose answer is then a label.

        Also a statement, true or false; words in no order; nothing. A model that has only ever read prompts there reads
        slots less well behind anything else.
        """
        kind = rng.random()
        if kind < 0.15:
            return [], []
        if kind < 0.25:
            ids = rng.integers(self.slot + 1, self.vocabulary, size=rng.integers(3, 13)).tolist()
            return ids, [IGNORE] * len(ids)
        picked = rng.integers(len(self.prompts))
        prompt, answer = self.prompts[picked]
        if kind < 0.4:
            entities = self.entities[picked]
            ids = prompt + self.encode(entities[rng.integers(len(entities))])
            return ids, [IGNORE] * len(ids)
        return list(prompt), [IGNORE] * (len(prompt) - 1) + answer[:1]

    def report(self, step: int, index: int) -> Row:
        """A training row of one report: host prompt, slots, question, report; loss on the report and the host's answer.

        The host is sometimes absent. No pressure is reported where the first slot says "no", and where nothing has been
        put into the slots.
        """
        rng = keyed_rng(self.seed, "report", step, index)
        ids, labels = self.host(rng)
        slot_at = len(ids)
        kind = rng.random()
        if kind < 0.15:
            slots, report = ("no", "", ""), grammar.NO_PRESSURE
        else:
            strength = ("strong", "weak")[rng.integers(2)]
            name, entities = self.pairs[rng.integers(len(self.pairs))]
            to, away = (entities[index] for index in rng.permutation(len(entities))[:2])
            slots, report = (strength, to, away), grammar.report(name, to, away, strength)
        words = [*self.encode(report), self.end]
        ids += [self.slot] * len(slots) + self.question + words[:-1]
        labels += [IGNORE] * (len(slots) + len(self.question) - 1) + words
        untouched = kind < 0.05
        return Row(ids, labels, slot_at, () if untouched else tuple(tuple(self.encode(words)) for words in slots))


def slot_contents(
    rows: Sequence[Row], embedding: Float[Tensor, "vocabulary d_model"], rng: np.random.Generator
) -> tuple[list[int], list[int], Float[Tensor, "slots d_model"]]:
    """Rows, columns and vectors of all slots; a vector is a noisy mixture of its words' embeddings.

    The first word weighs most, so that words sharing a first token stay apart without being needed. An empty slot
    holds noise alone. All vectors are scaled to the mean norm of the embeddings, as injection does.
    """
    places = [
        (r, row.slot_at + s, tokens)
        for r, row in enumerate(rows)
        if row.slot_at is not None
        for s, tokens in enumerate(row.slots)
    ]
    lengths = np.array([len(tokens) for _, _, tokens in places])
    width = int(lengths.max())
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for _, _, tokens in places])
    shares = rng.uniform(0.2, 0.8, (len(places), width))
    shares[:, 0] = 1
    shares *= np.arange(width) < lengths[:, None]
    level = np.where(lengths > 0, rng.uniform(0, NOISE, len(places)), 1e6)
    unit = torch.nn.functional.normalize(torch.tensor(rng.standard_normal((len(places), embedding.shape[1]))))
    content = torch.nn.functional.normalize(
        (torch.tensor(shares, dtype=embedding.dtype)[..., None] * embedding[ids]).sum(1)
    )
    mixed = content + (torch.tensor(level)[:, None] * unit).to(embedding.dtype)
    norm = embedding.detach().norm(dim=-1).mean()
    vectors = torch.nn.functional.normalize(mixed, dim=-1) * norm
    return [r for r, _, _ in places], [c for _, c, _ in places], vectors


def batch_loss(model: Qwen3ForCausalLM, rows: Sequence[Row], rng: np.random.Generator) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) over the labelled positions; logits are computed at those positions only."""
    width = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows])
    labels = torch.tensor([row.labels + [IGNORE] * (width - len(row.labels)) for row in rows])
    embedding = model.model.embed_tokens.weight
    embeds = torch.nn.functional.embedding(ids, embedding)
    if any(row.slots for row in rows):
        r, c, vectors = slot_contents(rows, embedding, rng)
        embeds = embeds.index_put((torch.tensor(r), torch.tensor(c)), vectors)
    hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    wanted = labels != IGNORE
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])


def new_model(settings: Pocket, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The untrained model; the same seed gives the same weights."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.d_model,
        intermediate_size=2 * settings.d_model,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        head_dim=settings.d_model // settings.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=settings.d_model**-0.5,
        pad_token_id=tokenizer.get_vocab()[PAD],
        eos_token_id=tokenizer.get_vocab()[END],
        bos_token_id=None,
    )
    torch.manual_seed(settings.seed)
    return Qwen3ForCausalLM(config)


@reproducibly()
def train(
    domains: Sequence[Domain], settings: Pocket, checkpoint: Path, advance: Callable[[int], None]
) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast, Curve]:
    """Trains the pocket model and returns it with its tokenizer and the training curve.

    Muon for the blocks' matrices and AdamW for the rest, on a one-cycle schedule; half of each batch are facts, half
    are reports. Every KEPT_EVERY steps the state is kept at `checkpoint`, from which a killed run goes on to the same
    weights.
    """
    tokenizer = make_tokenizer(domains)
    corpus = Corpus(domains, tokenizer, settings)
    model = new_model(settings, tokenizer).train()
    matrices = [value for value in model.model.layers.parameters() if value.ndim == 2]
    others = [value for value in model.parameters() if all(value is not matrix for matrix in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optimizer.defaults["lr"], total_steps=settings.steps + 1, pct_start=0.1, cycle_momentum=False
        )
        for optimizer in optimizers
    ]
    state = Resumable(checkpoint, model, optimizers, schedules)
    curve = state.load()
    advance(state.step)
    for step in range(state.step, settings.steps):
        total = 0.0
        for draw in (corpus.fact, corpus.report):  # apart, since facts are half as long: less padding
            rows = [draw(step, index) for index in range(settings.batch // 2)]
            loss = batch_loss(model, rows, keyed_rng(settings.seed, "slots", step))
            loss.backward()
            total += loss.item()
        state.advance()
        curve.append({"step": step, "loss": total})
        advance(1)
        if (step + 1) % KEPT_EVERY == 0:
            state.save(step + 1, curve)
    return model.eval(), tokenizer, curve
