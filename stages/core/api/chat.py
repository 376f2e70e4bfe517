"""A request to a chat model and its answer as plain values, how an answer is read, and what can be wrong with it."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ..run.errors import InputError
from .section import Api, Price, Teacher
from .settings import redact

Parsed = TypeVar("Parsed", bound="Said")


@dataclass(frozen=True)
class Request:
    """The body of one chat completion. Equal bodies have equal keys, whatever the order of their fields."""

    body: dict[str, Any]

    @cached_property
    def canonical(self) -> bytes:
        """The body as JSON with sorted keys."""
        return json.dumps(self.body, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    @cached_property
    def key(self) -> str:
        """Hex SHA-256 of the canonical body: the answer's place in the cache."""
        return hashlib.sha256(self.canonical).hexdigest()

    @property
    def model(self) -> str:
        """The model's name as sent."""
        return self.body["model"]

    @property
    def most_input(self) -> int:
        """An upper estimate of the question's tokens."""
        return most_tokens(len(self.canonical))

    @property
    def most_output(self) -> int:
        """The request's limit on the answer's tokens."""
        return self.body.get("max_completion_tokens") or self.body["max_tokens"]

    def ceiling(self, api: Api, *, batch: bool) -> float:
        """An upper estimate of the answer's cost in US dollars.

        Raises:
            InputError: params.yaml has no price of the model.
        """
        return cost(api.price_of(self.model), self.most_input, self.most_output, batch=batch)


class Answer(BaseModel):
    """The answer to one request. `rejected`: the server's words if it refused the request itself (HTTP 4xx)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # as the server resolved it
    choices: int = 0
    content: str = ""
    refusal: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False  # the server did not say how many tokens it counted
    cost: float = 0.0  # US dollars when it was paid
    latency: float = 0.0  # seconds from sending to the whole answer, the last try; 0 by batch
    rejected: str = ""


class Fault(Exception):
    """An answer that can't be used. `name`: one of FAULTS; `detail`: what was found."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.detail = name, detail


@dataclass(eq=False)
class Transient(Exception):
    """A failed try of a request that may succeed when it is sent again.

    `billed`: the server may have charged for an answer that never arrived. `answer`: the answer that arrived, was paid
    for and can't be used.
    """

    name: str
    billed: bool = False
    answer: Answer | None = None


class Stop(InputError):
    """A fault that more requests can't mend: a wrong key, an empty account, a model that isn't there."""


FAULTS = {
    "refusal": "the model refused",
    "content_filter": "the server's filter cut the answer",
    "rejected": "the server refused the request itself",
    "empty_choices": "the response holds no choice",
    "empty_answer": "the answer is empty",
    "truncated": "the answer reached max_tokens before it was whole",
    "not_json": "the answer is not JSON",
    "wrong_enum": "a field holds a word that is not offered",
    "wrong_schema": "the JSON does not fit the schema",
    "inconsistent": "fields contradict each other or the facts",
}
FINAL = ("refusal", "content_filter", "rejected")
"""Faults that another try does not change: a refusal, and a request that the server rejects."""
UNUSABLE = ("empty_choices", "empty_answer", "truncated", "not_json")
"""Faults of the server, like HTTP 503: the same request is sent again, and the answer is never kept as one."""


def json_of(answer: Answer) -> Any:
    """The JSON value that an answer holds, alone or in a code fence.

    Raises:
        Fault: there is none (one of FINAL or UNUSABLE).
    """
    if answer.rejected:
        raise Fault("rejected", answer.rejected)
    if not answer.choices:
        raise Fault("empty_choices", "no choice")
    if answer.refusal:
        raise Fault("refusal", answer.refusal)
    if answer.finish_reason == "content_filter":
        raise Fault("content_filter", "finish_reason content_filter")
    text = answer.content.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if answer.finish_reason == "length":  # a limit that was reached after the last brace does no harm
            raise Fault("truncated", f"{answer.completion_tokens} tokens") from error
        if not text:
            raise Fault("empty_answer", f"finish_reason {answer.finish_reason or 'missing'}") from error
        raise Fault("not_json", str(error)) from error
    except RecursionError as error:
        raise Fault("not_json", "nested too deep") from error


