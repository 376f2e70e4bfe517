"""Generator "openai": paraphrased prompts and plausible wrong answers, by a model behind an OpenAI-compatible server.

What comes back is validated against the facts. A paraphrase is kept as a template, the prompt with its subject taken
out, so that the same wording for two subjects is one template and can be held out of training as one.
"""

from pathlib import Path

import polars as pl
from pydantic import Field

from ..core.api.cache import CACHE
from ..core.api.chat import Answer, Fault, Request, Said, compose, read
from ..core.api.converse import converse
from ..core.api.section import Api
from ..core.api.spend import Origin, Usage
from ..core.api.spend import estimate as bill
from ..core.data.corrections import Generator, Material, Prompts
from ..core.data.facts import Domain, Fact, Relation
from ..core.data.held_out import HeldOut
from ..core.labels.lexicon import holds, words
from ..core.run.files import write_json

PROMPT = Path(__file__).with_name("generator.md")
SHOWN = 3  # prompts of the facts file that a request shows
ENDINGS = ".,;:?!"


class Written(Said):
    """What the model writes for one fact."""

    prompts: list[str] = Field(description="Sentences that stop right before the answer.")
    wrong_answers: list[str] = Field(description="Entities of the same kind that are not true.")


def questions(domain: Domain, params: Generator) -> dict[tuple[str, str], Request]:
    """The request for each fact, by (relation, subject)."""
    system, schema = PROMPT.read_text(encoding="utf-8").strip(), Written.model_json_schema()
    asked = {}
    for name, relation in domain.relations.items():
        for fact in relation.facts:
            shown = "\n".join(f"- {t.replace('{subject}', fact.subject)}" for t in relation.templates[:SHOWN])
            user = (
                f"Subject: {fact.subject}\nAnswer: {fact.answer}\nPrompts:\n{shown}\n"
                f"Write {params.paraphrases} prompts and {params.wrong_answers} wrong answers."
            )
            asked[name, fact.subject] = compose(params.teacher, system, user, schema)
    return asked


def estimate(domain: Domain, params: Prompts, api: Api) -> str:
    """What generating would cost, in words; asks nothing."""
    return bill(questions(domain, params.openai).values(), api, params.openai)


def extended(table: pl.DataFrame, domain: Domain, params: Prompts, out: HeldOut) -> pl.DataFrame:
    """The facts' prompts as they are: what the model writes is material of facts."""
    return table


def material(domain: Domain, params: Prompts, api: Api) -> dict[tuple[str, str], Material]:
    """New templates and wrong answers by (relation, subject), none for a fact without a valid answer.

    No two templates of the result make the same prompt, and none makes one that the facts file has: of equals the first
    in the facts' order stays. Wrong answers that the facts know are in the facts' spelling. What it cost goes to a side
    file that nothing reads.

    Raises:
        InputError: too many answers can't be used, or asking had to stop; see `converse`.
    """
    asking, usage = params.openai, Usage()
    facts = {
        (name, fact.subject): (relation, fact) for name, relation in domain.relations.items() for fact in relation.facts
    }
    files = (f"data/facts/{domain.domain}.yaml", "stages/generators/openai.py", "stages/generators/generator.md")
    made_of = {"generator": "openai", "openai": asking.model_dump(include={"paraphrases", "wrong_answers", "teacher"})}
    found = converse(
        questions(domain, asking), lambda name, answer: validated(answer, *facts[name], asking), api, asking,
        section="prompts.openai", what=f"{domain.domain}, prompts", usage=usage,
        origin=Origin(f"prompts@{domain.domain}", files, {"prompts": made_of}),
    )  # fmt: skip
    taken = {prompt for relation, fact in facts.values() for prompt in own_prompts(relation, fact)}
    spelling = {words(entity): entity for entity in domain.entities}
    result, dropped = {}, 0
    for name, written in found.values.items():
        templates = []
        for prompt in written.prompts:
            if words(prompt) in taken:
                dropped += 1
                continue
            taken.add(words(prompt))
            templates.append(prompt.replace(name[1], "{subject}"))
        wrong = tuple(spelling.get(words(wrong), wrong) for wrong in written.wrong_answers)
        result[name] = Material(tuple(templates), wrong)
    did = {"answers": found.metrics() | {"duplicates": dropped}, "run": vars(usage)}
    write_json(CACHE / "usage" / f"prompts-{domain.domain}.json", did)
    return result


def validated(answer: Answer, relation: Relation, fact: Fact, params: Generator) -> Written:
    """The valid prompts and wrong answers in a model's answer, as many of each as params ask for.

    Raises:
        Fault: there are fewer; says what was wrong with the first that is not valid.
    """
    written = read(answer, Written)
    prompts, wrong = [], []
    problems: list[str] = []
    own = own_prompts(relation, fact)
    barred = {words(fact.answer), words(fact.subject), ()}
    for prompt in (" ".join(prompt.split()) for prompt in written.prompts):
        if problem := _prompt_problem(prompt, fact, own):
            problems.append(f"prompt {prompt!r}: {problem}")
        else:
            own.add(words(prompt))
            prompts.append(prompt)
    for entity in (" ".join(entity.split()) for entity in written.wrong_answers):
        if words(entity) in barred:
            problems.append(f"wrong answer {entity!r}: it is true, the subject itself, empty or stands twice")
        else:
            barred.add(words(entity))
            wrong.append(entity)
    if len(prompts) < params.paraphrases or len(wrong) < params.wrong_answers:
        found = (
            f"{len(prompts)} of {params.paraphrases} prompts and {len(wrong)} of {params.wrong_answers} wrong answers"
        )
        raise Fault("inconsistent", "; ".join([f"{found} are valid", *problems[:1]]))
    return Written(prompts=prompts[: params.paraphrases], wrong_answers=wrong[: params.wrong_answers])


def own_prompts(relation: Relation, fact: Fact) -> set[tuple[str, ...]]:
    """The prompts of a fact that the facts file has, as words."""
    return {words(template.replace("{subject}", fact.subject)) for template in relation.templates}


def _prompt_problem(prompt: str, fact: Fact, taken: set[tuple[str, ...]]) -> str:
    """Why a generated prompt is not valid; "" if it is."""
    if prompt.count(fact.subject) != 1:
        return f"wanted {fact.subject!r} in it once"
    if "{" in prompt or "}" in prompt:
        return "wanted no braces"
    if holds(prompt, fact.answer):
        return "it holds the answer"
    if prompt[-1] in ENDINGS:
        return "wanted no punctuation mark at its end"
    if words(prompt) in taken:
        return "it stands twice"
    return ""
