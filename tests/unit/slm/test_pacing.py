import numpy as np
import pytest

from services.engines.base import DraftStep, Opened
from services.slm.pacing import DraftPacer, join_steps

STOP = 2


def step(*rows: tuple[int, int, int], opened: tuple[Opened, ...] = (), num_waiting: int = 0) -> DraftStep:
    """Rows of (sequence_id, position, token_id)."""
    return DraftStep(
        sequence_ids=[row[0] for row in rows],
        positions=[row[1] for row in rows],
        epochs=[1] * len(rows),
        token_ids=[row[2] for row in rows],
        hidden_states=np.full((len(rows), 3), len(rows), np.float32),
        top_logits=np.full((len(rows), 100), len(rows), np.float32),
        opened=list(opened),
        num_waiting_sequences=num_waiting,
    )


@pytest.fixture
def pacer() -> DraftPacer:
    pacer = DraftPacer(hold_s=0.002)
    pacer.opened(7, 10, frozenset({STOP}))
    pacer.opened(8, 20, frozenset({STOP}))
    return pacer


def test_drafts_inside_their_windows_may_be_held(pacer: DraftPacer) -> None:
    assert pacer.may_hold(step((7, 8, 5), (8, 8, 5)), 0.001)


def test_last_draft_of_a_window_is_never_held(pacer: DraftPacer) -> None:
    assert not pacer.may_hold(step((7, 9, 5), (8, 8, 5)), 0.001)


def test_stop_token_is_never_held(pacer: DraftPacer) -> None:
    assert not pacer.may_hold(step((7, 8, STOP)), 0.001)


def test_step_that_takes_longer_than_the_hold_is_sent_at_once(pacer: DraftPacer) -> None:
    assert not pacer.may_hold(step((7, 8, 5)), 0.003)


def test_news_of_opened_or_waiting_sequences_are_sent_at_once(pacer: DraftPacer) -> None:
    assert not pacer.may_hold(step((7, 8, 5), opened=(Opened(7, 0, 5),)), 0.001)
    assert not pacer.may_hold(step((7, 8, 5), num_waiting=1), 0.001)


def test_moved_window_counts_from_then_on(pacer: DraftPacer) -> None:
    pacer.moved(7, 12)
    assert pacer.may_hold(step((7, 9, 5)), 0.001)
    assert not pacer.may_hold(step((7, 11, 5)), 0.001)


def test_closed_sequence_holds_nobody_up(pacer: DraftPacer) -> None:
    pacer.closed(7)
    pacer.closed(99)
    assert pacer.may_hold(step((7, 9, 5)), 0.001)


def test_join_steps_keeps_rows_and_their_order() -> None:
    joined = join_steps([step((7, 8, 5), (8, 8, 6)), step((7, 9, 4))])
    assert list(zip(joined.sequence_ids, joined.positions, joined.token_ids, strict=True)) == [
        (7, 8, 5),
        (8, 8, 6),
        (7, 9, 4),
    ]
    assert joined.hidden_states[:, 0].tolist() == [2, 2, 1]
    assert joined.top_logits.shape == (3, 100)
