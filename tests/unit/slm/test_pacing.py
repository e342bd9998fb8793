import numpy as np
import pytest

from services.engines.base import DraftStep, Opened
from services.slm.pacing import DraftPacer, join_steps

STOP = 2
SURE = 9.0
"""How far the largest logit is above the others, for a draft that may be held."""


def step(
    *rows: tuple[int, int, int], opened: tuple[Opened, ...] = (), num_waiting: int = 0, lead: float = SURE
) -> DraftStep:
    """Rows of (sequence_id, position, token_id); in the last one, the largest logit is `lead` above the others."""
    top_logits = np.full((len(rows), 100), len(rows), np.float32)
    top_logits[:, 0] += SURE
    top_logits[-1, 0] = len(rows) + lead
    return DraftStep(
        sequence_ids=[row[0] for row in rows],
        positions=[row[1] for row in rows],
        epochs=[1] * len(rows),
        token_ids=[row[2] for row in rows],
        hidden_states=np.full((len(rows), 3), len(rows), np.float32),
        top_logits=top_logits,
        opened=list(opened),
        num_waiting_sequences=num_waiting,
    )


@pytest.fixture
def pacer() -> DraftPacer:
    pacer = DraftPacer(hold_s=0.002)
    pacer.opened(7, 8, 10, frozenset({STOP}))
    pacer.opened(8, 8, 20, frozenset({STOP}))
    return pacer


def test_drafts_inside_their_windows_may_be_held(pacer: DraftPacer) -> None:
    assert pacer.drafted(step((7, 8, 5), (8, 8, 5)), 0.001)


def test_last_draft_of_a_window_is_never_held(pacer: DraftPacer) -> None:
    assert not pacer.drafted(step((7, 9, 5), (8, 8, 5)), 0.001)


def test_stop_token_is_never_held(pacer: DraftPacer) -> None:
    assert not pacer.drafted(step((7, 8, STOP)), 0.001)


def test_draft_that_the_model_is_not_sure_of_is_never_held(pacer: DraftPacer) -> None:
    # A lead of 6.8 over 99 others is a share of 90.07%, one of 6.7 a share of 89.1%.
    assert pacer.drafted(step((7, 8, 5), (8, 8, 5), lead=6.8), 0.001)
    assert not pacer.drafted(step((7, 8, 5), (8, 8, 5), lead=6.7), 0.001)


def test_step_that_takes_longer_than_the_hold_is_sent_at_once(pacer: DraftPacer) -> None:
    assert not pacer.drafted(step((7, 8, 5)), 0.003)


def test_news_of_opened_or_waiting_sequences_are_sent_at_once(pacer: DraftPacer) -> None:
    assert not pacer.drafted(step((7, 8, 5), opened=(Opened(7, 0, 5),)), 0.001)
    assert not pacer.drafted(step((7, 8, 5), num_waiting=1), 0.001)


def test_moved_window_counts_from_then_on(pacer: DraftPacer) -> None:
    pacer.granted(7, 12)
    assert pacer.drafted(step((7, 9, 5)), 0.001)
    assert not pacer.drafted(step((7, 11, 5)), 0.001)


def test_closed_sequence_holds_nobody_up(pacer: DraftPacer) -> None:
    pacer.closed(7)
    pacer.closed(99)
    assert pacer.drafted(step((7, 9, 5)), 0.001)


def test_num_drafting_counts_sequences_until_their_window_ends(pacer: DraftPacer) -> None:
    assert pacer.num_drafting == 2
    pacer.drafted(step((7, 8, 5), (8, 8, 5)), 0.001)
    assert pacer.num_drafting == 2
    pacer.drafted(step((7, 9, 5), (8, 9, 5)), 0.001)
    assert pacer.num_drafting == 1
    pacer.granted(7, 11)
    assert pacer.num_drafting == 2
    pacer.closed(8)
    pacer.closed(8)
    assert pacer.num_drafting == 1
    assert pacer.num_drafts == 4


def test_num_drafting_stop_token_pauses_until_a_rewind(pacer: DraftPacer) -> None:
    pacer.drafted(step((7, 8, STOP)), 0.001)
    pacer.granted(7, 15)
    assert pacer.num_drafting == 1
    pacer.rewound(7, 8, 9, 15)
    assert pacer.num_drafting == 2
    pacer.drafted(step((7, 14, 5)), 0.001)
    pacer.rewound(7, 15, 15, 15)
    assert pacer.num_drafting == 1


def test_sequence_opened_with_a_closed_window_drafts_once_it_is_granted(pacer: DraftPacer) -> None:
    pacer.opened(9, 4, 4, frozenset())
    assert pacer.num_drafting == 2
    pacer.granted(9, 5)
    assert pacer.num_drafting == 3


def test_rewind_counts_the_drafts_that_it_drops(pacer: DraftPacer) -> None:
    pacer.drafted(step((7, 8, 5)), 0.001)
    pacer.drafted(step((7, 9, 5)), 0.001)
    pacer.rewound(7, 9, 10, 12)
    assert (pacer.num_drafts, pacer.num_drafts_rewound) == (2, 1)
    pacer.drafted(step((7, 10, 5)), 0.001)
    pacer.rewound(7, 8, 8, 12)
    assert (pacer.num_drafts, pacer.num_drafts_rewound) == (3, 4)


def test_join_steps_keeps_rows_and_their_order() -> None:
    joined = join_steps([step((7, 8, 5), (8, 8, 6)), step((7, 9, 4))])
    assert list(zip(joined.sequence_ids, joined.positions, joined.token_ids, strict=True)) == [
        (7, 8, 5),
        (8, 8, 6),
        (7, 9, 4),
    ]
    assert joined.hidden_states[:, 0].tolist() == [2, 2, 1]
    assert joined.top_logits.shape == (3, 100)
