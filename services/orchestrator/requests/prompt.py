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

import jinja2
from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2

from services.common.errors import ContextLengthExceeded, InvalidRequest
from services.common.text.tokenizer import max_token_bytes

MAX_CHAT_MESSAGES = 10_000
CHAT_ROLES = ("system", "user", "assistant")

_NUM_THREADS = 2
# About 2 ms of tokenizing: less than handing it to a thread and back takes on a busy machine.
_SHORT_BYTES = 16 * 1024
# Chat templates leave out part of what they are given, such as the reasoning of earlier turns.
_CHAT_SLACK = 4


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that may fit into the context: its text, its messages or its token ids.

    Args:
        field: The request's field that it stands in.
        context_len: Longest sequence in tokens, prompt and completion together.
        text: As it is to be tokenized.
        messages: Role and content of each.
        token_ids: In the vocabulary, fewer than `context_len`.
    """

    field: str
    context_len: int
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    token_ids: tuple[int, ...] = ()

    @property
    def num_characters(self) -> int:
        """What has to be tokenized, before the template adds to it."""
        return len(self.text) + sum(len(role) + len(content) for role, content in self.messages)


class PromptReader:
    """Checks and reads prompts.

    Args:
        tokenizer: The pair's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
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
            messages = _checked_messages(request.chat.messages)
            self._check_size(field, [content for _, content in messages], context_len, slack=_CHAT_SLACK)
            return Prompt(field, context_len, messages=messages)
        raise InvalidRequest("prompt: exactly one of text, chat and token_ids must be set")

    async def read(self, prompt: Prompt) -> tuple[int, ...]:
        """Tokenizes a prompt. A long one waits for its turn, and for a thread.

        Returns:
            At least one token id, and fewer than the context has room for.

        Raises:
            InvalidRequest: The chat template refuses it, or it is empty.
            ContextLengthExceeded: It leaves no room for one token.
        """
        if prompt.num_characters <= _SHORT_BYTES:
            return self._token_ids(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._token_ids, prompt)

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if prompt.token_ids:
            return prompt.token_ids
        text = prompt.text
        if prompt.messages:
            text = _render(prompt.messages, self._tokenizer)
            self._check_size(prompt.field, [text], prompt.context_len)
        # Of the ways to encode, the one that lets other threads run meanwhile. Special tokens that are written out in
        # the text are recognised; none is added.
        [encoding] = self._tokenizer.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        if not len(encoding):
            raise InvalidRequest(f"{prompt.field}: the prompt is empty")
        # Before there is a Python object for each id.
        _check_length(prompt.field, len(encoding), prompt.context_len)
        return tuple(encoding.ids)

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


def _checked_messages(messages: Sequence[orchestrator_pb2.ChatMessage]) -> tuple[tuple[str, str], ...]:
    if not messages:
        raise InvalidRequest("chat.messages: the prompt is empty")
    if len(messages) > MAX_CHAT_MESSAGES:
        raise InvalidRequest(f"chat.messages: there are {len(messages)}, at most {MAX_CHAT_MESSAGES} are allowed")
    for i, message in enumerate(messages):
        if message.role not in CHAT_ROLES:
            expected = ", ".join(CHAT_ROLES)
            raise InvalidRequest(f"chat.messages[{i}].role: expected one of {expected}, got {message.role[:32]!r}")
        if message.role == "user" and not message.content:
            raise InvalidRequest(f"chat.messages[{i}].content: the prompt is empty")
    return tuple((message.role, message.content) for message in messages)


def _render(messages: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> str:
    conversation = [{"role": role, "content": content} for role, content in messages]
    try:
        rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, ValueError, TypeError) as error:
        # A template refuses what it wasn't written for, such as two user messages in a row, or isn't there at all.
        raise InvalidRequest(f"chat.messages: the chat template refuses them: {error}") from error
    return str(rendered)
