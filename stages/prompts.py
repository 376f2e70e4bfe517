"""Makes a domain's prompts: counterfactual and real corrections, split so that nothing leaks.

Reads data/facts/<domain>.yaml. Writes data/prompts/<domain>.parquet. Params: prompts. No GPU; a second.

  python -m stages.prompts geography
"""

from pathlib import Path

from stages.core.corrections import make_prompts
from stages.core.facts import read_domain
from stages.core.params import Prompts, Section, read_sections
from stages.core.stage import parse, run
from stages.core.tables import PROMPTS, write_table


class Sections(Section):
    """What this stage reads of params.yaml."""

    prompts: Prompts


def main() -> None:
    """Makes one domain's prompts."""
    name = parse(__doc__, "prompts", by_domain=True)
    table = make_prompts(read_domain(name), read_sections(Sections).prompts)
    path = Path("data/prompts") / f"{name}.parquet"
    write_table(path, table, PROMPTS)
    print(f"{path}: {len(table)} corrections of {table['prompt'].n_unique()} prompts")


if __name__ == "__main__":
    run(main)
