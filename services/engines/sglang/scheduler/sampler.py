"""SGLang's sampler, which also hands out router features and draws with Trivium's noise.

A request of Trivium carries its sampling parameters as SGLang's `custom_params`. To SGLang it is greedy; where it has
a temperature, the token is drawn here, since the noise of a position must be the same in every engine. The raw top
logits and the hidden state leave as one packed blob a token, and the hidden state is then withheld from SGLang's own
way of returning it, which makes a Python float of every element.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sglang.srt.layers.sampler import Sampler
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

from services.engines.base import TOP_LOGITS, SamplingParams
from services.engines.sampling import sample_token
from services.engines.sglang.rows import REQUEST_KEY, ROWS_KEY, pack_row


class TriviumRequest(CustomLogitProcessor):  # type: ignore[misc]
    """Marks a request as Trivium's: SGLang hands `custom_params` to samplers of requests with a processor only."""

    def __call__(self, logits: torch.Tensor, custom_param_list: list[dict[str, Any]] | None = None) -> torch.Tensor:
        """Leaves the logits as they are."""
        return logits


class FeatureSampler(Sampler):  # type: ignore[misc]
    """Samples a batch and attaches one packed row to each of Trivium's requests."""

    def __init__(self) -> None:
        super().__init__()
        self._num_steps = 0
        self._num_rows = 0

    def forward(
        self,
        logits_output: Any,
        sampling_info: Any,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Chooses the next tokens; see SGLang's `Sampler.forward`.

        Args:
            logits_output: [rows, vocab] raw logits and, where asked for, [rows, hidden] hidden states. Gets the rows.
            sampling_info: SGLang's sampling parameters, Trivium's among them.
            return_logprob: Passed on.
            top_logprobs_nums: Passed on.
            token_ids_logprobs: Passed on.
            positions: [rows] index of the last token of each sequence.
            kwargs: Passed on.

        Returns:
            [rows] token ids.
        """
        params = sampling_info.custom_params
        rest = (return_logprob, top_logprobs_nums, token_ids_logprobs, positions)
        if not params or any(REQUEST_KEY not in (of_request or ()) for of_request in params):
            return self._choose(logits_output, sampling_info, *rest, **kwargs)
        requests = [of_request[REQUEST_KEY] for of_request in params]
        logits = logits_output.next_token_logits
        features = _features(logits, logits_output.hidden_states) if requests[0]["features"] else None
        drawn = _draw(logits, positions, requests)
        token_ids = self._choose(logits_output, sampling_info, *rest, **kwargs)
        for row, token_id in drawn.items():
            token_ids[row] = token_id
        self._num_steps += 1
        self._num_rows += len(requests)
        logits_output.customized_info = {ROWS_KEY: PackedRows(features, self._num_steps, self._num_rows)}
        logits_output.hidden_states = None
        return token_ids

    def _choose(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        token_ids: torch.Tensor = super().forward(*args, **kwargs)
        return token_ids


class PackedRows:
    """The rows of a batch, read by SGLang one by one once the step is done.

    A device isn't waited for before a row is read: SGLang prepares the next step meanwhile.
    """

    def __init__(self, features: torch.Tensor | None, num_steps: int, num_rows: int) -> None:
        self._counters = (num_steps, num_rows)
        self._copied: torch.cuda.Event | None = None
        self._features = features
        if features is not None and features.is_cuda:
            self._features = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
            self._features.copy_(features, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def __getitem__(self, row: int) -> bytes:
        """The packed row of one request."""
        if self._copied is not None:
            self._copied.synchronize()
        return pack_row(*self._counters, None if self._features is None else self._features[row].numpy())


def _features(logits: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """[rows, 100 + hidden] float32 of [rows, vocab] logits and [rows, hidden] hidden states."""
    top = logits.float().topk(min(TOP_LOGITS, logits.shape[1])).values
    # A smaller vocabulary is filled up with its smallest logit.
    top = torch.cat([top, top[:, -1:].expand(-1, TOP_LOGITS - top.shape[1])], dim=1)
    return torch.cat([top, hidden_states.float()], dim=1)


def _draw(logits: torch.Tensor, positions: torch.Tensor, requests: list[Mapping[str, Any]]) -> dict[int, int]:
    """The tokens of the rows that aren't greedy, by row."""
    drawn = {}
    for row, params in enumerate(requests):
        if params["temperature"] > 0:
            sampling = SamplingParams(params["temperature"], params["top_k"], params["top_p"], params["seed"])
            drawn[row] = sample_token(logits[row].float().cpu().numpy(), sampling, int(positions[row]) + 1)
    return drawn
