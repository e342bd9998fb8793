import pytest
from trivium.v1 import orchestrator_pb2 as pb

from services.cli.figures import PairSize, average_parameters, cut_off, parameters, summary, unit_of

SIZE = PairSize(slm=98_000, llm=3_010_000)
USAGE = pb.Usage(
    num_prompt_tokens=61,
    num_completion_tokens=100,
    num_llm_tokens=6,
    llm_usage_rate=0.06,
    avg_activated_params_b=0.000307,
    num_slm_tokens_reused=48,
    num_llm_tokens_reused=32,
)


@pytest.mark.parametrize(
    ("count", "text"),
    [(98_000, "98K"), (3_010_000, "3.0M"), (1_540_000_000, "1.5B"), (32_800_000_000, "33B"), (999, "999")],
)
def test_parameters_best_unit_two_significant_digits(count: int, text: str) -> None:
    assert parameters(count) == text


def test_parameters_shared_unit_stays_comparable() -> None:
    assert parameters(98_000, unit_of(3_010_000)) == "0.10M"


def test_average_parameters_names_both_models() -> None:
    assert average_parameters(USAGE, SIZE) == "0.31M of 3.0M (10%; SLM alone 0.10M)"


def test_summary_counts_accepted_tokens_per_second() -> None:
    assert summary(USAGE, SIZE, seconds=0.5) == (
        "100 tokens, 6 (6.0%) by the LLM · average parameters 0.31M of 3.0M (10%; SLM alone 0.10M) · 200 tokens/s · "
        "prefix reused of 61 tokens: SLM 48, LLM 32"
    )


def test_summary_says_which_tokens_the_slm_wrote_for_want_of_the_llm() -> None:
    usage = pb.Usage(num_completion_tokens=100, num_llm_tokens=6, llm_usage_rate=0.06, num_fallback_tokens=3)
    assert "6 (6.0%) by the LLM; 3 by the SLM instead, with no LLM left ·" in summary(usage, SIZE, seconds=0.5)


@pytest.mark.parametrize(
    ("reason", "context_len", "told"),
    [
        (pb.FINISH_REASON_STOP, 161, ""),
        (pb.FINISH_REASON_LENGTH, 4096, "the answer is cut off after 100 tokens (--max-new-tokens)"),
        (pb.FINISH_REASON_LENGTH, 161, "the answer is cut off: the context of 161 tokens is full"),
        (pb.FINISH_REASON_LENGTH, 0, "the answer is cut off after 100 tokens (--max-new-tokens)"),
    ],
)
def test_cut_off_says_what_the_answer_met(reason: pb.FinishReason.ValueType, context_len: int, told: str) -> None:
    assert cut_off(pb.Finish(reason=reason, usage=USAGE), PairSize(1, 2, context_len)) == told
