"""A pocket model of a few thousand weights, untrained, and the two small domains that it is made for."""

from collections.abc import Iterator

import pytest
import torch

from stages.core.data.facts import Domain
from stages.core.model import pocket
from stages.core.model.decoder import Decoder
from stages.core.model.section import Pocket

FACTS = {
    "geography": (
        "The capital of {subject} is",
        "country",
        "city",
        ["Peru Lima", "Norway Oslo", "Japan Tokyo", "India New Delhi"],
    ),
    "music": (
        "The composer of {subject} is",
        "opera",
        "composer",
        ["Tosca Puccini", "Carmen Bizet", "Aida Verdi", "Salome Richard Strauss"],
    ),
}


def domain(name: str) -> Domain:
    template, subject, answer, pairs = FACTS[name]
    facts = [dict(zip(("subject", "answer"), pair.split(" ", 1), strict=True)) for pair in pairs]
    templates = [template, f"It is known that {template.lower()}"]
    relation = {"source": "known", "subject": subject, "answer": answer, "templates": templates, "facts": facts}
    return Domain.model_validate({"domain": name, "description": "", "relations": {"of": relation}})


@pytest.fixture(scope="session")
def small_domains() -> list[Domain]:
    return [domain(name) for name in FACTS]


@pytest.fixture(scope="session")
def small_settings() -> Pocket:
    return Pocket(
        d_model=32, layers=2, heads=2, steps=6, batch=16, learning_rate=0.003, muon_learning_rate=0.02,
        misconceptions=0.25, seed=0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_decoder(small_domains: list[Domain], small_settings: Pocket) -> Decoder:
    """Frozen by the decoder: fixtures and tests may share it."""
    tokenizer = pocket.make_tokenizer(small_domains)
    return Decoder(pocket.new_model(small_settings, tokenizer), tokenizer)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Torch computes on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)
