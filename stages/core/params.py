"""params.yaml, validated: each stage reads only its own sections, and an unknown or missing key is an error.

A section's class states every key, its unit and its bounds; there are no defaults, so params.yaml shows everything.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.core.errors import explain, one_line

PARAMS = Path("params.yaml")

Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0)]
Way = Literal["online", "batch"]
Dtype = Literal["float32", "bfloat16"]


def plain(name: str) -> str:
    """The name as it is.

    Raises:
        ValueError: it couldn't be a file's name everywhere: not small letters, digits and "_", a letter in front.
    """
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise ValueError(f"found {name!r}, wanted small letters, digits and '_', beginning with a letter")
    return name


Name = Annotated[str, AfterValidator(plain)]


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
    """The model under study.

    `source`: "pocket", a Hub id or a local path. `revision`: the commit to pin a Hub id to (null: local or pocket).
    `dtype`: of the parameters, in every stage that opens the model. bfloat16 takes half the memory and is what GPUs are
    fast at; a gradient then keeps about two digits, and the smaller a virtual step, the more of it is rounding.
    """

    source: str
    revision: str | None
    dtype: Dtype
    pocket: Pocket


class Gradients(Section):
    """`layers`: 0-based block indices; the hook point is the residual stream after the block."""

    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    keep_bits: Annotated[int, Field(ge=1, le=23)]


class VirtualStep(Section):
    """The lookahead.

    `step_sizes`: epsilon, as fractions of the residual norm. `continuation_tokens`: greedy tokens before and after.
    """

    layer: Annotated[int, Field(ge=0)]
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    top_tokens: Count
    continuation_tokens: Count


class Injection(Section):
    """How the slots' vectors go into the model when it reads; what each value does: stages/core/neural/injection.py.

    `how`: replace the slots' embeddings, or add to the residual stream after `block` (0-based; null for replace). `at`:
    the slots, the prompt's last token, or every token of it (replace: slots only). `scale`: the norm of what is
    written, a multiple of the mean embedding's (replace) or of the residual stream's at the position (add).
    """

    how: Literal["replace", "add"]
    block: Annotated[int, Field(ge=0)] | None
    at: Literal["slots", "last", "every"]
    scale: Rate

    @model_validator(mode="after")
    def _fits(self) -> "Injection":
        """Refuses combinations that mean nothing."""
        if self.how == "replace" and (self.block is not None or self.at != "slots"):
            raise ValueError(
                f"how: found replace with block {self.block} and at {self.at}, wanted block null and at slots: only "
                "the slots' embeddings can be replaced"
            )
        if self.how == "add" and self.block is None:
            raise ValueError("block: found null, wanted the 0-based block after which add adds")
        return self


class Lora(Section):
    """LoRA on the verbaliser, trained together with the projector, at a learning rate of its own.

    What is added to a weight is `alpha` / `rank` times a matrix of that rank.
    """

    rank: Count
    alpha: Count
    learning_rate: Rate


class Projector(Section):
    """Training of the projector.

    `layers`: the stored layers whose gradients it reads, all at once. `width`: hidden units (mlp) or rank (low_rank).
    `whiten`: update directions are whitened first, by the statistics of the training gradients.
    `lora`: LoRA on the verbaliser; null: the model that reads is the frozen one that was measured.
    `batch` rows a step bear the slot loss (weight `slot_loss`), the first `report_batch` of them the report loss.
    `flips`, `shams`: shares of training rows that are sign-flipped, or (of those without report loss) no gradient at
    all. `context_noise`: how much of another row's activation is mixed into a training gradient (standard deviation,
    fraction of its norm). `gate`: the evidence from which on a pressure is
    reported, as a fraction of the validation gradients' median.
    `sharpness`: the inverse temperature at which slots are drawn to the model's own token embeddings.
    """

    architecture: str
    injection: Injection
    width: Count
    whiten: bool
    lora: Lora | None
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
    context_noise: Annotated[float, Field(ge=0)]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    validate_every: Count
    validation_batch: Count
    patience: Count
    gate: Share
    seeds: Annotated[list[int], Field(min_length=1)]


class Evaluation(Section):
    """`gradients`: test gradients a domain in the grid, and in each control and held-out group; `fine_tuned` of
    them are fine-tuned on for real (0: none; it takes five times the weights' memory).

    `step_sizes`: of steering, fractions of the residual norm.

    `bootstrap`: resamples (of entities) for the intervals. `report_tokens`: most tokens of a report.
    """

    gradients: Count
    fine_tuned: Annotated[int, Field(ge=0)]
    step_sizes: Annotated[list[Rate], Field(min_length=1)]
    bootstrap: Count
    report_tokens: Count
    seed: int


class Price(Section):
    """US dollars per million tokens. `batch`: the share of both prices that the Batch API charges."""

    input: Dollars
    output: Dollars
    batch: Annotated[float, Field(ge=0, le=1)]


class Api(Section):
    """What asking costs, whichever stage asks.

    `budget`: US dollars that the answer cache may ever have cost, over all stages and domains; at 0 nothing that costs
    is asked.
    `prices`: by model name as sent; a server of one's own costs 0, and has to say so.
    """

    budget: Dollars
    prices: dict[str, Price]


class Teacher(Section):
    """A model behind an OpenAI-compatible server, and how it is sampled; address and key come from the environment.

    `temperature`, `seed`: null leaves them out (some models refuse them). `max_tokens`: room for an answer, in tokens;
    `max_tokens_key`: what the server calls it. `structured`: what is asked of the server to keep answers to the schema;
    answers are validated whatever it does.
    """

    model: str
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    seed: int | None
    max_tokens: Count
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"]
    structured: Literal["json_schema", "json_object", "none"]


class Second(Section):
    """A second teacher labels a `share` of the prompts, drawn by `seed`; null instead of this section: none does."""

    share: Annotated[float, Field(gt=0, le=1)]
    seed: int
    teacher: Teacher


class Labels(Section):
    """`backend`: the file in stages/labellers that labels; `lexicon` is of all backends, the rest of backend openai.

    `lexicon`: the domains whose entities a teacher knows by name, beside those of the domain at hand. Not `domains`: a
    domain that is added there then leaves the labels of the others alone.
    `teacher_sees`: beside the shift also the prompt, or (an upper bound) the true correction.
    `fields`: the domains that a teacher may name. Wider than `domains`, because the list stands in every request: to
    add a domain of this list pays for that domain only.
    `top_tokens`: tokens up and down that a request shows for each step size.
    `way`: each request by itself, or through the Batch API (cheaper, up to a day).
    `max_quarantined`: share of rows without a valid answer above which the stage fails.
    `recurring`: share of labels above which one wording of the summary, entities taken out, is reported as suspicious.
    """

    backend: Name
    lexicon: list[Name]
    teacher_sees: Literal["shift", "shift_and_prompt", "truth"]
    fields: Annotated[list[str], Field(min_length=2)]
    top_tokens: Count
    way: Way
    max_quarantined: Share
    recurring: Annotated[float, Field(gt=0, le=1)]
    teacher: Teacher
    second: Second | None


class Judge(Section):
    """The LLM judge of free-text reports. `share` of the reports that it reads, drawn by `seed`; 0 is off."""

    share: Annotated[float, Field(ge=0, le=1)]
    seed: int
    way: Way
    max_quarantined: Share
    teacher: Teacher


class Generator(Section):
    """LLM prompt generation. `paraphrases`: wanted a fact; `wrong_answers`: plausible wrong answers wanted a fact."""

    paraphrases: Count
    wrong_answers: Count
    way: Way
    max_quarantined: Share
    teacher: Teacher


class HeldOut(Section):
    """Shares of entities and subjects that never occur in training, for validation and for test each.

    `relations`: by domain, relations that are held out whole, for test.
    """

    targets: Share
    subjects: Share
    relations: dict[Name, list[Name]]


class Prompts(Section):
    """`generator`: prompts from the facts' templates alone, or also from a language model (section `openai`).

    `targets`: counterfactual targets a prompt. `correction_templates`: templates of a fact that also get the truth as a
    target. `validation`, `test`: shares of the prompts of seen entities.
    """

    generator: Literal["facts", "openai"]
    openai: Generator
    targets: Count
    correction_templates: Annotated[int, Field(ge=0)]
    validation: Share
    test: Share
    held_out: HeldOut
    seed: int


class Report(Section):
    """`examples`: reports shown on the page of each setting and outcome.

    `sweeps`: names of the tables data/sweep/<name>.csv that the page shows (make sweep writes one and names it here).
    """

    examples: Count
    sweeps: list[Name]


Kind = TypeVar("Kind", bound=Section)


def read_sections(kind: type[Kind]) -> Kind:
    """Reads the sections of params.yaml that `kind` has as fields, and nothing else of it.

    Raises:
        ValueError: the file, a section or a key is missing, unknown or of the wrong type; names each.
    """
    try:
        content: Any = YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{PARAMS}: (whole file): found {type(content).__name__}, wanted sections")
        return kind.model_validate({name: content[name] for name in kind.model_fields if name in content})
    except FileNotFoundError as error:
        raise ValueError(f"{PARAMS}: no such file: run the stage in the repository's root") from error
    except YAMLError as error:
        raise ValueError(f"{PARAMS}: not readable as YAML: {one_line(error)}") from error
    except ValidationError as error:
        raise ValueError(explain(str(PARAMS), error)) from error
