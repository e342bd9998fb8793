"""What is asked for through HTTP so that the answer has to be a reference, and whether it is."""

from __future__ import annotations

from typing import Any

from trivium.v1 import orchestrator_pb2

from evaluation.exactness import Reference
from evaluation.reference.corpus.samples import MAX_NEW_TOKENS
from evaluation.reference.pair import LoadedPair
from tests.integration.gateway.door import Answer
from tests.integration.harness.completions import Completion, assert_is_reference


def fields(reference: Reference) -> dict[str, Any]:
    return {
        "temperature": 0,
        "threshold": reference.threshold,
        "max_tokens": MAX_NEW_TOKENS,
        "include_token_sources": True,
    }


def assert_answer(answer: Answer, reference: Reference, pair: LoadedPair) -> None:
    assert answer.status == 200, answer.error
    said = answer.choices[0]
    completion = Completion(
        token_ids=[token["id"] for token in said.tokens],
        from_llm=[token["source"] == "llm" for token in said.tokens],
        finish=orchestrator_pb2.Finish(),
    )
    assert_is_reference(completion, reference)
    assert "".join(token["text"] for token in said.tokens) == decoded(completion.token_ids, pair)
    assert answer.usage["completion_tokens"] == len(completion.token_ids)
    assert answer.usage["prompt_tokens"] == len(reference.prompt_token_ids)


def decoded(token_ids: list[int], pair: LoadedPair) -> str:
    return str(pair.tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