class Said(BaseModel):
    """Base of answers that a model is asked for: the declared fields and no others.

    A subclass's docstring is part of its JSON schema and so of every request: another wording is paid for anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def read(answer: Answer, kind: type[Parsed]) -> Parsed:
    """The answer's JSON object as an instance of `kind`.

    Raises:
        Fault: the answer can't be used.
    """
    try:
        return kind.model_validate(json_of(answer))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        name = "wrong_enum" if problem["type"] == "literal_error" else "wrong_schema"
        raise Fault(name, f"{where}: {problem['msg']} (found {repr(problem['input'])[:80]})") from error


def unusable(answer: Answer) -> str:
    """Which of UNUSABLE an answer is; "" for any other."""
    try:
        json_of(answer)
    except Fault as fault:
        return fault.name if fault.name in UNUSABLE else ""
    return ""


def most_tokens(body_bytes: int) -> int:
    """An upper estimate of a text's tokens, without the model's tokenizer: one for every two bytes."""
    return math.ceil(body_bytes / 2)


def cost(price: Price, input_tokens: int, output_tokens: int, *, batch: bool) -> float:
    """The price in US dollars of input and output tokens."""
    full = (input_tokens * price.input + output_tokens * price.output) / 1e6
    return full * price.batch if batch else full


def body_of(content: bytes) -> dict[str, Any]:
    """The JSON object of a response with status 200.

    Raises:
        Transient: it is something else: the page of a proxy, or JSON cut short.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        if content.lstrip()[:1] == b"<":
            raise Transient("html_page") from None
        raise Transient("broken_body", billed=True) from None
    if not isinstance(body, dict):
        raise Transient("broken_body", billed=True)
    return body


def answer_of(body: dict[str, Any], sent: str, body_bytes: int, price: Price, *, batch: bool, latency: float) -> Answer:
    """The answer in a chat completion's body. Servers differ, so no field of the body is taken for granted.

    `sent`, `body_bytes`: the model's name and the length of the request.

    Raises:
        Transient: it is an error with status 200, as gateways pass them on, or no completion.
    """
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise Transient("server_error" if body.get("error") else "broken_body", billed="error" not in body)
    choice = _object(choices[0] if choices else None)
    message = _object(choice.get("message"))
    content = _text(message.get("content"))
    usage = _object(body.get("usage"))
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    counted = prompt is not None and completion is not None
    if prompt is None or completion is None:  # rather too many than too few
        prompt, completion = most_tokens(body_bytes), most_tokens(len(content.encode()))
    name = _text(body.get("model")) or sent
    return Answer(
        model=name.rsplit("/", 1)[-1] if name.startswith("/") else name,  # no folder of some machine in a label
        choices=len(choices),
        content=content,
        refusal=_text(message.get("refusal")),
        finish_reason=_text(choice.get("finish_reason")),
        prompt_tokens=prompt,
        completion_tokens=completion,
        estimated=not counted,
        cost=cost(price, prompt, completion, batch=batch),
        latency=round(latency, 4),
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _text(value: Any) -> str:
    return redact(value) if isinstance(value, str) else ""


def compose(teacher: Teacher, system: str, user: str, schema: dict[str, Any]) -> Request:
    """The chat completion request to `teacher` of two messages; `schema`: the answer's JSON schema, with a title."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    body: dict[str, Any] = {"model": teacher.model, "messages": messages, teacher.max_tokens_key: teacher.max_tokens}
    if teacher.temperature is not None:
        body["temperature"] = teacher.temperature
    if teacher.seed is not None:
        body["seed"] = teacher.seed
    if teacher.structured == "json_schema":
        described = {"name": schema["title"], "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    elif teacher.structured == "json_object":
        body["response_format"] = {"type": "json_object"}
    return Request(body)


def repair(request: Request, answer: Answer, fault: str, detail: str) -> Request:
    """The request that shows the model its own answer, says what is wrong with it, and asks once more."""
    said = [{"role": "assistant", "content": answer.content}] if answer.content.strip() else []
    asked = f"That answer can't be used: {FAULTS[fault]} ({detail}). Answer again, with the JSON object alone."
    messages = [*request.body["messages"], *said, {"role": "user", "content": asked}]
    return Request(request.body | {"messages": messages})
