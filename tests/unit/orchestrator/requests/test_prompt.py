from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2

from evaluation.reference.pair import WEIGHTS_DIR
from services.common.errors import ContextLengthExceeded, InvalidRequest
from services.common.text.tokenizer import load_tokenizer, max_token_bytes
from services.orchestrator.requests.chat import MAX_CHAT_MESSAGES
from services.orchestrator.requests.prompt import Prompt, PromptReader

logger = logging.getLogger(__name__)

SHIPPED = load_tokenizer(str(WEIGHTS_DIR / "slm"))
PATIENCE_S = 60.0


def made(model: Any, **parts: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]


def byte_level(**parts: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose longest token is a Hangul syllable with a space before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    hangul = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(" 각")[0][0]
    merges = [(hangul[:at], hangul[at]) for at in range(1, len(hangul))]
    words = [*alphabet, *(hangul[: at + 1] for at in range(1, len(hangul)))]
    model = models.BPE({word: index for index, word in enumerate(words)}, merges)
    return made(model, **{"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=False)} | parts)


NFC = byte_level(normalizer=normalizers.NFC())
WORDS = made(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))


def text_request(text: str) -> orchestrator_pb2.GenerateRequest:
    return orchestrator_pb2.GenerateRequest(text=text)


def check(tokenizer: PreTrainedTokenizerFast, request: Any, context_len: int) -> Prompt:
    return PromptReader(tokenizer).check(request, context_len=context_len, vocab_size=len(tokenizer))


@pytest.mark.parametrize("tokenizer", [SHIPPED, byte_level(), NFC], ids=["shipped", "byte_level", "nfc"])
@settings(max_examples=200, deadline=None)
@given(
    text=st.text(st.sampled_from("ab \n각각é漢\u1100\u1161\u11a8") | st.characters(codec="utf-8"), max_size=60)
    | st.lists(st.sampled_from([" 각", " \u1100\u1161\u11a8", "<|endoftext|>", "the "]), max_size=20).map("".join)
)
def test_prompt_that_fits_is_never_refused_for_its_bytes(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    [encoding] = tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
    prompt = check(tokenizer, text_request(text), context_len=len(encoding) + 1)
    assert prompt.text == text


@pytest.mark.parametrize("length", [13 * 31 + 1, 10_000_000])
def test_text_of_more_bytes_than_the_longest_tokens_have_is_refused_untokenized(length: int) -> None:
    assert max_token_bytes(SHIPPED) == len("<|endoftext|>") == 13
    with pytest.raises(ContextLengthExceeded, match=rf"^text: .*{length} bytes .* 32 tokens.* 13 bytes each"):
        check(SHIPPED, text_request("a" * length), context_len=32)


def test_bytes_count_not_characters() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"^text: .* 600 bytes"):
        check(SHIPPED, text_request("漢" * 200), context_len=32)


def test_chat_far_beyond_the_context_is_refused_unrendered_and_one_beyond_it_after_rendering() -> None:
    def chat(length: int) -> orchestrator_pb2.GenerateRequest:
        message = orchestrator_pb2.ChatMessage(role="user", content="a" * length)
        return orchestrator_pb2.GenerateRequest(chat=orchestrator_pb2.ChatMessages(messages=[message]))

    with pytest.raises(ContextLengthExceeded, match=r"^chat: .* bytes"):
        check(SHIPPED, chat(4 * 13 * 32), context_len=32)
    # A template may leave out part of it.
    prompt = check(SHIPPED, chat(2 * 13 * 32), context_len=32)
    with pytest.raises(ContextLengthExceeded, match=r"^chat: .* bytes"):
        asyncio.run(PromptReader(SHIPPED).read(prompt))


def test_chat_of_too_many_messages_is_refused() -> None:
    messages = [orchestrator_pb2.ChatMessage(role="assistant")] * (MAX_CHAT_MESSAGES + 1)
    request = orchestrator_pb2.GenerateRequest(chat=orchestrator_pb2.ChatMessages(messages=messages))
    with pytest.raises(InvalidRequest, match=r"^chat\.messages: there are 10001, at most 10000 are allowed"):
        check(SHIPPED, request, context_len=2**20)


@pytest.mark.parametrize(
    "tokenizer",
    [
        WORDS,
        byte_level(normalizer=normalizers.Strip()),
        byte_level(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(use_regex=False)]
            )
        ),
        made(models.BPE({"a": 0, "b": 1}, []), pre_tokenizer=pre_tokenizers.ByteLevel()),
    ],
    ids=["unknown_words", "strips", "drops_spaces", "lacks_bytes"],
)
def test_tokenizer_that_does_not_spell_every_byte_has_a_generous_bound(tokenizer: PreTrainedTokenizerFast) -> None:
    assert max_token_bytes(tokenizer) == 128


