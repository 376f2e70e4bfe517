"""Makes a domain's prompts: counterfactual and real corrections, split so that nothing leaks.

Reads data/facts/<domain>.yaml. Writes data/prompts/<domain>.parquet. Params: prompts (and api, what may be
spent: it decides no prompt). No GPU; a second. With prompts.generator openai, a language model paraphrases prompts and
thinks of wrong answers (address and key in OPENAI_BASE_URL and OPENAI_API_KEY; answers are kept in .cache and paid
once; --dry-run says what it would cost). With prompts.generator rows, rows of one's own are read from data/rows too.
What a generator does is stages/generators/<generator>.py; only the chosen one is imported.

  python -m stages.prompts geography
"""

import importlib
from pathlib import Path

from .core.api.section import Api
from .core.data.corrections import Prompts, make_prompts
from .core.data.facts import read_domain
from .core.data.held_out import HeldOut
from .core.data.tables import PROMPTS, write_table
from .core.run.params import Section, read_sections
from .core.run.stage import parser, run


class Sections(Section):
    """What this stage reads of params.yaml."""

    held_out: HeldOut
    prompts: Prompts
    api: Api


def main() -> None:
    """Makes one domain's prompts."""
    line = parser(__doc__, "prompts")
    line.add_argument("domain", help="one of params.yaml: domains")
    line.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost; ask and write nothing")
    options = line.parse_args()
    params = read_sections(Sections)
    domain = read_domain(options.domain)
    # stages/generators/<name>.py has estimate, material (of facts) and extended (by whole rows)
    chosen = importlib.import_module(f"{__package__}.generators.{params.prompts.generator}")
    if options.dry_run:
        bill = chosen.estimate(domain, params.prompts, params.api)
        print(f"{domain.domain}: {params.prompts.generator}: {bill}")
        return
    table = make_prompts(domain, params.prompts, params.held_out, chosen.material(domain, params.prompts, params.api))
    table = chosen.extended(table, domain, params.prompts, params.held_out)
    path = Path("data/prompts") / f"{domain.domain}.parquet"
    write_table(path, table, PROMPTS)
    print(f"{path}: {len(table)} corrections of {table['prompt'].n_unique()} prompts")


if __name__ == "__main__":
    run(main)
