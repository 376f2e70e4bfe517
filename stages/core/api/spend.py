"""The bill: what asking would cost at most and probably, before anything is spent."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..run.errors import InputError
from .cache import CACHE, Cache
from .chat import Request, cost
from .section import Api, Price


@dataclass(frozen=True)
class Estimate:
    """Calls that the cache does not hold, and their tokens and US dollars: at most, and as stored answers suggest."""

    requests: int
    calls: int
    most_input: int
    most_output: int
    most_usd: float
    likely_usd: float | None  # null before the model has answered once
    spent: float
    budget: float

    def __str__(self) -> str:
        likely = "" if self.likely_usd is None else f", likely {self.likely_usd:.4f}"
        return (
            f"{self.requests} requests, {self.requests - self.calls} cached, {self.calls} calls, at most "
            f"{self.most_input} input and {self.most_output} output tokens, at most {self.most_usd:.4f} USD{likely} "
            f"(a repair of a wrong answer is one more call); spent so far {self.spent:.4f} of the budget of "
            f"{self.budget:.4f} USD"
        )


def price_of(api: Api, model: str) -> Price:
    """The model's price.

    Raises:
        InputError: params.yaml has none.
    """
    if model not in api.prices:
        raise InputError(
            f"params.yaml: api.prices: found no {model!r}, wanted its US dollars per million tokens "
            "(input, output) and the Batch API's share; 0 for a server of your own"
        )
    return api.prices[model]


def estimate(requests: Iterable[Request], api: Api, *, batch: bool) -> Estimate:
    """What fetching the answers would cost; asks nothing, and makes no cache where there is none."""
    wanted = {request.key: request for request in requests}
    misses, spent, rates = wanted, 0.0, {}
    if (CACHE / "answers.sqlite").exists():
        with Cache() as cache:
            stored = cache.answers(wanted)
            spent = cache.spent()
            rates = {model: cache.typical(model) for model in sorted({request.model for request in wanted.values()})}
        misses = {key: request for key, request in wanted.items() if key not in stored}
    likely = 0.0
    for request in misses.values():
        rate = rates.get(request.model)
        tokens = (0, 0) if rate is None else (round(rate[0] * len(request.canonical)), round(rate[1]))
        likely += cost(price_of(api, request.model), *tokens, batch=batch)
    return Estimate(
        requests=len(wanted),
        calls=len(misses),
        most_input=sum(request.most_input for request in misses.values()),
        most_output=sum(request.most_output for request in misses.values()),
        most_usd=sum(request.ceiling(price_of(api, request.model), batch=batch) for request in misses.values()),
        likely_usd=likely if misses and all(rates.get(request.model) for request in misses.values()) else None,
        spent=spent,
        budget=api.budget,
    )
