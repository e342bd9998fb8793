import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.models.huggingface import decode_text
from labeler_jobs.text.response_text import ResponseText
from services.common.text.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer(str(WEIGHTS_DIR / "llm"))


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=40), st.text(max_size=20), st.data())
def test_branch_says_what_the_whole_of_its_tokens_says(text: str, other: str, data: st.DataObject) -> None:
    token_ids, other_ids = TOKENIZER.encode(text), TOKENIZER.encode(other)
    response = ResponseText(TOKENIZER, token_ids)
    assert response.text == TOKENIZER.decode(token_ids)
    position = data.draw(st.integers(0, len(token_ids)))
    branch = response.branch(position)
    for token_id in other_ids:
        branch.push(token_id)
    whole = response.text[: response.prefix_len(position)] + branch.text
    expected = decode_text(TOKENIZER, [*token_ids[:position], *other_ids])
    # What may still become a character is held back.
    assert expected.startswith(whole)
    assert set(expected[len(whole) :]) <= {"\ufffd"}


@pytest.mark.parametrize(
    ("response", "position_text", "branch", "ends"),
    [
        ("So 2 plus 3 is 5. Then 6.", "So 2 plus 3 is 5.", " Now", False),
        ("So 2 plus 3 is 5. Then 6.", "So 2 plus 3 is 5.", " Now it is 7. And", True),
        ("So 2 plus 3 is 5. Then 6.", "So 2 plus 3", " is 6", False),
        ("So 2 plus 3 is 5. Then 6.", "So 2 plus 3", " is 6.", False),
        ("So 2 plus 3 is 5. Then 6.", "So 2 plus 3", " is 6. The", True),
        ("So 2 plus 3\nis 5.", "So 2 plus 3", "\n", True),
    ],
)
def test_branch_tells_when_its_sentence_ends(response: str, position_text: str, branch: str, ends: bool) -> None:
    token_ids = TOKENIZER.encode(response)
    position = len(TOKENIZER.encode(position_text))
    assert TOKENIZER.decode(token_ids[:position]) == position_text
    started = ResponseText(TOKENIZER, token_ids).branch(position)
    for token_id in TOKENIZER.encode(branch):
        started.push(token_id)
    assert started.ends_sentence == ends
