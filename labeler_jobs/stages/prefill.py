"""Stage 1: one SLM pass over prompt and response finds the different tokens and keeps the router's features.

Source: arXiv:2505.21600 §4.1 (the SLM prefills the LLM's response; only different tokens go on to continuation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedModel

from labeler_jobs.models.huggingface import output_logits
from labeler_jobs.stages.schemas import prefill_schema
from router_service.features import select_top_logits
from services.engines.base import ModelLoadError

_GROUP_TOKENS = 32768
"""Response tokens of a row group, at least."""
_LOGIT_ROWS = 512
"""Positions whose logits over the whole vocabulary are held at a time."""
_TRIAL_TOLERANCE = 0.02


class FeatureError(ValueError):
    """A response can't be prefilled, or a feature can't be stored. The message names query and position."""


@dataclass(frozen=True)
class Answered:
    """A query with its response.

    Attributes:
        query_id: The query.
        prompt: Token ids.
        response: Token ids, at least one.
    """

    query_id: str
    prompt: Sequence[int]
    response: Sequence[int]

    def __len__(self) -> int:
        """Length of prompt and response, in tokens."""
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class PrefillResult:
    """What the SLM makes of one response, position by position.

    Attributes:
        slm_token_ids: i64 [response], the SLM's greedy prediction given everything before the position.
        different: bool [response], where that prediction is not the response's token.
        hidden_state: f16 [response, hidden], last layer after the final norm, at the position that predicts.
        top_logits: f16 [response, top], the largest raw logits in falling order.
    """

    slm_token_ids: Tensor
    different: Tensor
    hidden_state: Tensor
    top_logits: Tensor


def prefill(
    slm: PreTrainedModel,
    answered: Iterable[Answered],
    num_top_logits: int,
    batch_tokens: int,
    on_tokens: Callable[[int], None],
) -> Iterator[pa.RecordBatch]:
    """Runs the SLM over prompts and responses.

    Args:
        slm: The small model.
        answered: Responses, in the order of the shard.
        num_top_logits: How many logits the router reads.
        batch_tokens: Most tokens of one pass, padding included; one response may always run.
        on_tokens: Told how many response tokens were prefilled.

    Yields:
        Rows of `schemas.prefill_schema`, one a response token, in order.

    Raises:
        FeatureError: A token is outside the SLM's vocabulary, or a feature isn't finite in half precision.
    """
    for group in _groups(answered):
        yield _record_batch(group, prefill_responses(slm, group, num_top_logits, batch_tokens))
        on_tokens(sum(len(item.response) for item in group))


def prefill_responses(
    slm: PreTrainedModel, answered: Sequence[Answered], num_top_logits: int, batch_tokens: int
) -> list[PrefillResult]:
    """Runs the SLM over prompts and responses of similar length together.

    Rows are padded on the right: under a causal mask the padding cannot reach the positions that are read.

    Args:
        slm: The small model.
        answered: Responses.
        num_top_logits: How many logits the router reads.
        batch_tokens: Most tokens of one pass, padding included.

    Returns:
        One result a response, in order.

    Raises:
        FeatureError: See `prefill`.
    """
    results: dict[int, PrefillResult] = {}
    for rows in _length_batches([len(item) for item in answered], batch_tokens):
        hidden_state = _last_hidden_states(slm, [answered[row] for row in rows])
        for at, row in enumerate(rows):
            item = answered[row]
            first = len(item.prompt) - 1
            results[row] = _read_positions(
                slm, hidden_state[at, first : first + len(item.response)], item, num_top_logits
            )
    return [results[row] for row in range(len(answered))]


@torch.inference_mode()
def check_head(slm: PreTrainedModel) -> None:
    """Makes sure that a model's logits are its output embedding's product with the last hidden state.

    Raises:
        ModelLoadError: They are scaled or capped afterwards.
    """
    token_ids = torch.arange(4, device=slm.device)[None]
    logits = slm(token_ids, use_cache=False).logits.float()
    plain = output_logits(slm, slm.base_model(input_ids=token_ids, use_cache=False).last_hidden_state).float()
    if not torch.allclose(plain, logits, rtol=_TRIAL_TOLERANCE, atol=_TRIAL_TOLERANCE * float(logits.abs().max())):
        raise ModelLoadError(f"architectures: {type(slm).__name__} changes its logits after the output embedding")


def _groups(answered: Iterable[Answered]) -> Iterator[list[Answered]]:
    group: list[Answered] = []
    num_tokens = 0
    for item in answered:
        group.append(item)
        num_tokens += len(item.response)
        if num_tokens >= _GROUP_TOKENS:
            yield group
            group, num_tokens = [], 0
    if group:
        yield group


def _length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending, so the newcomer is the longest and all others are padded to it.
        if not batches or lengths[row] * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


@torch.inference_mode()
def _last_hidden_states(slm: PreTrainedModel, answered: Sequence[Answered]) -> Tensor:
    vocab_size = slm.get_input_embeddings().get_parameter("weight").size(0)
    token_ids = torch.zeros((len(answered), max(map(len, answered))), dtype=torch.long)
    for row, item in enumerate(answered):
        ids = torch.tensor([*item.prompt, *item.response])
        if int(ids.max()) >= vocab_size:
            at = int((ids >= vocab_size).nonzero()[0]) - len(item.prompt)
            raise FeatureError(
                f"llm_token_id: query {item.query_id!r}, position {at}: the SLM's vocabulary of {vocab_size} "
                f"holds no token {int(ids.max())}"
            )
        token_ids[row, : len(item)] = ids
    hidden_state: Tensor = slm.base_model(input_ids=token_ids.to(slm.device), use_cache=False).last_hidden_state
    return hidden_state


@torch.inference_mode()
def _read_positions(slm: PreTrainedModel, hidden_state: Tensor, item: Answered, num_top_logits: int) -> PrefillResult:
    predicted, top_logits = [], []
    for rows in torch.split(hidden_state, _LOGIT_ROWS):
        logits = output_logits(slm, rows).float()
        predicted.append(logits.argmax(dim=-1).cpu())
        top_logits.append(select_top_logits(logits, num_top_logits).cpu())
    slm_token_ids = torch.cat(predicted)
    return PrefillResult(
        slm_token_ids=slm_token_ids,
        different=slm_token_ids != torch.tensor(item.response),
        hidden_state=_half("hidden_state", hidden_state.cpu(), item.query_id),
        top_logits=_half("top_logits", torch.cat(top_logits), item.query_id),
    )


def _half(field: str, values: Tensor, query_id: str) -> Tensor:
    half = values.to(torch.float16)
    lost = ~torch.isfinite(half).all(dim=1)
    if bool(lost.any()):
        position = int(lost.nonzero()[0])
        worst = float(values[position].float().abs().max())
        raise FeatureError(
            f"{field}: query {query_id!r}, position {position}: {worst:g} can't be stored in half precision"
        )
    return half


def _record_batch(group: Sequence[Answered], results: Sequence[PrefillResult]) -> pa.RecordBatch:
    hidden_state = torch.cat([result.hidden_state for result in results])
    top_logits = torch.cat([result.top_logits for result in results])
    return pa.RecordBatch.from_arrays(
        [
            pa.array([item.query_id for item in group for _ in item.response], pa.string()),
            pa.array([position for item in group for position in range(len(item.response))], pa.int32()),
            pa.array([token_id for item in group for token_id in item.response], pa.int32()),
            pa.array(torch.cat([result.slm_token_ids for result in results]).numpy(), pa.int32()),
            pa.array(torch.cat([result.different for result in results]).numpy()),
            pa.FixedSizeListArray.from_arrays(hidden_state.flatten().numpy(), hidden_state.size(1)),
            pa.FixedSizeListArray.from_arrays(top_logits.flatten().numpy(), top_logits.size(1)),
        ],
        schema=prefill_schema(hidden_state.size(1), top_logits.size(1)),
    )
