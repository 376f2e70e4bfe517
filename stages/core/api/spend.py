"""What asking would cost, at most and probably, before anything is spent."""

from collections.abc import Iterable

from ..run.errors import InputError
from .cache import CACHE, Cache
from .chat import Request, cost
from .section import Api, Price


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


def estimate(requests: Iterable[Request], api: Api, *, batch: bool) -> str:
    """What the answers that the cache does not hold would cost, in words: at most, and as the model's stored answers
    suggest, if it has any. Asks nothing, and makes no cache where there is none.
    """
    wanted = {request.key: request for request in requests}
    stored, spent, rates = {}, 0.0, {}
    if (CACHE / "answers.sqlite").exists():
        with Cache() as cache:
            stored, spent = cache.answers(wanted), cache.spent()
            rates = {model: cache.typical(model) for model in sorted({request.model for request in wanted.values()})}
    calls = [request for key, request in wanted.items() if key not in stored]
    most = sum(request.ceiling(price_of(api, request.model), batch=batch) for request in calls)
    likely, known = 0.0, bool(calls)
    for request in calls:
        if rate := rates.get(request.model):
            tokens = round(rate[0] * len(request.canonical)), round(rate[1])
            likely += cost(price_of(api, request.model), *tokens, batch=batch)
        else:
            known = False
    return (
        f"{len(wanted)} requests, {len(wanted) - len(calls)} cached, {len(calls)} calls, at most "
        f"{sum(request.most_input for request in calls)} input and {sum(request.most_output for request in calls)} "
        f"output tokens, at most {most:.4f} USD{f', likely {likely:.4f}' if known else ''} "
        f"(a repair of a wrong answer is one more call); spent so far {spent:.4f} of the budget of {api.budget:.4f} USD"
    )
