"""The log-probability test: five reports to choose from, scored without generating anything."""

from collections.abc import Sequence

import torch
from jaxtyping import Float

from ..reader.reader import Reader


@torch.no_grad()
def report_logprob(
    reader: Reader,
    hosts: Sequence[str | None],
    reports: Sequence[str],
    gradients: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, " row"]:
    """log p(report | host, slots, question) of each row, nats, summed over the report's tokens."""
    tails = [reader.decoder.continuation(report) for report in reports]
    found = []
    for start in range(0, len(tails), 256):
        rows = slice(start, start + 256)
        losses, row = reader.report_losses(hosts[rows], tails[rows], reader.vectors(gradients[rows]))
        found.append(-losses.new_zeros(len(tails[rows])).index_add(0, row, losses))
    return torch.cat(found)


def margins(
    reader: Reader,
    hosts: Sequence[str | None],
    options: Sequence[Sequence[str]],
    gradients: Float[torch.Tensor, "row layer d_model"],
    unrelated: Float[torch.Tensor, "row layer d_model"],
) -> Float[torch.Tensor, "row option"]:
    """How much more the gradient than an unrelated one makes the model say each option, nats.

    What steering brings an option is log p(report with it | vector) minus the same with a sham of the vector's norm.
    From what the gradient brings, what an unrelated gradient brings (to the same report) is subtracted: a liking for
    the option, or for reports at all, that any gradient causes. Both have to have the same norm at each layer; then
    the same sham stands in both, cancels, and isn't computed. Left is log p with the gradient minus log p with the
    unrelated one. Each option is scored by itself, so that their order can't matter.
    """
    count = len(options[0])
    flat = [report for row in options for report in row]
    again = [host for host in hosts for _ in range(count)]

    def score(vectors: Float[torch.Tensor, "row layer d_model"]) -> Float[torch.Tensor, "row option"]:
        return report_logprob(reader, again, flat, vectors.repeat_interleave(count, 0)).view(-1, count)

    return score(gradients) - score(unrelated)
