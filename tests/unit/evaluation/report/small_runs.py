"""Runs of a few questions whose figures can be computed by hand: the LLM has 10 billion parameters, the SLM one."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from evaluation.records.run_records import RECORDS_SCHEMA, Run, RunRecords

SIZES = {"slm": 1.0, "router": 0.5, "mid": 4.0, "llm": 10.0}


def row(
    question_id: str, correct: bool, num_tokens: int, model: str = "routed", **fields: object
) -> dict[str, object]:
    """One question's row; `fields` replace what is given by default."""
    made: dict[str, object] = {
        "question_id": question_id,
        "domain": "math",
        "correct": correct,
        "finished": True,
        "num_prompt_tokens": 5,
        "num_tokens": num_tokens,
        "llm_positions": [],
        "think_len": None,
        "thought_starts": [0],
        "model": model,
        "latency_s": None,
    }
    return made | fields


def records(
    method: str, *rows: dict[str, object], target: float | None = None, seed: int | None = None
) -> RunRecords:
    """A run of these rows."""
    run = Run(f"{method}-{target}-{seed}", "suite", method, SIZES, seed, None, target)
    return RunRecords(run, pa.Table.from_pylist(list(rows), RECORDS_SCHEMA))


def sized(run: RunRecords, **sizes: float) -> RunRecords:
    """The same run with other sizes."""
    return replace(run, run=replace(run.run, model_params_b=sizes))
