"""Trains the pocket model, or pins and checks a model of yours.

Reads data/facts/*.yaml (pocket only). Writes data/model/: model.json (id, commit, shape, versions), and for the pocket
model the model itself in Hugging Face format and curve.csv. Params: model, domains. No GPU: the pocket model is trained
on the CPU, a minute or two on two cores.

  python -m stages.model
"""

from pathlib import Path

from .core.data.facts import read_domain
from .core.model.section import Model
from .core.model.sources import check_model, train_pocket
from .core.run.files import replacing
from .core.run.params import Domains, Section, read_sections
from .core.run.stage import parse, run


class Sections(Section):
    """What this stage reads of params.yaml."""

    model: Model


class PocketSections(Section):
    """What this stage also reads of params.yaml to train the pocket model."""

    domains: Domains


def main() -> None:
    """Trains or checks the model."""
    parse(__doc__, "model", by_domain=False)
    settings = read_sections(Sections).model
    folder = Path("data/model")
    with replacing(folder) as partial:
        partial.mkdir()
        if settings.source == "pocket":
            domains = [read_domain(name) for name in read_sections(PocketSections).domains]
            card = train_pocket(domains, settings, partial)
        else:
            card = check_model(settings, partial)
    print(f"{folder}: {card.id}, {card.n_layers} layers of {card.d_model}")


if __name__ == "__main__":
    run(main)
