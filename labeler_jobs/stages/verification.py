"""Stage 3: put the two sentences of every fork before a verifier and keep its verdicts.

Source: arXiv:2505.21600 §3.2 (the verifier compares the sentences that follow from either token).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from labeler_jobs.stages.schemas import VERDICTS
from labeler_jobs.text.response_text import ResponseText
from labeler_jobs.verifiers.case import build_case
from labeler_jobs.verifiers.verifier import VerificationCase, Verifier

_BATCH_SIZE = 256
"""Cases that a verifier is given at a time."""


def judge_continuations(
    continuations: pa.Table,
    responses: Mapping[str, Sequence[int]],
    tokenizer: PreTrainedTokenizerFast,
    verifier: Verifier,
    on_tokens: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """Judges every fork.

    Args:
        continuations: Rows of `schemas.CONTINUATIONS`.
        responses: Response token ids by query id.
        tokenizer: The pair's tokenizer.
        verifier: Tells neutral from divergent.
        on_tokens: Told how many forks were judged.

    Yields:
        Rows of `schemas.VERDICTS`, in order.

    Raises:
        VerifierUnreachable: The verifier could not be asked.
    """
    rows = iter(continuations.to_pylist())
    cases = _Cases(responses, tokenizer)
    while batch := list(islice(rows, _BATCH_SIZE)):
        built = [cases.build(row) for row in batch]
        verdicts = verifier.judge(built)
        yield pa.RecordBatch.from_pydict(
            {
                "query_id": [row["query_id"] for row in batch],
                "position": [row["position"] for row in batch],
                "label": [int(verdict.label) for verdict in verdicts],
                "unparsable": [verdict.unparsable for verdict in verdicts],
                "llm_sentence": [case.llm_sentence for case in built],
                "slm_sentence": [case.slm_sentence for case in built],
            },
            schema=VERDICTS,
        )
        on_tokens(len(batch))


class _Cases:
    """Builds cases; keeps the text of the response that the last one was of."""

    def __init__(self, responses: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerFast) -> None:
        self._responses = responses
        self._tokenizer = tokenizer
        self._query_id: str | None = None
        self._text = ResponseText(tokenizer, ())

    def build(self, row: Mapping[str, Any]) -> VerificationCase:
        if row["query_id"] != self._query_id:
            self._query_id = row["query_id"]
            self._text = ResponseText(self._tokenizer, self._responses[row["query_id"]])
        branch = self._text.branch(row["position"])
        for token_id in (row["slm_token_id"], *row["continuation_token_ids"]):
            branch.push(token_id)
        prefix = self._text.text[: self._text.prefix_len(row["position"])]
        return build_case(prefix, self._text.text, prefix + branch.text)
