"""Turns decoded answers to the reference suite into the rows of an evaluation run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from evaluation.decoding.response import RoutedResponse
from evaluation.records.response_shape import shape_of
from evaluation.records.run_records import RECORDS_SCHEMA
from evaluation.reference.corpus.samples import Sample
from evaluation.reference.corpus.verifier import is_correct
from labeler_jobs.models.huggingface import decode_text

Answerer = Literal["slm", "mid", "llm", "routed"]


def answer_table(
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[RoutedResponse],
    answerer: Answerer,
) -> pa.Table:
    """Grades answers and describes them.

    Args:
        tokenizer: The pair's.
        samples: Questions with answers.
        prompts: Their prompts, token ids.
        responses: What was decoded.
        answerer: Who answered; token by token what the responses say if "routed".

    Returns:
        Rows of `RECORDS_SCHEMA`, one a question, in order.
    """
    rows = []
    for sample, prompt, response in zip(samples, prompts, responses, strict=True):
        shape = shape_of([decode_text(tokenizer, [token_id]) for token_id in response.token_ids])
        rows.append(
            {
                "question_id": str(sample.index),
                "domain": sample.domain,
                "correct": is_correct(decode_text(tokenizer, response.token_ids), sample.answer),
                "finished": response.token_ids[-1] == tokenizer.eos_token_id,
                "num_prompt_tokens": len(prompt),
                "num_tokens": len(response.token_ids),
                "llm_positions": _llm_positions(response) if answerer == "routed" else [],
                "think_len": shape.think_len,
                "thought_starts": shape.thought_starts,
                "model": answerer,
                "latency_s": None,
            }
        )
    return pa.Table.from_pylist(rows, RECORDS_SCHEMA)


def _llm_positions(response: RoutedResponse) -> list[int]:
    return [position for position, from_llm in enumerate(response.from_llm) if from_llm]
