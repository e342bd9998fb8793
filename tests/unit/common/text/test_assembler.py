from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from services.common.text.assembler import TextAssembler

EOS = "<|eos|>"
TEXT = "The year 2024 was — naïve 漢字 かな 한글 😀👩‍👩‍👧 e\u0301 x\n\n"


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def decode(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=True)
    assert isinstance(text, str)
    return text


def make_byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as in the pairs: most characters outside ASCII are split over tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 10, trainer)
    return wrap(tokenizer)


def make_byte_fallback() -> PreTrainedTokenizerFast:
    """Words with a leading-space mark, and single bytes for what isn't in the vocabulary."""
    pieces = [EOS, "▁", "a", "b", "▁a", "ab", "▁ab", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("a", "b"), ("▁", "ab")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([EOS])
    return wrap(tokenizer)


BYTE_LEVEL = make_byte_level()
BYTE_FALLBACK = make_byte_fallback()

texts = st.text(st.one_of(st.sampled_from(TEXT), st.characters(codec="utf-8")), max_size=40)
token_ids = st.lists(st.integers(0, len(BYTE_LEVEL) + 3), max_size=60)
stops = st.lists(st.text("ab漢😀\u0301\ufffd ", min_size=1, max_size=4), min_size=1, max_size=4)
stop_texts = st.text("ab漢😀\u0301 ", max_size=40)


def assemble(
    tokenizer: PreTrainedTokenizerFast, ids: Sequence[int], stop: Sequence[str] = ()
) -> tuple[str, str | None]:
    """The whole text, and the stop string that ended it."""
    assembler = TextAssembler(tokenizer, stop)
    text = ""
    for token_id in ids:
        delta = assembler.push(token_id)
        text += delta.text
        if delta.stop is not None:
            assert assembler.finish() == ""
            return text, delta.stop
    return text + assembler.finish(), None


def cut_at_first_stop(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Reads character by character until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, None


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@settings(deadline=None)
@given(text=texts)
@example(text="€€€€€€€€€€")
@example(text="😀" * 12)
def test_deltas_of_encoded_text_join_to_the_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)

    assert assemble(tokenizer, ids)[0] == decode(tokenizer, ids)


@settings(deadline=None)
@given(ids=token_ids)
def test_deltas_of_any_tokens_join_to_the_decoded_text(ids: list[int]) -> None:
    assert assemble(BYTE_LEVEL, ids)[0] == decode(BYTE_LEVEL, ids)


@settings(deadline=None)
@given(data=st.binary(max_size=60))
@example(data=b"\xff" * 40 + "😀".encode())
@example(data=b"\xf0\x9f\x98" * 15 + b"\x80")
@example(data=b"a" + b"\x80" * 30 + b"a")
def test_deltas_of_any_bytes_join_to_the_decoded_text(data: bytes) -> None:
    alphabet = byte_alphabet()
    ids = [BYTE_LEVEL.get_vocab()[alphabet[byte]] for byte in data]

    assert assemble(BYTE_LEVEL, ids)[0] == data.decode(errors="replace")


def byte_alphabet() -> dict[int, str]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@settings(deadline=None)
@given(text=texts)
def test_no_delta_ends_inside_a_character(text: str) -> None:
    assembler = TextAssembler(BYTE_LEVEL)
    so_far = ""
    for token_id in BYTE_LEVEL.encode(text, add_special_tokens=False):
        so_far += assembler.push(token_id).text
        assert text.startswith(so_far)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@settings(deadline=None)
@given(text=stop_texts, stop=stops)
def test_text_is_cut_before_the_stop_string_that_is_complete_first(
    tokenizer: PreTrainedTokenizerFast, text: str, stop: list[str]
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)

    assert assemble(tokenizer, ids, stop) == cut_at_first_stop(decode(tokenizer, ids), stop)


@settings(deadline=None)
@given(ids=token_ids, stop=stops)
def test_text_of_any_tokens_with_stop_strings_grows_towards_the_cut_text(ids: list[int], stop: list[str]) -> None:
    whole, _ = cut_at_first_stop(decode(BYTE_LEVEL, ids), stop)
    assembler = TextAssembler(BYTE_LEVEL, stop)
    so_far = ""
    for token_id in ids:
        so_far += assembler.push(token_id).text
        assert whole.startswith(so_far)

    assert so_far + assembler.finish() == whole


def test_text_that_cannot_begin_a_stop_string_is_given_out_at_once() -> None:
    assembler = TextAssembler(BYTE_LEVEL, ["bbc"])
    ids = BYTE_LEVEL.encode("abbxbb", add_special_tokens=False)
    assert len(ids) == 6

    assert [assembler.push(token_id).text for token_id in ids] == ["a", "", "", "bbx", "", ""]
    assert assembler.finish() == "bb"


def test_tokens_after_a_stop_string_add_nothing() -> None:
    assembler = TextAssembler(BYTE_LEVEL, ["b"])
    a, b = BYTE_LEVEL.encode("ab", add_special_tokens=False)

    assert [tuple(assembler.push(token_id)) for token_id in (a, b, a)] == [("a", None), ("", "b"), ("", None)]
    assert assembler.finish() == ""


def test_special_token_is_text_only_on_request() -> None:
    eos = BYTE_LEVEL.eos_token_id
    (a,) = BYTE_LEVEL.encode("a", add_special_tokens=False)

    assert assemble(BYTE_LEVEL, [a, eos, a]) == ("aa", None)
    with_special = TextAssembler(BYTE_LEVEL, skip_special_tokens=False)
    assert "".join(with_special.push(token_id).text for token_id in (a, eos, a)) == f"a{EOS}a"
