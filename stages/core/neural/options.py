"""The log-probability test: five reports to choose from, scored without generating anything."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch.nn import functional as F

from stages.core.neural.reader import Reader


@torch.no_grad()
def report_logprob(
    reader: Reader,
    hosts: Sequence[str | None],
    reports: Sequence[str],
    gradients: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, " row"]:
    """log p(report | host, slots, question) of each row, nats, summed over the report's tokens."""
    prompts = [reader.prompt(host) for host in hosts]
    tails = [reader.decoder.continuation(report) for report in reports]
    found = []
    for start in range(0, len(prompts), 256):
        rows = slice(start, start + 256)
        hidden = reader.read(prompts[rows], [tail[:-1] for tail in tails[rows]], reader.vectors(gradients[rows]))
        for row, (prompt, tail) in enumerate(zip(prompts[rows], tails[rows], strict=True)):
            at = slice(len(prompt.ids) - 1, len(prompt.ids) - 1 + len(tail))
            logits = reader.decoder.logits(hidden[row, at])
            found.append(-F.cross_entropy(logits, torch.tensor(tail, device=logits.device), reduction="sum"))
    return torch.stack(found)


def margins(
    reader: Reader,
    hosts: Sequence[str | None],
    options: Sequence[Sequence[str]],
    gradients: Float[torch.Tensor, "row layer d_model"],
    shams: Float[torch.Tensor, "row layer d_model"],
    unrelated: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, "row option"]:
    """How much more the gradient than nothing in particular makes the model say each option, nats.

    log p with the gradient minus log p with a sham of its norm; from this, what an unrelated gradient brings over the
    sham (a liking for the option that any gradient causes) is subtracted. Each option is scored by itself, so that
    their order can't matter.
    """
    count = len(options[0])
    flat = [report for row in options for report in row]
    again = [host for host in hosts for _ in range(count)]

    def score(vectors: Float[torch.Tensor, "row layer d_model"]) -> Float[torch.Tensor, "row option"]:
        return report_logprob(reader, again, flat, vectors.repeat_interleave(count, 0)).view(-1, count)

    base = score(shams)
    return (score(gradients) - base) - (score(unrelated) - base)
