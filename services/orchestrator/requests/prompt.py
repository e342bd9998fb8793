"""Turns prompts into token ids, without letting a long one hurt anybody else.

Owns what may be done to a prompt at which time: what bounds it is counted at once; rendering and tokenizing, which
take time and memory, wait until they are asked for, are done for a few long prompts at a time, and leave the event
loop free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2

from services.common.errors import ContextLengthExceeded, InvalidRequest
from services.common.text.chat_template import ChatTemplate, TemplateRefuses
from services.common.text.literal import LiteralEncoding, SpecialTokens
from services.common.text.tokenizer import max_token_bytes
from services.orchestrator.requests.chat import Chat, checked_chat, conversation

_NUM_THREADS = 2
# About 2 ms of tokenizing: less than handing it to a thread and back takes on a busy machine.
_SHORT_BYTES = 16 * 1024
# Chat templates leave out part of what they are given, such as the reasoning of earlier turns.
_CHAT_SLACK = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that may fit into the context: its text, its conversation or its token ids.

    Args:
        field: The request's field that it stands in.
        context_len: Longest sequence in tokens, prompt and completion together.
        text: As it is to be tokenized.
        chat: As it is to be rendered.
        token_ids: In the vocabulary, fewer than `context_len`.
    """

    field: str
    context_len: int
    text: str = ""
    chat: Chat | None = None
    token_ids: tuple[int, ...] = ()

    @property
    def num_characters(self) -> int:
        """What has to be tokenized, before the template adds to it."""
        return len(self.text) + (sum(map(len, self.chat.texts)) if self.chat else 0)


@dataclass(frozen=True, slots=True)
class ReadPrompt:
    """A prompt that has been tokenized.

    Args:
        token_ids: At least one, and fewer than the context has room for.
        opens_reasoning: It ends inside of reasoning that the chat template has opened.
    """

    token_ids: tuple[int, ...]
    opens_reasoning: bool = False


class PromptReader:
    """Checks and reads prompts.

    Args:
        tokenizer: The pair's tokenizer.

    Attributes:
        template: Its chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.template = ChatTemplate(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._specials = SpecialTokens(tokenizer)
        self._max_token_bytes = max_token_bytes(tokenizer)
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="tokenize")

    def check(self, request: orchestrator_pb2.GenerateRequest, *, context_len: int, vocab_size: int) -> Prompt:
        """Checks what needs no tokenizing. Cheap, whatever the prompt is.

        Args:
            request: As received.
            context_len: Longest sequence in tokens.
            vocab_size: Valid ids are [0, vocab_size).

        Raises:
            InvalidRequest: There is no prompt, or it can't be used; the message begins with the field's name.
            ContextLengthExceeded: It has too many token ids, or more bytes than the longest tokens could stand for.
        """
        field = request.WhichOneof("prompt")
        if field == "token_ids":
            return Prompt(
                field, context_len, token_ids=_checked_ids(request.token_ids.token_ids, context_len, vocab_size)
            )
        if field == "text":
            self._check_size(field, [request.text], context_len)
            return Prompt(field, context_len, text=request.text)
        if field == "chat":
            chat = checked_chat(request.chat, self.template)
            self._check_size(field, chat.texts, context_len, slack=_CHAT_SLACK)
            return Prompt(field, context_len, chat=chat)
        raise InvalidRequest("prompt: exactly one of text, chat and token_ids must be set")

    async def read(self, prompt: Prompt) -> ReadPrompt:
        """Tokenizes a prompt. A long one waits for its turn, and for a thread.

        Raises:
            InvalidRequest: The chat template refuses it, or it is empty.
            ContextLengthExceeded: It leaves no room for one token.
        """
        if prompt.num_characters <= _SHORT_BYTES:
            return self._read(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, prompt)

    def _read(self, prompt: Prompt) -> ReadPrompt:
        if prompt.token_ids:
            return ReadPrompt(prompt.token_ids)
        if prompt.chat is None:
            return ReadPrompt(_ids(prompt, self._encoded(prompt.text)))
        return self._read_chat(prompt, prompt.chat)

    def _read_chat(self, prompt: Prompt, chat: Chat) -> ReadPrompt:
        shield = self._specials.shield()
        given = conversation(chat, self.template, shield)
        try:
            rendered = self.template.render(given.messages, **given.options)
            opens_reasoning = self.template.opens_reasoning(rendered, given.messages, **given.options)
        except TemplateRefuses as error:
            # A template refuses what it wasn't written for, such as two user messages in a row.
            raise InvalidRequest(
                f"chat.messages: the chat template refuses them: {shield.uncovered(str(error))}"
            ) from error
        self._check_size(prompt.field, [shield.uncovered(rendered)], prompt.context_len)
        if not shield.covers:
            return ReadPrompt(_ids(prompt, self._encoded(rendered)), opens_reasoning)
        try:
            return ReadPrompt(_ids(prompt, self._specials.encode(rendered, shield)), opens_reasoning)
        except ValueError as error:
            raise InvalidRequest(f"chat.messages: {error}") from error

    def _encoded(self, text: str) -> Encoding:
        # Of the ways to encode, the one that lets other threads run meanwhile. Special tokens that are written out in
        # the text are recognised; none is added.
        [encoding] = self._backend.encode_batch_fast([text], add_special_tokens=False)
        return encoding

    def _check_size(self, field: str, texts: Sequence[str], context_len: int, slack: int = 1) -> None:
        most = (context_len - 1) * self._max_token_bytes * slack
        # A character has a byte at least: what is far too long isn't even encoded.
        num_bytes = sum(map(len, texts))
        if num_bytes <= most:
            num_bytes = sum(len(text.encode()) for text in texts)
        if num_bytes > most:
            raise ContextLengthExceeded(
                f"{field}: a prompt of at least {num_bytes} bytes leaves no room in the context of {context_len} "
                f"tokens, which have at most {self._max_token_bytes} bytes each"
            )


def _ids(prompt: Prompt, encoding: Encoding | LiteralEncoding) -> tuple[int, ...]:
    if not len(encoding):
        raise InvalidRequest(f"{prompt.field}: the prompt is empty")
    # Before there is a Python object for each id.
    _check_length(prompt.field, len(encoding), prompt.context_len)
    return tuple(encoding.ids)


def _check_length(field: str, num_tokens: int, context_len: int) -> None:
    if num_tokens >= context_len:
        raise ContextLengthExceeded(
            f"{field}: a prompt of {num_tokens} tokens leaves no room in the context of {context_len}"
        )


def _checked_ids(token_ids: Sequence[int], context_len: int, vocab_size: int) -> tuple[int, ...]:
    if not token_ids:
        raise InvalidRequest("token_ids: the prompt is empty")
    _check_length("token_ids", len(token_ids), context_len)
    if (largest := max(token_ids)) >= vocab_size:
        raise InvalidRequest(f"token_ids: {largest} is outside the vocabulary of {vocab_size}")
    return tuple(token_ids)
