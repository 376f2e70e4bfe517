"""Trains the pocket model, or pins and checks a model of yours.

Reads data/facts/*.yaml and data/questions/*.yaml (pocket only). Writes data/model/: model.json (id, commit, shape,
versions), and for the pocket model the model itself in Hugging Face format and curve.csv. Params: model, and for the
pocket model domains, questions, held_out. No GPU: the pocket model is trained on the CPU, some minutes on two cores.

  python -m stages.model
"""

from .core.data.held_out import HeldOut
from .core.model.opening import FOLDER
from .core.model.section import Model
from .core.model.sources import check_model, read_lessons, train_pocket
from .core.run.files import replacing
from .core.run.params import Domains, Names, Section, read_sections
from .core.run.scratch import Scratch
from .core.run.stage import parse, progress, run


class Sections(Section):
    """What this stage reads of params.yaml."""

    model: Model


class PocketSections(Section):
    """What this stage also reads of params.yaml to train the pocket model."""

    domains: Domains
    questions: Names
    held_out: HeldOut


def main() -> None:
    """Trains or checks the model."""
    parse(__doc__, "model", by_domain=False)
    settings = read_sections(Sections).model
    with replacing(FOLDER) as partial:
        partial.mkdir()
        if settings.source == "pocket":
            scratch = Scratch("model")
            world = read_sections(PocketSections)
            lessons = read_lessons(world.domains, world.questions, world.held_out)
            with progress("model", settings.pocket.steps) as advance:
                card = train_pocket(lessons, settings, "pocket", scratch.folder / "state.pt", partial, advance)
            scratch.clear()
        else:
            card = check_model(settings, partial)
    print(f"{FOLDER}: {card.id}, {card.n_layers} layers of {card.d_model}")


if __name__ == "__main__":
    run(main)
