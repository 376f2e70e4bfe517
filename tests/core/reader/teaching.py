"""A small class for the small pocket model: gradients that say what they correct, settings, and readers."""

from collections.abc import Sequence

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from stages.core.data.facts import Domain
from stages.core.model.decoder import Decoder
from stages.core.reader.card import Injection
from stages.core.reader.injection import ReadingPrompt, Slots, replace_slots
from stages.core.reader.lessons import Curriculum, Draws, Lessons
from stages.core.reader.reader import Reader
from stages.core.reader.reports import prompts_of
from stages.core.reader.section import Projector
from stages.core.reader.training import new_card

QUESTION = "<felt> away <opposite> what pressure do you feel ?"
LAYERS, PLACES = (0, 1), ("target_1", "target_2")
REPLACE = Injection(how="replace", block=None, at="slots", scale=1.0)


def settings(**changes: object) -> Projector:
    """Settings of the section `projector`; keywords replace them."""
    return Projector.model_validate(
        {
            "architecture": "mlp", "learns_from": "labels", "reports": "names", "injection": REPLACE,
            "whiten": False, "lora": None, "width": 16, "layers": list(LAYERS), "places": list(PLACES), "slots": 1,
            "question": QUESTION, "chat": False, "held_out_domains": [], "slot_token": "<slot>", "steps": 12,
            "batch": 16, "report_batch": 4, "slot_loss": 1.0, "flips": 0.3, "shams": 0.2,
            "differences": 0.0, "learning_rate": 0.003, "weight_decay": 0.01,
            "validate_every": 4, "validation_batch": 8, "patience": 3, "gate": 0.5, "seeds": [0],
        }
        | changes
    )  # fmt: skip


def new_reader(decoder: Decoder, wanted: Projector) -> Reader:
    """An untrained reader."""
    card = new_card(decoder, wanted, "pocket", "0", (1.0,) * len(wanted.layers))
    return Reader(decoder, card, wanted.seeds[0])


def gradients(reader: Reader, rows: int) -> Float[Tensor, "row vector d_model"]:
    """Random ones, of one place in every other row and of all places in the rest."""
    card = reader.card
    shape = (rows, len(card.places), len(card.layers), card.d_model)
    found = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found[::2, 1:] = 0
    return found.flatten(1, 2)


def some_slots(d_model: int, counts: Sequence[int], seed: int = 0) -> Slots:
    """Random slots with so many places a row."""
    shape = (2, len(counts), max(counts), d_model)
    felt, opposite = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Slots(felt, opposite, torch.tensor(counts))


def prompts(reader: Reader, hosts: Sequence[str | None], slots: Slots | None) -> list[ReadingPrompt]:
    """The prompts of the card's question."""
    return prompts_of(reader, hosts, reader.card.question, slots)


def replaced(
    reader: Reader, host: str | None, tail: Sequence[int], slots: Slots | None
) -> Float[Tensor, "1 position d_model"]:
    """The embeddings of one reading prompt and its tail, vectors in its slots: what a replacing reader has to read."""
    asked = prompts(reader, [host], slots)
    embeds = reader.decoder.embed(torch.tensor([[*asked[0].ids, *tail]]))
    return embeds if slots is None else replace_slots(embeds, asked, slots.of(asked), reader.card.norm)


def moved(decoder: Decoder, to: str, away: str) -> Float[Tensor, "place d_model"]:
    """The gradient of a move at each place: of the embeddings of the names' tokens there, most of away minus to."""
    ids, others = decoder.continuation(to)[: len(PLACES)], decoder.continuation(away)
    found = torch.zeros(len(PLACES), decoder.d_model)
    for place, token in enumerate(ids):
        found[place] -= decoder.embed(torch.tensor(token))
        if place < len(others):
            found[place] += 0.6 * decoder.embed(torch.tensor(others[place]))
    return found


def curriculum(
    decoder: Decoder, domains: list[Domain], wanted: Projector, unseen: str = "", sign: float = 1.0
) -> Curriculum:
    """Every move between two answers of a relation; its gradient is made of their embeddings, with noise in layer 0.

    Those of a relation count as of one prompt. `unseen`: a name that is in no lesson. `sign`: -1 turns the gradients'
    sign, which is wrong then.
    """
    lessons, vectors, generator = [], [], torch.Generator().manual_seed(1)
    for domain in domains:
        for relation in domain.relations.values():
            for to in relation.entities:
                for away in relation.entities:
                    if to != away and unseen not in (to, away):
                        lessons.append((len(lessons), relation.answer, domain.domain, to, away))
                        clean = sign * moved(decoder, to, away)
                        noise = clean.norm(dim=-1, keepdim=True) * torch.randn(clean.shape, generator=generator)
                        vectors.append(torch.stack([clean + noise / clean.shape[-1] ** 0.5, clean], 1).flatten(0, 1))
    hosts = {
        domain.domain: [
            relation.templates[0].format(subject=fact.subject)
            for relation in domain.relations.values()
            for fact in relation.facts
        ]
        for domain in domains
    }
    table = pl.DataFrame(lessons, schema=["row", "prompt", "domain", "moved_to", "moved_from"], orient="row")
    return Curriculum(torch.stack(vectors).numpy(), table, hosts, wanted, wanted.seeds[0])


def held_rows(lessons: Lessons) -> Draws:
    """The batch that training is validated on, drawn from the same lessons."""
    return lessons.draw("validation", 0, lessons.settings.validation_batch, lessons.settings.validation_batch)
