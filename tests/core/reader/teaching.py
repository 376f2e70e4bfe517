"""A small class for the small pocket model: gradients that say what they correct, settings, and readers."""

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from stages.core.data.facts import Domain
from stages.core.model.decoder import Decoder
from stages.core.reader.card import REPLACE
from stages.core.reader.injection import replace_slots
from stages.core.reader.reader import Reader, new_card
from stages.core.reader.reports import prompt_of
from stages.core.reader.section import Projector
from stages.core.reader.training import Curriculum

REFERENCE = (0.5, 2.0)


def settings(**changes: object) -> Projector:
    """Settings of the section `projector`; keywords replace them."""
    return Projector.model_validate(
        {
            "architecture": "mirror_mlp", "injection": REPLACE, "whiten": False, "lora": None,
            "width": 16, "layers": [0, 1], "held_out_domains": [], "slot_token": "<slot>",
            "steps": 12, "batch": 16, "report_batch": 4, "sharpness": 20.0, "slot_loss": 1.0, "flips": 0.3,
            "shams": 0.2, "context_noise": 0.0, "learning_rate": 0.003, "weight_decay": 0.01, "validate_every": 4,
            "validation_batch": 8, "patience": 3, "gate": 0.5, "seeds": [0],
        }
        | changes
    )  # fmt: skip


def new_reader(decoder: Decoder, wanted: Projector) -> Reader:
    """An untrained reader."""
    card = new_card(
        decoder, architecture=wanted.architecture, injection=wanted.injection,
        whiten=wanted.whiten, lora_on_the_verbaliser=wanted.lora,
        width=wanted.width, layers=tuple(wanted.layers), reference=REFERENCE,
        slot_token=wanted.slot_token, sharpness=wanted.sharpness, model="pocket", commit="0", held_out_domains=(),
        seeds=tuple(wanted.seeds),
    )  # fmt: skip
    return Reader.new(decoder, card, wanted.seeds[0])


def replaced(
    reader: Reader, host: str | None, tail: list[int], vectors: Float[Tensor, "1 k d_model"] | None
) -> Float[Tensor, "1 position d_model"]:
    """The embeddings of one reading prompt and its tail, vectors in its slots: what a replacing reader has to read."""
    prompt = prompt_of(reader, host)
    embeds = reader.decoder.embed(torch.tensor([[*prompt.ids, *tail]]))
    slots = torch.tensor([prompt.slots])
    return embeds if vectors is None else replace_slots(embeds, slots, vectors, reader.card.norm)


def curriculum(decoder: Decoder, domains: list[Domain], wanted: Projector, unseen: str = "") -> Curriculum:
    """Every move between two entities of a domain; its gradient is made of their embeddings, one layer like the other.

    `unseen`: an entity that no report may name as moved to.
    """
    lessons, gradients = [], []
    for domain in domains:
        for to in domain.entities:
            for away in domain.entities:
                if to not in (away, unseen):
                    lessons.append((len(lessons), domain.domain, to, away, away != unseen))
                    ids = torch.tensor([decoder.continuation(name)[-1] for name in (away, to)])
                    away_embedding, to_embedding = decoder.embed(ids)
                    gradients.append((away_embedding - to_embedding).expand(len(REFERENCE), -1))
    hosts = {
        domain.domain: [
            relation.templates[0].format(subject=fact.subject)
            for relation in domain.relations.values()
            for fact in relation.facts
        ]
        for domain in domains
    }
    contexts = torch.randn(len(lessons), len(REFERENCE), decoder.d_model, generator=torch.Generator().manual_seed(0))
    table = pl.DataFrame(lessons, schema=["row", "domain", "moved_to", "moved_from", "flip"], orient="row")
    vectors = torch.stack(gradients).numpy(), contexts.numpy()
    return Curriculum(*vectors, table, hosts, REFERENCE, wanted, wanted.seeds[0])
