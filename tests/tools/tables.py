"""Tables of facts for the import tests."""

import json
from pathlib import Path
from typing import Any

from tests.pipeline import tiny

LRE = tiny.ROOT.parent / "shared/lre"


def lre(name: str, templates: list[str], pairs: dict[str, str], more: list[str] | None = None) -> dict[str, Any]:
    samples = [{"subject": subject, "object": answer} for subject, answer in pairs.items()]
    return {
        "name": name,
        "prompt_templates": templates,
        "prompt_templates_zs": more or templates,
        "properties": {"relation_type": "factual", "domain_name": "a", "range_name": "b", "symmetric": False},
        "samples": samples,
    }


OWN = {
    "river_mouth": lre(
        "river mouth",
        ["{} flows into the"],
        {"Danube": "Black Sea", "Volga": "Caspian Sea", "Rhine": "North Sea", "Elbe": "North Sea"},
        ["What sea does {} flow into? It flows into the"],
    ),
    "painter": lre(
        "painter", ["{} was painted by"], {"Guernica": "Picasso", "The Scream": "Munch", "Olympia": "Manet"}
    ),
    "gem_colour": lre(
        "gem colour",
        ["The colour of {} is", "Is {} red, blue or green? It is"],
        {"ruby": "red", "sapphire": "blue", "emerald": "green"},
    ),
}
"""Three tables in the LRE format, for a checkout that has no ../shared/lre beside it."""


def lre_tables() -> list[Path | str]:
    return sorted(LRE.glob("*.json")) or list(OWN)


def saved(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path
