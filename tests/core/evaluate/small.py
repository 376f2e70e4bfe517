"""What tests of the evaluation share: settings, cases of the small world, and readers that learn nothing."""

import polars as pl
import torch
from torch.nn import functional as F

from stages.core.engine.samples import Sample
from stages.core.evaluate.section import Evaluation
from stages.core.model.decoder import Decoder
from stages.core.reader.injection import Slots
from stages.core.reader.reader import Reader
from tests.core.reader.teaching import new_reader, settings

HOW = Evaluation(gradients=8, fine_tuned=1, edits=2, step_sizes=[1.0], bootstrap=20, report_tokens=8, seed=0)
KINDS = {"country": "geography", "city": "geography", "composer": "music", "era": "music"}
HOSTS = ["The composer of Tosca is", "The capital of Peru is", None]


def cases_of(*pairs: tuple[str, str], **columns: object) -> pl.DataFrame:
    """A case toward the first name of each pair and away from the second."""
    made = [
        {
            "row": number, "prompt_id": f"id{number}", "held_out": "none", "prompt": "The capital of Peru is",
            "host": HOSTS[number % 3], "host_prompt_id": "h", "gradient_domain": "geography", "host_domain": "music",
            "target": target, "answer": answer, "relation": "capital",
        } | columns
        for number, (target, answer) in enumerate(pairs)
    ]  # fmt: skip
    return pl.DataFrame(made, infer_schema_length=None)


def raw_reader(decoder: Decoder) -> Reader:
    """A reader of the last layer's raw update direction."""
    return new_reader(decoder, settings(architecture="raw", layers=[decoder.n_layers - 1]))


def slots_of(reader: Reader, *pairs: tuple[str, str], places: int = 2) -> Slots:
    """Slots that hold, place by place, the first name's tokens less most of the second's."""
    felt, counts = torch.zeros(len(pairs), places, reader.decoder.d_model), []
    for row, names in enumerate(pairs):
        to, away = (reader.decoder.continuation(name) for name in names)
        for place, token in enumerate(to):
            felt[row, place] = reader.tokens[token]
            if place < len(away):
                felt[row, place] -= 0.6 * reader.tokens[away[place]]
        counts.append(len(to))
    felt = F.normalize(felt, dim=-1)
    return Slots(felt, -felt, torch.tensor(counts))


def sample_of(reader: Reader, prompt: str, target: str) -> Sample:
    """A prompt and what it is to be continued with."""
    return Sample(tuple(reader.decoder.tokens(prompt)), tuple(reader.decoder.continuation(target)))
