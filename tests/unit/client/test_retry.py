from __future__ import annotations

import random

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trivium.v1 import orchestrator_pb2 as pb

from services.client.errors import CallFailed
from services.client.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, Retries

CODE = grpc.StatusCode
LOST = CallFailed(CODE.UNAVAILABLE, "connection reset")
FULL = CallFailed(CODE.RESOURCE_EXHAUSTED, "max_calls", retry_after_s=1.0, kind="CapacityExceeded")


def retries(**options: object) -> Retries:
    return Retries(30.0, random.Random(0), **options)  # type: ignore[arg-type]


@given(retry_s=st.floats(0.1, 100), seed=st.integers(0, 2**32), attempt_s=st.floats(0, 3))
def test_failures_in_a_row_are_given_up_once_retry_s_is_over_and_not_before(
    retry_s: float, seed: int, attempt_s: float
) -> None:
    policy = Retries(retry_s, random.Random(seed))
    now, first, num_pauses = 0.0, None, 0
    while True:
        began, now = now, now + min(attempt_s, 0.9 * retry_s)
        first = now if first is None else first
        pause_s = policy.pause_after(LOST, began=began, now=now)
        if pause_s is None:
            break
        assert 0 <= pause_s <= min(FIRST_PAUSE_S * 2**num_pauses, LONGEST_PAUSE_S)
        num_pauses += 1
        now += pause_s
        assert now - first <= retry_s
    assert now - first >= retry_s - LONGEST_PAUSE_S or attempt_s > 0


@given(seed=st.integers(0, 2**32))
def test_progress_starts_the_time_and_the_pauses_anew(seed: int) -> None:
    policy = Retries(30.0, random.Random(seed))
    for now in range(0, 1000, 10):
        pause_s = policy.pause_after(LOST, began=now, now=now)
        assert pause_s is not None
        assert pause_s <= FIRST_PAUSE_S
        policy.progressed()


def test_attempt_that_held_for_long_counts_as_a_good_connection() -> None:
    policy = retries()
    assert policy.pause_after(LOST, began=0, now=1) is not None
    assert policy.pause_after(LOST, began=1, now=50) is not None
    assert policy.pause_after(LOST, began=50, now=79) is not None
    assert policy.pause_after(LOST, began=79, now=90) is None


def test_full_orchestrator_is_the_callers_to_judge_before_a_request_has_run_and_passes_afterwards() -> None:
    assert retries().pause_after(FULL, began=0, now=0) is None
    pause_s = retries(has_begun=True).pause_after(FULL, began=0, now=0)
    assert pause_s is not None
    assert 1.0 <= pause_s <= 1.0 + FIRST_PAUSE_S
    streamed = retries()
    streamed.progressed()
    assert streamed.pause_after(FULL, began=0, now=0) is not None
    lost = retries()
    lost.pause_after(LOST, began=0, now=0)
    assert lost.pause_after(FULL, began=1, now=1) is not None
    refused = retries()
    refused.pause_after(CallFailed(CODE.UNAVAILABLE, "is about to stop", kind="Draining"), began=0, now=0)
    assert refused.pause_after(FULL, began=1, now=1) is None


def test_message_that_is_too_large_for_a_connection_does_not_pass() -> None:
    # gRPC itself says RESOURCE_EXHAUSTED then, and nothing of another time.
    assert retries(has_begun=True).pause_after(CallFailed(CODE.RESOURCE_EXHAUSTED, "larger"), began=0, now=0) is None


@pytest.mark.parametrize("code", [code for code in CODE if code not in (CODE.UNAVAILABLE, CODE.CANCELLED)])
def test_other_failures_never_pass(code: grpc.StatusCode) -> None:
    assert retries(has_begun=True).pause_after(CallFailed(code, "no"), began=0, now=0) is None


def test_cancelled_passes_only_where_nobody_cancelled() -> None:
    assert retries().pause_after(CallFailed(CODE.CANCELLED, "CANCELLED"), began=0, now=0) is not None
    assert retries().pause_after(CallFailed(CODE.CANCELLED, "was", kind="Cancelled"), began=0, now=0) is None


@pytest.mark.parametrize(("policy", "passes"), [(pb.LLM_LOSS_POLICY_FAIL, False), (pb.LLM_LOSS_POLICY_WAIT, True)])
def test_lost_llm_passes_unless_the_request_is_to_fail(policy: pb.LlmLossPolicy.ValueType, passes: bool) -> None:
    gone = CallFailed(CODE.UNAVAILABLE, "llm: no replica for 10 s", kind="PeerUnavailable")
    assert (retries(loss_policy=policy).pause_after(gone, began=0, now=0) is not None) == passes
    assert retries(loss_policy=policy).pause_after(LOST, began=0, now=0) is not None
