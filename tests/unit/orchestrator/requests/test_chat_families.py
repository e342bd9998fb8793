"""Chats of families whose templates are stricter than Qwen's, and whose tokenizers come from SentencePiece."""

from __future__ import annotations

import asyncio

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast
from trivium.v1 import orchestrator_pb2

from services.common.errors import InvalidRequest
from services.orchestrator.requests.prompt import PromptReader

GEMMA = """
{{- bos_token }}
{%- set prefix = '' %}
{%- if messages[0].role == 'system' %}
    {%- set prefix = messages[0].content + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}
    {{- (prefix if loop.first else '') + message.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
"""
MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {{- '[INST] ' + message.content + ' [/INST]' if message.role == 'user' else message.content + eos_token }}
{%- endfor %}
"""
SPECIALS = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]


def sentencepiece(template: str) -> PreTrainedTokenizerFast:
    """One token a byte, "▁" for a space, and a beginning of sequence that is put before every text."""
    words = ["<unk>", *SPECIALS, "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE(
        {word: index for index, word in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", chat_template=template
    )


TOKENIZERS = {"gemma": sentencepiece(GEMMA), "mistral": sentencepiece(MISTRAL)}


def read(family: str, *messages: tuple[str, str]) -> tuple[int, ...]:
    chat = orchestrator_pb2.ChatMessages(
        messages=[orchestrator_pb2.ChatMessage(role=role, content=content) for role, content in messages]
    )
    prompts = PromptReader(TOKENIZERS[family])
    request = orchestrator_pb2.GenerateRequest(chat=chat)
    return asyncio.run(prompts.read(prompts.check(request, context_len=4096, vocab_size=1000))).token_ids


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gemma", "<bos><start_of_turn>user\nBe brief.\n\nhi there<end_of_turn>\n<start_of_turn>model\n"),
        ("mistral", "<bos>[INST] hi there [/INST]"),
    ],
)
def test_prompt_begins_with_one_beginning_of_sequence(family: str, expected: str) -> None:
    system = [("system", "Be brief.")] if family == "gemma" else []
    token_ids = read(family, *system, ("user", "hi there"))
    assert TOKENIZERS[family].decode(list(token_ids)) == expected
    assert token_ids.count(1) == 1


@pytest.mark.parametrize("family", TOKENIZERS)
@pytest.mark.parametrize("special", SPECIALS)
def test_special_token_that_a_user_writes_is_text(family: str, special: str) -> None:
    token_id = TOKENIZERS[family].convert_tokens_to_ids(special)
    plain, written = read(family, ("user", "a b")), read(family, ("user", f"a {special} b"))
    assert written.count(token_id) == plain.count(token_id)
    assert special in TOKENIZERS[family].decode(list(written), skip_special_tokens=True)


@pytest.mark.parametrize(
    ("family", "roles", "reason"),
    [
        ("gemma", ["user", "user"], "roles must alternate"),
        ("gemma", ["system", "assistant"], "roles must alternate"),
        ("mistral", ["user", "user"], "roles must alternate"),
        ("mistral", ["system", "user"], "Only user and assistant roles are supported!"),
    ],
)
def test_chat_that_the_template_does_not_take_is_refused_with_its_reason(
    family: str, roles: list[str], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=rf"^chat\.messages: the chat template refuses them: .*{reason}"):
        read(family, *((role, "x") for role in roles))
