"""Generator "facts": a domain's prompts are its facts' templates and entities, and nothing more."""

from ..core.api.section import Api
from ..core.data.corrections import Material
from ..core.data.facts import Domain
from ..core.data.section import Prompts


def estimate(domain: Domain, params: Prompts, api: Api) -> str:
    """The cost of generating in words: none."""
    return "0 calls, 0 tokens, 0 USD"


def material(domain: Domain, params: Prompts, api: Api) -> dict[tuple[str, str], Material]:
    """No additions: an empty table."""
    return {}
