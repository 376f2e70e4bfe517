"""Other models as readers: a further pocket model reads its own gradients, and those of the model under study."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl
import torch

from ..data.facts import World
from ..engine.gradients import gradients_of
from ..engine.samples import samples_of
from ..model.decoder import Decoder
from ..model.opening import open_model
from ..model.section import Foreign, Peer
from ..reader.card import Card, plain_card
from ..reader.injection import Slots
from ..reader.reader import Reader
from ..reader.vocabulary import embedding_norm
from .answers import say
from .knowledge import entity

PEERS = Path("data/peers")


def peers_of(card: Card, peers: Mapping[str, Peer | Foreign]) -> Iterator[tuple[str, Reader]]:
    """These peers, by name, opened one after another, each as `peer_reader`; a foreign one with its own slot token."""
    for name, peer in sorted(peers.items()):
        own = {"slot_token": peer.slot_token} if isinstance(peer, Foreign) else {}
        yield name, peer_reader(open_model(PEERS / name)[0], card.model_copy(update=own), name)


def peer_reader(decoder: Decoder, card: Card, name: str) -> Reader:
    """A reader of another model's raw update direction, which it asks about as `card` does."""
    own = {"d_model": decoder.d_model, "norm": embedding_norm(decoder), "model": name, "seeds": (0,)}
    return Reader(decoder, plain_card(card, "raw", layers=(decoder.n_layers - 1,), **own), 0)


def own_cases(reader: Reader, cases: pl.DataFrame, world: World, tokens: int) -> pl.DataFrame:
    """The cases with this model's own answer to each prompt; left out where that is no entity, or is the target."""
    entities = {name: list(relation.entities) for _, name, relation in world.relations}
    said = say(reader, cases["prompt"].to_list(), None, tokens)
    own = [entity(text, entities[name]) for text, name in zip(said, cases["relation"], strict=True)]
    found = cases.with_columns(answer=pl.Series(own, dtype=pl.String))
    return found.filter((pl.col("answer") != "") & (pl.col("answer") != pl.col("target")))


def own_slots(reader: Reader, cases: pl.DataFrame) -> Slots:
    """What the model's own gradients of these corrections put into its slots."""
    samples = samples_of(reader.decoder, cases, reader.card.places)
    gradients, _ = gradients_of(reader.decoder, samples, reader.card.layers, reader.card.places)
    with torch.no_grad():
        return reader.read(torch.from_numpy(gradients))
