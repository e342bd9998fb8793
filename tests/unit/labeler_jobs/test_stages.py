import pytest
import torch

from labeler_jobs.continuation import Fork, continue_sentences
from labeler_jobs.dataset import count_labels, join_labels
from labeler_jobs.models import length_batches, output_logits, pad_left
from labeler_jobs.prefill import prefill_responses
from labeler_jobs.responses import generate_greedy, is_complete
from labeler_jobs.sentence import sentence_end
from labeler_jobs.verify import Label
from tests.unit.labeler_jobs.tiny import EOS, PAD, make_model, make_tokenizer

PROMPTS = [[2, 3, 4], [5, 6], [7, 8, 9, 2, 3], [4]]


def test_generate_greedy_batched_equals_one_by_one() -> None:
    llm = make_model(seed=1)
    together = generate_greedy(llm, PROMPTS, max_new_tokens=12)
    assert together == [generate_greedy(llm, [prompt], max_new_tokens=12)[0] for prompt in PROMPTS]


def test_generate_greedy_response_ends_at_its_first_eos() -> None:
    for response in generate_greedy(make_model(seed=1), PROMPTS, max_new_tokens=12):
        assert EOS not in response[:-1]
        assert is_complete(response, EOS) == (len(response) < 12 or response[-1] == EOS)


def test_prefill_finds_what_the_slm_predicts_at_every_position() -> None:
    llm, slm = make_model(seed=1), make_model(seed=2)
    responses = generate_greedy(llm, PROMPTS, max_new_tokens=8)
    for prompt, response, result in zip(
        PROMPTS, responses, prefill_responses(slm, PROMPTS, responses, num_top_logits=4), strict=True
    ):
        for position in range(len(response)):
            prefix = torch.tensor([prompt + response[:position]])
            with torch.inference_mode():
                output = slm(prefix, output_hidden_states=True)
            expected = int(output.logits[0, -1].argmax())
            assert int(result.slm_token_ids[position]) == expected
            assert bool(result.different[position]) == (expected != response[position])
            torch.testing.assert_close(result.hidden_state[position], output.hidden_states[-1][0, -1])
            torch.testing.assert_close(result.top_logits[position], output.logits[0, -1].topk(4).values)


def test_prefill_hidden_state_is_what_the_logits_come_from() -> None:
    slm = make_model(seed=2)
    result = prefill_responses(slm, [[2, 3]], [[4, 5, 1]], num_top_logits=1)[0]
    with torch.inference_mode():
        logits = output_logits(slm, result.hidden_state)
    assert torch.equal(logits.argmax(dim=-1), result.slm_token_ids)


def test_prefill_pads_top_logits_of_a_small_vocabulary() -> None:
    result = prefill_responses(make_model(seed=2), [[2]], [[3]], num_top_logits=100)[0]
    assert result.top_logits.shape == (1, 100)
    assert torch.isfinite(result.top_logits).all()


def test_continue_sentences_stops_once_the_sentence_has_ended() -> None:
    llm, tokenizer = make_model(seed=5), make_tokenizer()
    forks = [Fork(prompt, [2], token) for prompt in PROMPTS for token in range(2, 10)]
    written = continue_sentences(llm, tokenizer, forks, max_new_tokens=20)
    ended = 0
    for fork, continuation in zip(forks, written, strict=True):
        text = str(tokenizer.decode([fork.slm_token_id, *continuation[:-1]]))
        assert sentence_end(text) is None
        ended += sentence_end(str(tokenizer.decode([fork.slm_token_id, *continuation]))) is not None
        assert PAD not in continuation
        assert EOS not in continuation
    assert ended > 0


def test_continue_sentences_fork_that_is_eos_is_not_continued() -> None:
    assert continue_sentences(make_model(seed=5), make_tokenizer(), [Fork([2], [3], EOS)]) == [[]]


def test_join_labels_marks_only_divergent_rows() -> None:
    slm = make_model(seed=2)
    prefilled = prefill_responses(slm, [[2, 3], [4]], [[4, 5, 6, 7], [8, 9, 1]], num_top_logits=3)
    places = [
        (row, at) for row, result in enumerate(prefilled) for at in result.different.nonzero().flatten().tolist()
    ]
    labels = {place: Label.DIVERGENT if index % 2 else Label.NEUTRAL for index, place in enumerate(places)}
    data, joined = join_labels(prefilled, labels)
    assert len(data) == 7
    assert int(data.divergent.sum()) == sum(label == Label.DIVERGENT for label in labels.values())
    statistics = count_labels(2, joined)
    assert statistics.num_different == len(places)
    assert statistics.as_dict()["different_rate"] == len(places) / 7


def test_join_labels_differing_position_without_label_is_refused() -> None:
    prefilled = prefill_responses(make_model(seed=2), [[2, 3]], [[4, 5, 6, 7]], num_top_logits=3)
    assert prefilled[0].different.any()
    with pytest.raises(ValueError, match="has no label"):
        join_labels(prefilled, {})


def test_pad_left_aligns_sequences_at_their_end() -> None:
    token_ids, mask = pad_left([[5, 6, 7], [8]], pad_token_id=0)
    assert token_ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_length_batches_hold_every_row_once_shortest_first() -> None:
    assert length_batches([5, 1, 3, 2, 4], batch_size=2) == [[1, 3], [2, 4], [0]]
