from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.common.errors import Cancelled
from services.common.text import TextAssembler
from services.orchestrator.replicas.link import Link
from services.orchestrator.requests.sequence import Progress, RunningSequence
from services.orchestrator.routing.actions import AcceptedToken, FinishReason, Source
from services.orchestrator.routing.depth import RunAhead
from tests.unit.orchestrator.cluster import EOS, make_task, make_tokenizer


def _sequence(**options: Any) -> RunningSequence:
    task = make_task(**options.pop("task", {}))
    assembler = TextAssembler(make_tokenizer(), task.stop)
    return RunningSequence(1, task, frozenset({EOS}), assembler, RunAhead(4), **options)


def _accepted(*token_ids: int) -> list[AcceptedToken]:
    return [AcceptedToken(token_id, Source.SLM, 0.0) for token_id in token_ids]


class _SlmLink(Link[Any, Any, Any]):
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, command: Any) -> None:
        self.sent.append(command)


def _draft_and_accept(sequence: RunningSequence, *token_ids: int) -> None:
    """Has the core accept the SLM's drafts."""
    if sequence.slm is None:
        sequence.slm = _SlmLink()
        sequence.apply(sequence.core.slm_ready())
    for token_id in token_ids:
        position = len(sequence.core.tokens)
        assert sequence.core.drafted(position, token_id, epoch=1)
        sequence.apply(sequence.core.scored(position, 0.0, epoch=1))


async def _collect(sequence: RunningSequence) -> list[Progress]:
    return [progress async for progress in sequence.progress(0)]


async def test_opening_carries_prefix_window_and_stop_tokens() -> None:
    sequence = _sequence()
    _draft_and_accept(sequence)
    assert isinstance(sequence.slm, _SlmLink)
    (command,) = sequence.slm.sent
    assert list(command.open.token_ids) == [5, 6, 7]
    assert command.open.draft_until == 3 + 1 + 4
    assert list(command.open.stop_token_ids) == [EOS]
    assert not command.open.HasField("sampling")


async def test_tokens_that_become_final_together_share_a_message() -> None:
    sequence = _sequence()
    _draft_and_accept(sequence, 8, 9, EOS)
    (progress,) = await _collect(sequence)
    assert [token.token_id for token in progress.tokens] == [8, 9, EOS]
    assert "".join(progress.texts) == "w8 w9"
    assert progress.finish_reason is FinishReason.STOP


async def test_resumed_sequence_sends_only_what_the_client_has_not_got() -> None:
    sequence = _sequence(task={"resume_from": 3, "request_id": "r"}, resumed=_accepted(8, 9))
    _draft_and_accept(sequence, 10, 11, EOS)
    (progress,) = await _collect(sequence)
    assert [token.token_id for token in progress.tokens] == [11, EOS]
    assert "".join(progress.texts) == " w11"
    assert [token.token_id for token in sequence.completion] == [8, 9, 10, 11, EOS]


async def test_resumed_sequence_that_was_over_ends_at_once() -> None:
    sequence = _sequence(task={"resume_from": 2, "request_id": "r"}, resumed=_accepted(8, 9, EOS))
    assert not sequence.running
    (progress,) = await _collect(sequence)
    assert [token.token_id for token in progress.tokens] == [EOS]
    assert progress.finish_reason is FinishReason.STOP


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
    (progress,) = await _collect(sequence)
    assert "".join(progress.texts) == "w8 "
    assert sequence.stop == "w9"
    assert progress.finish_reason is FinishReason.STOP
    assert len(sequence.completion) == 2
