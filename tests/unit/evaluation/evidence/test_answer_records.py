import pytest
from transformers import PreTrainedTokenizerFast

from evaluation.decoding.response import RoutedResponse
from evaluation.evidence.answer_records import answer_table
from evaluation.records.run_records import RECORDS_SCHEMA
from evaluation.reference.corpus.samples import draw_sample
from evaluation.reference.pair import WEIGHTS_DIR, load_tokenizer
from labeler_jobs.models.huggingface import decode_text


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(WEIGHTS_DIR / "slm")


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    token_ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return token_ids


def test_answer_table_describes_right_and_wrong_answers(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = draw_sample(3)
    right = [*encode(tokenizer, sample.response), tokenizer.eos_token_id]
    wrong = encode(tokenizer, "<think>\nIt is 1.")
    responses = [RoutedResponse(ids, [at in (2, 5) for at in range(len(ids))]) for ids in (right, wrong)]
    table = answer_table(tokenizer, [sample, sample], [[1, 2], [1, 2]], responses, "routed")
    first, second = table.to_pylist()
    assert table.schema == RECORDS_SCHEMA
    assert (first["correct"], first["finished"], second["correct"], second["finished"]) == (True, True, False, False)
    assert first["llm_positions"] == [2, 5]
    assert decode_text(tokenizer, right[: first["think_len"]]).endswith("</think>")
    assert second["think_len"] is None


def test_answer_table_of_one_model_alone_names_it_and_no_positions(tokenizer: PreTrainedTokenizerFast) -> None:
    sample = draw_sample(4)
    token_ids = encode(tokenizer, sample.response)
    response = RoutedResponse(token_ids, [True] * len(token_ids))
    (row,) = answer_table(tokenizer, [sample], [[1]], [response], "llm").to_pylist()
    assert (row["model"], row["llm_positions"], row["finished"]) == ("llm", [], False)


def test_answer_table_thoughts_start_at_the_beginning_and_at_double_checks(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    before, check = "<think>\nThe wait is 4.\n", "Wait, let me double-check: 1 plus 1 is 2.\n</think>\nDone."
    token_ids = encode(tokenizer, before + check)
    (row,) = answer_table(tokenizer, [draw_sample(4)], [[1]], [RoutedResponse(token_ids)], "slm").to_pylist()
    first, second = row["thought_starts"]
    assert first == 0
    assert decode_text(tokenizer, token_ids[second:]).lstrip("\n").startswith("Wait, let me")
