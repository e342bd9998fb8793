"""What both models made of the same queries: what query-level routers learn from and are measured on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.records.run_records import RecordError, RunRecords


@dataclass(frozen=True)
class Outcomes:
    """Both models' answers, query by query.

    Attributes:
        question_ids: [queries].
        slm_correct: bool [queries].
        llm_correct: bool [queries].
        slm_tokens: i64 [queries], length of the SLM's response.
        llm_tokens: i64 [queries], length of the LLM's response.
        slm_params_b: Size of the SLM.
        llm_params_b: Size of the LLM.
    """

    question_ids: tuple[str, ...]
    slm_correct: NDArray[np.bool_]
    llm_correct: NDArray[np.bool_]
    slm_tokens: NDArray[np.int64]
    llm_tokens: NDArray[np.int64]
    slm_params_b: float
    llm_params_b: float

    @property
    def needs_llm(self) -> NDArray[np.bool_]:
        """Where the LLM answers rightly and the SLM doesn't, bool [queries]."""
        return self.llm_correct & ~self.slm_correct

    def avg_params_b(self, slm_tokens: NDArray[np.int64], llm_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Average activated parameters of a token where each query is answered by one model, in billions.

        Args:
            slm_tokens: [choices], tokens of all queries that the SLM answers.
            llm_tokens: [choices], tokens of all others.

        Source: arXiv:2505.21600 §5.1; deviation: none.
        """
        spent_b: NDArray[np.float64] = self.slm_params_b * slm_tokens + self.llm_params_b * llm_tokens
        return spent_b / (slm_tokens + llm_tokens)

    @classmethod
    def join(cls, slm: RunRecords, llm: RunRecords) -> Outcomes:
        """Puts two runs side by side.

        Raises:
            RecordError: They are not of the same questions, in the same order.
        """
        ids = slm.table["question_id"].to_pylist()
        if ids != llm.table["question_id"].to_pylist():
            raise RecordError(f"{slm.run.run_id}, {llm.run.run_id}: field question_id: not the same questions")
        return cls(
            question_ids=tuple(ids),
            slm_correct=np.array(slm.table["correct"].to_pylist(), dtype=bool),
            llm_correct=np.array(llm.table["correct"].to_pylist(), dtype=bool),
            slm_tokens=np.array(slm.table["num_tokens"].to_pylist(), dtype=np.int64),
            llm_tokens=np.array(llm.table["num_tokens"].to_pylist(), dtype=np.int64),
            slm_params_b=slm.run.model_params_b["slm"],
            llm_params_b=llm.run.model_params_b["llm"],
        )
