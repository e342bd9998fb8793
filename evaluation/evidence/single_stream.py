"""Single-stream speed of every way to write a token, measured in turns: `speed.json`.

Models alone and R2R run in the same loop (`evaluation.in_process`). Speculative decoding is Hugging Face's assisted
generation, and stands beside the LLM in Hugging Face's own greedy generation ("llm_generate"), whose overhead it
shares. Each LLM takes part as it is and inflated to the ratio of costs that the paper's pair has.

Source: arXiv:2505.21600 Tables 3 and 5; deviation: speculative decoding drafts a sequence, not a tree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from evaluation.evidence.plan import Evidence
from evaluation.in_process import CachedModel, decode
from evaluation.records.results_files import Speed, SpeedRow
from evaluation.reference.pair import LoadedPair, count_parameters, load_model, load_pair
from evaluation.speed.inflate import inflate, layers_for_ratio
from labeler_jobs.models.huggingface import render_prompt
from services.common.progress import track

NUM_THREADS = 1
_STEPS = 40
"""Decoding steps over which a model's cost is measured."""
_PROMPT_LEN = 80
_PROBE_LAYERS = 8
"""Layers by which an LLM is inflated to learn what one costs."""

Answer = Callable[[list[int]], list[int]]
"""Writes a response to a prompt."""


