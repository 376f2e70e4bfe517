"""Generator "facts": a domain's prompts are its facts' templates and entities, and nothing more."""

import polars as pl

from ..core.api.section import Api
from ..core.data.corrections import Material, Prompts
from ..core.data.facts import Domain
from ..core.data.held_out import HeldOut


def estimate(domain: Domain, params: Prompts, api: Api) -> str:
    """The cost of generating in words: none."""
    return "0 calls, 0 tokens, 0 USD"


def material(domain: Domain, params: Prompts, api: Api) -> dict[tuple[str, str], Material]:
    """No additions: an empty table."""
    return {}


def extended(table: pl.DataFrame, domain: Domain, params: Prompts, out: HeldOut) -> pl.DataFrame:
    """The facts' prompts as they are: no row stands beside them."""
    return table
