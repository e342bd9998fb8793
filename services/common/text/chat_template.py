"""A tokenizer's chat template: what it can do, and what it makes of a conversation.

Owns the reading of its source, and the one kind of error for all that a template may fail with.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

THINK_START, THINK_END = "<think>", "</think>"

_FAILURES = (
    jinja2.TemplateError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)


class TemplateRefuses(ValueError):
    """The template can't render the conversation."""


class ChatTemplate:
    """A chat template.

    Args:
        tokenizer: Whose template it is. It may have none.

    Attributes:
        exists: False if nothing can be rendered.
        takes_tools: It renders `tools`.
        takes_tool_calls: It renders the tool calls of an assistant's message.
        knows_tool_role: It renders messages of tools in a way of their own.
        knows_developer: It renders messages of developers in a way of their own.
        has_reasoning: It, or the vocabulary, knows of reasoning between `THINK_START` and `THINK_END`.
        reserved: Names that can't be given to `render` as arguments for the template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        source = _source(tokenizer)
        words = _words(source)
        self.exists = bool(source)
        self.takes_tools = "tools" in words
        self.takes_tool_calls = "tool_calls" in words
        self.knows_tool_role = "tool" in words
        self.knows_developer = "developer" in words
        self._writes_think = THINK_START in source
        self.has_reasoning = self.exists and (THINK_END in source or THINK_END in tokenizer.get_added_vocab())
        self.reserved = frozenset(
            {"messages"}
            | inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters.keys()
            | inspect.signature(render_jinja_template).parameters.keys()
            | tokenizer.special_tokens_map.keys()
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        add_generation_prompt: bool = True,
    ) -> str:
        """Renders a conversation.

        Args:
            messages: Each with a role and content, as transformers takes them.
            tools: In OpenAI's form.
            kwargs: What else the template is given; none of `reserved`.
            continue_final_message: End inside of the last message instead of beginning a new one.
            add_generation_prompt: Begin a new message of the assistant, unless the last one goes on.

        Raises:
            TemplateRefuses: There is no template, it refuses the messages, or it fails.
        """
        try:
            rendered = self._tokenizer.apply_chat_template(
                list(messages),  # type: ignore[arg-type]
                tools=list(tools) or None,  # type: ignore[arg-type]
                tokenize=False,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                **(kwargs or {}),
            )
        except _FAILURES as error:
            if str(error).startswith("continue_final_message"):
                # What follows quotes the whole conversation.
                raise TemplateRefuses("it changes the last message, so that can't be gone on with") from error
            raise TemplateRefuses(str(error) or type(error).__name__) from error
        return str(rendered)

    def opens_reasoning(self, rendered: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> bool:
        """Tells whether a rendered conversation ends inside of reasoning.

        Only what belongs to the assistant's last message counts, whatever is written in the others.

        Args:
            rendered: What `render` made of the rest.
            messages: See `render`.
            **options: See `render`.
        """
        if not _is_open(rendered):
            return False
        if options.get("continue_final_message"):
            content = str(messages[-1]["content"]).strip()
            return _is_open(content) or _is_open_at_end(rendered.rstrip().removesuffix(content))
        if not self._writes_think:
            return False
        before = self.render(messages, **options, add_generation_prompt=False)
        return _is_open(rendered[len(before) :]) if rendered.startswith(before) else _is_open_at_end(rendered)


def _is_open(text: str) -> bool:
    return text.rfind(THINK_START) > text.rfind(THINK_END)


def _is_open_at_end(text: str) -> bool:
    return text.rstrip().endswith(THINK_START)


def _source(tokenizer: PreTrainedTokenizerFast) -> str:
    if not tokenizer.chat_template:
        return ""
    try:
        # Of several templates, the one for tools.
        return tokenizer.get_chat_template(tools=[{}])
    except ValueError:
        return ""


def _words(source: str) -> frozenset[str]:
    """The names and strings in a template's code."""
    try:
        # Unlike the parser, it doesn't mind tags that transformers adds.
        tokens = list(jinja2.Environment().lex(source))
    except jinja2.TemplateError:
        return frozenset()
    return frozenset(value.strip("'\"") for _, kind, value in tokens if kind in ("name", "string"))
