"""The sections of params.yaml that speak of teachers: `labels`, `judge`, `prompts.openai` and `api`. No defaults."""

from typing import Annotated, Literal

from pydantic import Field

from stages.core.params import Count, Domains, Name, Section, Share

Way = Literal["online", "batch"]
Dollars = Annotated[float, Field(ge=0)]


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
    """`backend`: the file in stages/labellers that labels; `lexicon` is of all backends, the other keys of backend openai.

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


class Sections(Section):
    """What the labels stage reads of params.yaml."""

    labels: Labels
    api: Api


class JudgeSections(Section):
    """What the judge reads of params.yaml."""

    domains: Domains
    judge: Judge
    api: Api
