"""Columns of the labelling stages' shards, in the order in which the stages run.

Owns what one stage hands to the next; the last one's, the dataset's, are `router_service.training.dataset`'s.
"""

from __future__ import annotations

import pyarrow as pa

QUERIES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("query", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
    ]
)

RESPONSES = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("domain", pa.string(), nullable=False),
        pa.field("prompt_token_ids", pa.list_(pa.int32()), nullable=False),
        # Empty where the prompt alone fills the context.
        pa.field("response_token_ids", pa.list_(pa.int32()), nullable=False),
        # Whether it ends with the end-of-sequence token, not at a limit.
        pa.field("finished", pa.bool_(), nullable=False),
    ]
)

CONTINUATIONS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("slm_token_id", pa.int32(), nullable=False),
        # What the LLM writes after the SLM's token; the last one may lie just past the sentence's end.
        pa.field("continuation_token_ids", pa.list_(pa.int32()), nullable=False),
        # Why it ends there: "sentence", "eos" or "limit".
        pa.field("ended", pa.string(), nullable=False),
    ]
)

VERDICTS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        # Whether the verifier's answer couldn't be read, which counts as divergent.
        pa.field("unparsable", pa.bool_(), nullable=False),
        pa.field("llm_sentence", pa.string(), nullable=False),
        pa.field("slm_sentence", pa.string(), nullable=False),
    ]
)


def prefill_schema(hidden_size: int, num_top_logits: int) -> pa.Schema:
    """Columns of the prefill stage, one row a response token.

    Args:
        hidden_size: Width of the SLM's hidden state.
        num_top_logits: How many logits are kept per token.
    """
    return pa.schema(
        [
            pa.field("query_id", pa.string(), nullable=False),
            pa.field("position", pa.int32(), nullable=False),
            pa.field("llm_token_id", pa.int32(), nullable=False),
            pa.field("slm_token_id", pa.int32(), nullable=False),
            pa.field("different", pa.bool_(), nullable=False),
            pa.field("hidden_state", pa.list_(pa.float16(), hidden_size), nullable=False),
            pa.field("top_logits", pa.list_(pa.float16(), num_top_logits), nullable=False),
        ]
    )
