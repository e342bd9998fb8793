from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import Cancelled, TriviumError
from services.common.text.assembler import TextAssembler
from services.orchestrator.routing.actions import AcceptedToken, Action, FinishReason, OpenSlm, Source
from services.orchestrator.routing.core import RoutingCore
from services.orchestrator.routing.depth import RunAhead
from services.orchestrator.sequences.answer import AnswerPart
from services.orchestrator.sequences.sequence import ReplicaAction, RunningSequence
from tests.unit.orchestrator.cluster import EOS, make_task, make_tokenizer


def _sequence(**options: Any) -> RunningSequence:
    task = make_task(**options.pop("task", {}))
    reader = TextAssembler(make_tokenizer(), task.stop)
    return RunningSequence(1, task, 0, frozenset({EOS}), reader, RunAhead(4), **options)


def _accepted(*token_ids: int) -> list[AcceptedToken]:
    return [AcceptedToken(token_id, Source.SLM, 0.0) for token_id in token_ids]


class _Seat:
    """Notes what a replica is told."""

    replica_id = "a"

    def __init__(self) -> None:
        self.told: list[ReplicaAction] = []

    def carry_out(self, action: ReplicaAction) -> None:
        self.told.append(action)


def _draft_and_accept(sequence: RunningSequence, *token_ids: int) -> None:
    """Has the core accept the SLM's drafts."""
    if sequence.slm is None:
        sequence.slm = _Seat()
        sequence.react(RoutingCore.slm_ready)
    for token_id in token_ids:
        position = len(sequence.core.tokens)
        assert sequence.core.drafted(position, token_id, epoch=1)
        sequence.react(RoutingCore.scored, position, 0.0, epoch=1)


async def _collect(sequence: RunningSequence) -> list[AnswerPart]:
    return [part async for part in sequence.answer.parts(0)]


def test_actions_for_the_slm_go_to_its_seat() -> None:
    sequence = _sequence()
    _draft_and_accept(sequence)
    assert isinstance(sequence.slm, _Seat)
    assert sequence.slm.told == [OpenSlm((5, 6, 7), 1, 3 + 1 + 4)]


async def test_tokens_that_become_final_together_share_a_message() -> None:
    sequence = _sequence()
    _draft_and_accept(sequence, 8, 9, EOS)
    (part,) = await _collect(sequence)
    assert [token.token_id for token in part.tokens] == [8, 9, EOS]
    assert "".join(part.texts) == "w8 w9"
    assert part.finish is not None
    assert part.finish.reason is FinishReason.STOP
    assert sequence.counts.num_tokens_accepted == 3


async def test_resumed_sequence_sends_only_what_the_client_has_not_got_and_counts_only_what_is_new() -> None:
    sequence = _sequence(task={"resume_from": 3, "request_id": "r"}, resumed=_accepted(8, 9))
    _draft_and_accept(sequence, 10, 11, EOS)
    (part,) = await _collect(sequence)
    assert [token.token_id for token in part.tokens] == [11, EOS]
    assert "".join(part.texts) == " w11"
    assert [token.token_id for token in sequence.completion] == [8, 9, 10, 11, EOS]
    assert sequence.counts.num_tokens_accepted == 3


async def test_resumed_sequence_that_was_over_ends_at_once() -> None:
    sequence = _sequence(task={"resume_from": 2, "request_id": "r"}, resumed=_accepted(8, 9, EOS))
    assert not sequence.running
    (part,) = await _collect(sequence)
    assert [token.token_id for token in part.tokens] == [EOS]
    assert part.finish is not None


async def test_failure_ends_the_stream_and_tells_the_driver() -> None:
    ended: list[RunningSequence] = []
    sequence = _sequence(on_end=ended.append)
    reading = asyncio.create_task(_collect(sequence))
    await asyncio.sleep(0)
    sequence.fail(Cancelled("first"))
    sequence.fail(Cancelled("second"))
    with pytest.raises(Cancelled, match="first"):
        await reading
    assert not sequence.running
    assert ended[0] is sequence


async def test_finish_tells_the_driver_before_anyone_reads() -> None:
    ended: list[RunningSequence] = []
    sequence = _sequence(on_end=ended.append)
    _draft_and_accept(sequence, 8, EOS)
    assert ended == [sequence]


async def test_stop_string_is_cut_and_named() -> None:
    sequence = _sequence(task={"stop": ("w9",)})
    _draft_and_accept(sequence, 8, 9)
    (part,) = await _collect(sequence)
    assert "".join(part.texts) == "w8 "
    assert part.finish is not None
    assert part.finish.stop == "w9"


async def test_held_text_comes_with_the_end() -> None:
    sequence = _sequence(task={"stop": ("w9x",), "max_new_tokens": 2})
    _draft_and_accept(sequence, 8, 9)
    parts = await _collect(sequence)
    assert "".join("".join(part.texts) for part in parts) == "w8 w9"


async def test_defect_fails_the_sequence_with_a_generic_error_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[RunningSequence] = []
    sequence = _sequence(on_end=ended.append)

    def defective_event(core: RoutingCore) -> list[Action]:
        raise KeyError("a defect")

    sequence.react(defective_event)
    with pytest.raises(TriviumError, match=r"^internal error$"):
        await _collect(sequence)
    assert ended == [sequence]
    assert [record.message for record in caplog.records] == ["sequence failed in defective_event"]


def test_event_after_the_end_does_not_reach_the_core() -> None:
    sequence = _sequence()
    sequence.fail(Cancelled("over"))
    sequence.slm = _Seat()
    sequence.react(RoutingCore.slm_ready)
    assert sequence.slm.told == []