def test_added_token_that_takes_the_spaces_around_it_has_a_generous_bound() -> None:
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<x>", lstrip=True)])
    assert max_token_bytes(tokenizer) == 128


def test_loaded_tokenizer_neither_cuts_nor_fills_up(tmp_path: Any) -> None:
    backend = Tokenizer.from_str(SHIPPED.backend_tokenizer.to_str())
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    prompt = Prompt("text", 1024, text="a b c d e f g h i j")
    read = [asyncio.run(PromptReader(one).read(prompt)) for one in (SHIPPED, load_tokenizer(str(tmp_path)))]
    assert read[0] == read[1]


async def test_event_loop_goes_on_while_a_long_prompt_is_tokenized() -> None:
    """Measured against the time that tokenizing takes: a machine that has other things to do slows both."""
    prompts = PromptReader(SHIPPED)
    prompt = prompts.check(text_request("hello world, this is 1 test. " * 35_000), context_len=2**20, vocab_size=704)
    assert prompt.num_characters > 1_000_000
    began = last = time.perf_counter()
    reading = asyncio.create_task(prompts.read(prompt))
    gaps = []
    while not reading.done():
        await asyncio.sleep(0.001)
        gaps.append(time.perf_counter() - last)
        last = time.perf_counter()
    took_s = time.perf_counter() - began
    logger.info("tokenizing took %.3f s, the longest gap was %.3f s", took_s, max(gaps))
    assert len((await reading).token_ids) > 100_000
    assert max(gaps) < took_s / 2


class _GatedTokenizer:
    """A tokenizer that waits before it encodes."""

    def __init__(self) -> None:
        self.may_encode = threading.Event()
        self.most_encoding = self._num_encoding = self.num_encoded = 0
        self.backend_tokenizer = self
        self.get_vocab = self.get_added_vocab = SHIPPED.get_vocab
        self.added_tokens_decoder = SHIPPED.added_tokens_decoder
        self.special_tokens_map = SHIPPED.special_tokens_map
        self.chat_template = SHIPPED.chat_template
        self.get_chat_template = SHIPPED.get_chat_template
        self.to_str = SHIPPED.backend_tokenizer.to_str
        self._lock = threading.Lock()

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> Any:
        with self._lock:
            self._num_encoding += 1
            self.most_encoding = max(self.most_encoding, self._num_encoding)
        assert self.may_encode.wait(PATIENCE_S)
        with self._lock:
            self._num_encoding -= 1
            self.num_encoded += 1
        return SHIPPED.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)


async def test_long_prompts_are_tokenized_two_at_a_time_and_one_that_is_given_up_never() -> None:
    gated: Any = _GatedTokenizer()
    prompts = PromptReader(gated)
    prompt = Prompt("text", 2**20, text="a" * 20_000)
    reading = [asyncio.create_task(prompts.read(prompt)) for _ in range(8)]
    await asyncio.sleep(0)
    for left in reading[4:]:
        left.cancel()
    await asyncio.wait(reading[4:])
    gated.may_encode.set()
    assert {len(read.token_ids) for read in await asyncio.gather(*reading[:4])} == {20_000}
    assert (gated.most_encoding, gated.num_encoded) == (2, 4)
