from labeler_jobs.models.huggingface import length_batches, pad_left


def test_pad_left_aligns_sequences_at_their_end() -> None:
    token_ids, mask = pad_left([[5, 6, 7], [8]], pad_token_id=0)
    assert token_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_length_batches_hold_every_row_once_shortest_first() -> None:
    assert length_batches([5, 1, 3, 2, 4], batch_size=2) == [[1, 3], [2, 4], [0]]
