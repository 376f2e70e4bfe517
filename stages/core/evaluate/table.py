"""Columns of the tables of reports and of answers, data/evaluation/reports.parquet and answers.parquet."""

import polars as pl

REPORTS = {
    "prompt_id": pl.String,  # of the gradient
    "host_prompt_id": pl.String,  # null: no host
    "condition": pl.String,
    "held_out": pl.String,
    "gradient_domain": pl.String,
    "host_domain": pl.String,  # "none" where there is no host
    "prompt": pl.String,
    "host": pl.String,
    "target": pl.String,  # what the report should say is moved to; swapped where the condition flips the sign
    "answer": pl.String,  # what it should say is moved from
    "seed": pl.Int32,
    "confidence": pl.Float32,  # that it is an update, 0 to 1; null where nothing was read or the gate had no part
    "report": pl.String,
    "domain": pl.String,
    "moved_to": pl.String,
    "moved_from": pl.String,
    "pressure": pl.Boolean,
    "malformed": pl.Boolean,
    "domain_right": pl.Boolean,
    "target_right": pl.Boolean,
    "answer_right": pl.Boolean,
    "host_intrusion": pl.Boolean,  # the report names the host's domain, and that isn't the gradient's
}
ANSWERS = {
    "model": pl.String,  # that reads: "main", or a peer's name
    "reading": pl.String,  # what stands in the slots; "asked": a question of a file of questions
    "prompt_id": pl.String,  # of the gradient
    "target": pl.String,
    "held_out": pl.String,
    "asks": pl.String,  # the question's name, or the relation that is asked about
    "form": pl.String,  # trained | held_out | foreign: this form, or this relation, was never asked of slots
    "question": pl.String,
    "said": pl.String,
    "expected": pl.String,
    "world": pl.String,  # what the world's facts say, where that may be something else
    "right": pl.Boolean,
}
