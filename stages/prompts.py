"""Makes a domain's prompts: counterfactual and real corrections, split so that nothing leaks.

Reads data/facts/<domain>.yaml. Writes data/prompts/<domain>.parquet. Params: prompts, api. No GPU; a second. With
prompts.generator openai, a language model paraphrases prompts and thinks of wrong answers (address and key in
OPENAI_BASE_URL and OPENAI_API_KEY; answers are kept in .cache and paid once; --dry-run says what it would cost).

  python -m stages.prompts geography
"""

import argparse
from pathlib import Path

from stages.core.corrections import Material, make_prompts
from stages.core.facts import Domain, read_domain
from stages.core.labels.generate import estimate_prompts, generate
from stages.core.params import Api, Prompts, Section, read_sections
from stages.core.stage import run
from stages.core.tables import PROMPTS, write_table


class Sections(Section):
    """What this stage reads of params.yaml."""

    prompts: Prompts
    api: Api


def generated(domain: Domain, params: Sections) -> dict[tuple[str, str], Material]:
    """What the generator adds to the facts; nothing with generator "facts"."""
    if params.prompts.generator == "facts":
        return {}
    found = generate(domain, params.prompts.openai, params.api).facts
    return {(each.relation, each.subject): Material(each.templates, each.wrong_answers) for each in found}


def main() -> None:
    """Makes one domain's prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", help="one of params.yaml: domains")
    parser.add_argument("--dry-run", action="store_true", help="print calls, tokens and cost; ask and write nothing")
    options = parser.parse_args()
    params = read_sections(Sections)
    domain = read_domain(options.domain)
    if options.dry_run:
        asked = params.prompts.generator == "openai"
        bill = estimate_prompts(domain, params.prompts.openai, params.api) if asked else "0 calls, 0 tokens, 0 USD"
        print(f"{domain.domain}: {params.prompts.generator}: {bill}")
        return
    table = make_prompts(domain, params.prompts, generated(domain, params))
    path = Path("data/prompts") / f"{domain.domain}.parquet"
    write_table(path, table, PROMPTS)
    print(f"{path}: {len(table)} corrections of {table['prompt'].n_unique()} prompts")


if __name__ == "__main__":
    run(main)