class _PassCounter:
    """Counts the forward passes of a model, over all methods that it takes part in."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.num_passes = 0
        model.base_model.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.num_passes += 1


@dataclass
class _Turns:
    """One method and what its repetitions gave.

    Attributes:
        method: As in `SpeedRow`.
        llm: As in `SpeedRow`.
        params_b: Average activated parameters of an emitted token.
        answer: Writes responses.
        counter: Counts the LLM's passes, where that tells how many drafts were accepted.
        num_passes: Passes of the LLM in the method's turns.
        num_tokens: One value a repetition.
        seconds: One value a repetition.
        responses: Of the last repetition.
    """

    method: str
    llm: str | None
    params_b: float | None
    answer: Answer
    counter: _PassCounter | None = None
    num_passes: int = 0
    num_tokens: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)

    def take(self, prompts: Sequence[list[int]]) -> None:
        """Answers all prompts, one after the other."""
        passes_before = self.counter.num_passes if self.counter else 0
        start = time.perf_counter()
        self.responses = [self.answer(prompt) for prompt in prompts]
        self.seconds.append(time.perf_counter() - start)
        self.num_tokens.append(sum(map(len, self.responses)))
        self.num_passes += (self.counter.num_passes if self.counter else 0) - passes_before

    def row(self, llm_responses: Sequence[list[int]]) -> SpeedRow:
        """The method's row, its responses held against the LLM's."""
        num_equal = sum(mine == theirs for mine, theirs in zip(self.responses, llm_responses, strict=True))
        return SpeedRow(
            method=self.method,
            llm=self.llm,
            avg_params_b=self.params_b,
            num_tokens=self.num_tokens,
            tokens_per_s=[tokens / s for tokens, s in zip(self.num_tokens, self.seconds, strict=True)],
            latency_s=[s / len(self.responses) for s in self.seconds],
            equal_to_llm=num_equal / len(self.responses),
            accepted_rate=1 - self.num_passes / sum(self.num_tokens) if self.counter else None,
        )


@torch.inference_mode()
def measure_speed(evidence: Evidence) -> None:
    """Writes `speed.json`."""
    torch.set_num_threads(NUM_THREADS)
    scale = evidence.scale
    pair = load_pair(evidence.weights)
    inflated, ratios = inflate_to_ratio(pair.slm, pair.llm, scale.cost_ratio)
    llms = {"reference": pair.llm, "inflated": inflated}
    prompts = [render_prompt(pair.tokenizer, query) for query in evidence.questions(evidence.held_out)]
    prompts = prompts[: scale.speed_questions]
    methods = _methods(pair, load_model(evidence.mid), llms, scale.max_new_tokens)
    for turns in methods:
        # Caches and allocators warm up on an answer that doesn't count.
        turns.answer(prompts[0])
    for _ in track(range(scale.speed_repetitions), "speed"):
        for turns in methods:
            turns.take(prompts)
    by_llm = next(turns.responses for turns in methods if turns.method == "llm")
    Speed(
        provenance=evidence.provenance,
        num_questions=len(prompts),
        num_threads=NUM_THREADS,
        llm_params_b={name: count_parameters(llm) / 1e9 for name, llm in llms.items()},
        cost_ratio=ratios,
        rows=[turns.row(by_llm) for turns in methods],
    ).save(evidence.results)


def inflate_to_ratio(
    slm: PreTrainedModel, llm: PreTrainedModel, ratio: float
) -> tuple[PreTrainedModel, dict[str, float]]:
    """Inflates an LLM until a decoding step costs a multiple of the SLM's.

    Args:
        slm: The small model.
        llm: The large model.
        ratio: Wanted.

    Returns:
        The inflated model, and the measured ratios of "reference" and "inflated".
    """
    slm_s, llm_s, probe_s = _step_seconds([slm, llm, inflate(llm, _PROBE_LAYERS)])
    inflated = inflate(llm, layers_for_ratio(llm_s, slm_s, (probe_s - llm_s) / _PROBE_LAYERS, ratio))
    slm_s, llm_s, inflated_s = _step_seconds([slm, llm, inflated])
    return inflated, {"reference": llm_s / slm_s, "inflated": inflated_s / slm_s}


def _step_seconds(models: Sequence[PreTrainedModel]) -> list[float]:
    """Median time of a decoding step of each model, steps taken in turns."""
    tokens = list(range(3, 3 + _PROMPT_LEN))
    cached = [CachedModel(model) for model in models]
    for model in cached:
        model.next_logits(tokens)
    times: list[list[float]] = [[] for _ in models]
    for step in range(_STEPS):
        tokens.append(3 + step)
        for model, mine in zip(cached, times, strict=True):
            start = time.perf_counter()
            model.next_logits(tokens)
            mine.append(time.perf_counter() - start)
    return [statistics.median(mine) for mine in times]


def _methods(pair: LoadedPair, mid: PreTrainedModel, llms: dict[str, PreTrainedModel], limit: int) -> list[_Turns]:
    eos, sizes = pair.tokenizer.eos_token_id, pair.sizes
    methods = [
        _Turns(name, None, count_parameters(model) / 1e9, _alone(model, eos, limit))
        for name, model in (("slm", pair.slm), ("mid", mid))
    ]
    usage = pair.description.metrics["validation_llm_usage_rate"]
    for name, llm in llms.items():
        size = count_parameters(llm)
        routed_b = replace(sizes, llm=size).avg_activated_params_b(usage)
        methods += [
            _Turns("llm", name, size / 1e9, _alone(llm, eos, limit)),
            _Turns("r2r", name, routed_b, _routed(replace(pair, llm=llm), limit)),
            _Turns("llm_generate", name, size / 1e9, _generated(llm, limit)),
            _Turns("speculative", name, None, _generated(llm, limit, pair.slm), _PassCounter(llm)),
        ]
    return methods


def _alone(model: PreTrainedModel, eos: int, limit: int) -> Answer:
    def answer(prompt: list[int]) -> list[int]:
        cached, tokens = CachedModel(model), list(prompt)
        while len(tokens) < len(prompt) + limit and (len(tokens) == len(prompt) or tokens[-1] != eos):
            logits, _ = cached.next_logits(tokens)
            tokens.append(int(logits.argmax()))
        return tokens[len(prompt) :]

    return answer


def _routed(pair: LoadedPair, limit: int) -> Answer:
    def answer(prompt: list[int]) -> list[int]:
        decoded = decode(pair, prompt, pair.rule(), max_new_tokens=limit)
        return [token.token_id for token in decoded]

    return answer


def _generated(llm: PreTrainedModel, limit: int, assistant: PreTrainedModel | None = None) -> Answer:
    def answer(prompt: list[int]) -> list[int]:
        output: Tensor = llm.generate(  # type: ignore[operator]
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=limit,
            do_sample=False,
            assistant_model=assistant,
        )
        written: list[int] = output[0, len(prompt) :].tolist()
        return written

    return answer
