"""Section `api` of params.yaml (budget and prices), and the keys of other sections that say how a teacher is asked."""

from typing import Annotated, Literal

from pydantic import Field

from ..run.errors import InputError
from ..run.params import Count, Dollars, Section, Share


class Price(Section):
    """A model's price in US dollars per million tokens; `batch`: the share of it that the Batch API charges."""

    input: Dollars
    output: Dollars
    batch: Annotated[float, Field(ge=0, le=1)]


class Api(Section):
    """The budget and the prices of models, for all stages that ask one.

    `budget`: US dollars that the answer cache may ever have cost, over all stages and domains; at 0 nothing that costs
    is asked.
    `prices`: by model name as sent; a server of one's own costs 0, and has to say so.
    """

    budget: Dollars
    prices: dict[str, Price]

    def price_of(self, model: str) -> Price:
        """The model's price.

        Raises:
            InputError: params.yaml has none.
        """
        if model not in self.prices:
            raise InputError(
                f"params.yaml: api.prices: found no {model!r}, wanted its US dollars per million tokens "
                "(input, output) and the Batch API's share; 0 for a server of your own"
            )
        return self.prices[model]


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


class Asking(Section):
    """How a stage asks its teacher: the keys that every section with a teacher has.

    `way`: each request by itself, or through the Batch API (cheaper, up to a day). `max_quarantined`: share of answers
    that can't be used above which the stage fails.
    """

    way: Literal["online", "batch"]
    max_quarantined: Share
    teacher: Teacher
