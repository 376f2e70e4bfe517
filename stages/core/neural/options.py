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
        lengths = torch.tensor([len(tail) for tail in tails[rows]], device=hidden.device)
        row = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths)
        column = [
            len(prompt.ids) - 1 + offset
            for prompt, tail in zip(prompts[rows], tails[rows], strict=True)
            for offset in range(len(tail))
        ]
        logits = reader.decoder.logits(hidden[row, torch.tensor(column, device=hidden.device)])
        said = torch.tensor([token for tail in tails[rows] for token in tail], device=hidden.device)
        losses = F.cross_entropy(logits, said, reduction="none")
        found.append(-torch.zeros(len(lengths), device=hidden.device).index_add(0, row, losses))
    return torch.cat(found)


def margins(
    reader: Reader,
    hosts: Sequence[str | None],
    options: Sequence[Sequence[str]],
    gradients: Float[torch.Tensor, "row layer d_model"],
    unrelated: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, "row option"]:
    """How much more the gradient than an unrelated one makes the model say each option, nats.

    log p with the gradient minus log p with an unrelated gradient: so a liking for the option that any gradient causes
    is subtracted. (Holding both against a sham of the same norm first changes nothing: it cancels.) Each option is
    scored by itself, so that their order can't matter.
    """
    count = len(options[0])
    flat = [report for row in options for report in row]
    again = [host for host in hosts for _ in range(count)]

    def score(vectors: Float[torch.Tensor, "row layer d_model"]) -> Float[torch.Tensor, "row option"]:
        return report_logprob(reader, again, flat, vectors.repeat_interleave(count, 0)).view(-1, count)

    return score(gradients) - score(unrelated)
