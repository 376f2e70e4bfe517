"""What a model reports of some gradients, with nothing in front, and how much of them its words account for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from ..data.grammar import parse_report
from ..reader.reader import Reader
from ..reader.reports import reports_on
from ..reader.vocabulary import Tokens
from .features import explained


def reports_of(
    reader: Reader,
    gradient: Float32[np.ndarray, "row vector d_model"],
    tokens: int,
    faint: float = 0.0,
    sentences: Sequence[int] = (),
) -> dict[str, Any]:
    """What the model reports of some gradients, in their order and in at most `tokens` tokens; no host.

    Columns: docs/auditing.md, from `report` to `norm`. `faint`, `sentences`: see `reports_on`.
    """
    layers = len(reader.card.layers)
    reports, confidence = reports_on(reader, torch.from_numpy(gradient), tokens, faint, sentences)
    said = [parse_report(report.partition("\n")[0]) for report in reports]
    return {
        "report": reports,
        "domain": [each.domain for each in said],
        "toward": [each.moved_to for each in said],
        "away": [each.moved_from for each in said],
        "confidence": confidence.cpu().numpy(),
        "explained": explained(Tokens(reader.decoder, output=True), -gradient[:, layers - 1], said),
        "norm": np.linalg.norm(gradient[:, :layers], axis=-1).mean(-1),
    }
