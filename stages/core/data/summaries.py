"""The local teacher's sentences about a shift: which forms there are, and which of them no training reads.

The words are those of the grammar of reports and of data/questions, so that a pocket model has them whole.
"""

import re

import polars as pl

from ..run.seeds import keyed_int

FORMS = (
    "from {away} toward {to} , in {domain}",
    "the push is toward {to} and away from {away} , in {domain}",
    "it is {to} and no {away} , a name from {domain}",
    "in {domain} the change is away from {away} : say {to}",
    "a change from {away} , in {domain} , and it is {to}",
    "say {to} and no {away} , in the field {domain}",
    "what you feel is {to} , away from {away} , about {domain}",
    "pressure in the field {domain} : toward {to} , away {away}",
    "you do feel a push , {to} and no {away} , which is about {domain}",
    "the field is {domain} , the word {to} , away from the word {away}",
)
HELD_OUT = 2
"""How many of the forms, the last ones, are in no row of a projector's training."""
ONE_NAME = {"moved_to": "toward {to} , in {domain}", "moved_from": "away from {away} , in {domain}"}
NO_NAME = "a change , and no name in it"


def form_of(prompt_id: str) -> str:
    """The form in which the local teacher words the shift of this prompt, by hash."""
    return FORMS[keyed_int(0, "form", prompt_id) % len(FORMS)]


def summarise(domain: str, moved_from: str, moved_to: str, form: str) -> str:
    """A label in words, in one of FORMS: "from London toward Paris , in geography". Names may be ""."""
    if not moved_to or not moved_from:
        form = ONE_NAME["moved_to"] if moved_to else ONE_NAME["moved_from"] if moved_from else NO_NAME
    return form.format(domain=domain, away=moved_from, to=moved_to)


def in_held_out_form(summary: pl.Expr) -> pl.Expr:
    """Whether a summary, a string, is worded in one of the held-out forms."""
    return summary.str.contains("|".join(f"^{re.sub('{.*?}', '.+', form)}$" for form in FORMS[-HELD_OUT:]))
