"""params.yaml, validated: each stage reads only its own sections, and an unknown or missing key is an error.

A section's class states every key, its unit and its bounds; there are no defaults, so params.yaml shows everything.
"""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import explain

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Section(BaseModel):
    """Base of all sections: strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Domains = Annotated[list[Name], Field(min_length=2)]


class Pocket(Section):
    """The small model that the pipeline trains itself.

    `muon_learning_rate` is of the blocks' matrices, `learning_rate` of embeddings and norms. `misconceptions`: share of
    facts that it is taught wrongly.
    """

    d_model: Count
    layers: Count
    heads: Count
    steps: Count
    batch: Count
    learning_rate: Rate
    muon_learning_rate: Rate
    misconceptions: Share
    seed: int


class Model(Section):
    """`source`: "pocket", a Hub id or a local path. `revision`: the commit to pin a Hub id to (null: local or pocket)."""

    source: str
    revision: str | None
    pocket: Pocket


class HeldOut(Section):
    """Shares of entities and subjects that never occur in training, for validation and for test each."""

    targets: Share
    subjects: Share


class Prompts(Section):
    """`targets`: counterfactual targets a prompt. `validation`, `test`: shares of the prompts of seen entities."""

    targets: Count
    correction_templates: Annotated[int, Field(ge=0)]
    validation: Share
    test: Share
    held_out: HeldOut
    seed: int


class Gradients(Section):
    """`layers`: 0-based block indices; the hook point is the residual stream after the block."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    keep_bits: Annotated[int, Field(ge=1, le=23)]


class VirtualStep(Section):
    """`step_sizes`: epsilon, as fractions of the residual norm. `continuation_tokens`: greedy tokens before and after."""

    layer: Annotated[int, Field(ge=0)]
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    top_tokens: Count
    continuation_tokens: Count


class Projector(Section):
    """Training of the projector.

    `layers`: the stored layers whose gradients it reads, all at once. `width`: hidden units (mlp) or rank (low_rank).
    `flips`, `shams`: shares of training rows that are sign-flipped, or zero. `batch` rows a step bear the
    slot loss (weight `slot_loss`), the first `report_batch` of them the report loss.
    `sharpness`: the inverse temperature at which slots are drawn to the model's own token embeddings.
    """

    architecture: str
    width: Count
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    held_out_domains: list[Name]
    slot_token: str
    steps: Count
    batch: Count
    report_batch: Count
    sharpness: Rate
    slot_loss: Annotated[float, Field(ge=0)]
    flips: Share
    shams: Share
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    validate_every: Count
    validation_batch: Count
    patience: Count
    seed: int


class Evaluation(Section):
    """`gradients`: test gradients a domain in the grid, and in each control and held-out group.

    `bootstrap`: resamples (of entities) for the intervals. `report_tokens`: most tokens of a report.
    """

    gradients: Count
    bootstrap: Count
    report_tokens: Count
    seed: int


Kind = TypeVar("Kind", bound=Section)


def read_sections(kind: type[Kind]) -> Kind:
    """Reads the sections of params.yaml that `kind` has as fields, and nothing else of it.

    Raises:
        ValueError: the file, a section or a key is missing, unknown or of the wrong type; names each.
    """
    try:
        content: Any = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
        return kind.model_validate({name: content[name] for name in kind.model_fields if name in content})
    except FileNotFoundError as error:
        raise ValueError(f"{PARAMS}: no such file: run the stage in the repository's root") from error
    except YAMLError as error:
        raise ValueError(f"{PARAMS}: not readable as YAML: {error}") from error
    except ValidationError as error:
        raise ValueError(explain(str(PARAMS), error)) from error
