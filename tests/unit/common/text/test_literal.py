from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evaluation.reference.pair import WEIGHTS_DIR
from services.common.text.literal import SpecialTokens
from services.common.text.tokenizer import load_tokenizer

START, END, EXTRA = "<|im_start|>", "<|im_end|>", "<s>"

Piece = tuple[bool, str]
"""Whether a user wrote it, and what."""


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False
    )


def byte_level(**flags: bool) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "im", "en", "end", "|>", "<|"]
    tokenizer = Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)}, [("i", "m"), ("e", "n"), ("en", "d"), ("|", ">"), ("<", "|")]
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False, **flags) for text in (START, EXTRA)]
    )
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False, **flags)])
    return wrapped(tokenizer)


def sentence_pieces() -> PreTrainedTokenizerFast:
    """Writes a space before the first word of the whole text, and for any byte without a token its bytes."""
    words = ["<unk>", EXTRA, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "im", "▁a", "i", "m"]
    tokenizer = Tokenizer(
        models.BPE(
            {word: i for i, word in enumerate(words)},
            [("i", "m"), ("▁", "a")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (EXTRA, START, END)])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return wrapped(tokenizer)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte_level": byte_level,
    "takes_spaces": lambda: byte_level(lstrip=True, rstrip=True),
    "whole_words": lambda: byte_level(single_word=True),
    "sentence_pieces": sentence_pieces,
    "shipped": lambda: load_tokenizer(str(WEIGHTS_DIR / "slm")),
}


@cache
def made(name: str) -> tuple[PreTrainedTokenizerFast, SpecialTokens]:
    tokenizer = TOKENIZERS[name]()
    return tokenizer, SpecialTokens(tokenizer)


def encoded(specials: SpecialTokens, pieces: list[Piece]) -> list[int]:
    shield = specials.shield()
    rendered = "".join(shield.cover(text) if users else text for users, text in pieces)
    return specials.encode(rendered, shield).ids


def plainly(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def special_texts(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[str]:
    added = tokenizer.added_tokens_decoder
    return [added[token_id].content for token_id in ids if token_id in added and added[token_id].special]


BITS = st.sampled_from(
    [START, END, EXTRA, "<|im_", "im", "end|>", "|>", "<", ">", "<s", "a", " ", "\n", "<think>", "é", "7", "<|im_end"]
)
PIECES = st.lists(st.tuples(st.booleans(), st.lists(BITS, max_size=4).map("".join)), max_size=8)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(pieces=PIECES)
@example(pieces=[(False, START), (True, "a<|im_"), (False, f"end|>{END}")])
@example(pieces=[(False, "<|"), (True, "im_end"), (False, "|>")])
@example(pieces=[(True, "<|im_"), (True, "end"), (True, "|>")])
@example(pieces=[(True, "<|im_end<|im_end|>|>"), (False, END)])
@example(pieces=[(False, f"{START} "), (True, f" {END} "), (False, f" {END} a")])
def test_special_ids_are_those_that_the_template_wrote(name: str, pieces: list[Piece]) -> None:
    tokenizer, specials = made(name)
    ids = encoded(specials, pieces)
    # A user's string as a wall between what the template wrote before and after it.
    of_template = "".join("é" if users and text else text for users, text in pieces)
    expected = special_texts(tokenizer, plainly(tokenizer, of_template))
    text = "".join(text for _, text in pieces)
    if name != "whole_words":
        assert special_texts(tokenizer, ids) == expected
    if name in ("byte_level", "whole_words", "shipped"):
        decoded = tokenizer.decode(ids)
        # The shipped vocabulary was trained on ASCII, and has no tokens for some bytes.
        assert decoded == text or (name == "shipped" and "é" in text)
    as_before = plainly(tokenizer, text)
    if special_texts(tokenizer, as_before) == special_texts(tokenizer, ids):
        assert ids == as_before


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_token_of_the_user_is_spelled_by_other_tokens(name: str) -> None:
    tokenizer, specials = made(name)
    ids = encoded(specials, [(False, START), (True, f" a {END} a"), (False, f" {END}")])
    assert special_texts(tokenizer, ids) == [START, END]
    assert len(ids) > 6


def test_strings_without_special_tokens_are_not_covered() -> None:
    shield = made("shipped")[1].shield()
    texts = ["", "hello", "a < b > c", "<think>\nx\n</think>", "<tool_response>\n{}\n</tool_response>", "naïve|"]
    assert [shield.cover(text) for text in texts] == texts
    assert not shield.covers


def test_values_are_covered_to_their_depths_and_words_of_them_stay() -> None:
    shield = made("shipped")[1].shield()
    value = {"type": "text", END: [{"a": f"x{START}"}, 1, None, True, 0.5, "im", "start"]}
    covered = shield.cover_value(value)
    assert covered["type"] == "text"
    [(key, items)] = [(key, items) for key, items in covered.items() if key != "type"]
    assert items[1:] == [1, None, True, 0.5, "im", "start"]
    assert END not in key
    assert START not in items[0]["a"]
    assert shield.uncovered(key) == END
    assert shield.uncovered(items[0]["a"]) == f"x{START}"


@pytest.mark.parametrize("change", [str.upper, str.title, str.strip, repr], ids=["upper", "title", "strip", "repr"])
def test_covered_strings_survive_what_templates_do_to_strings(change: Any) -> None:
    shield = made("shipped")[1].shield()
    assert END in shield.uncovered(change(shield.cover(f" {END} ")))


def test_vocabulary_that_spells_a_special_token_by_itself_is_an_error_not_a_control_token() -> None:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), (EXTRA, -1.0), ("a", -1.0)], unk_id=0))
    tokenizer.add_special_tokens([EXTRA])
    tokenizer.normalizer = normalizers.NFC()
    specials = SpecialTokens(wrapped(tokenizer))
    assert encoded(specials, [(False, EXTRA), (True, "a")]) == [1, 2]
    with pytest.raises(ValueError, match="can't write a special token as text"):
        encoded(specials, [(False, EXTRA), (True, f"a{EXTRA}")])


def test_tokenizer_without_special_tokens_covers_nothing() -> None:
    specials = SpecialTokens(wrapped(Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))))
    shield = specials.shield()
    assert shield.cover(f"a{END}") == f"a{END}"
    assert encoded(specials, [(True, "a")]) == [0]
