"""Follows one choice from the messages of its stream to what its reader gets.

Owns what has been written of it so far. What comes out after a number of tokens depends on those tokens alone, not on
the messages that they came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trivium.v1 import orchestrator_pb2 as pb

from services.gateway.openai.reasoning import ReasoningSplitter
from services.gateway.openai.tool_calls import ToolCall, ToolCallParser

_REASONS = {pb.FINISH_REASON_STOP: "stop", pb.FINISH_REASON_LENGTH: "length"}
_AUTHORS = {
    pb.TOKEN_SOURCE_SLM: "slm",
    pb.TOKEN_SOURCE_LLM: "llm",
    pb.TOKEN_SOURCE_SLM_FALLBACK: "slm_fallback",
    pb.TOKEN_SOURCE_SLM_CONFIRMED: "slm_confirmed",
}


@dataclass(slots=True)
class Delta:
    """What a message added to a choice.

    Attributes:
        content: What is said.
        reasoning: What is thought.
        calls: Tools that are called.
        tokens: Each token with its author, where that was asked for.
        finish_reason: Why it ended; None while it goes on.
    """

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether a reader learns nothing but the end from it."""
        return not (self.content or self.reasoning or self.calls or self.tokens)


class Choice:
    """One choice.

    Args:
        index: Its place among the choices.
        request_id: Names its stream.
        splits_reasoning: What is thought is told apart.
        parses_tools: Calls of tools are.
        includes_tokens: Deltas tell each token.
        num_known: The `place` up to which the reader has it: nothing before is told again.
        echo: What its text begins with.
    """

    def __init__(
        self,
        index: int,
        request_id: str,
        *,
        splits_reasoning: bool = False,
        parses_tools: bool = False,
        includes_tokens: bool = False,
        num_known: int = 0,
        echo: str = "",
    ) -> None:
        self.index = index
        self.calls: list[dict[str, Any]] = []
        self.tokens: list[dict[str, Any]] = []
        self.num_prompt_tokens = 0
        self.num_tokens = 0
        self.num_llm_tokens = 0
        self.finish: pb.Finish | None = None
        self.finish_reason: str | None = None
        self._request_id = request_id
        self._splits_reasoning = splits_reasoning
        self._splitter: ReasoningSplitter | None = None
        self._parser = ToolCallParser() if parses_tools else None
        self._includes_tokens = includes_tokens
        self._num_known = num_known
        self._echo = echo if num_known == 0 else ""
        self._contents: list[str] = [echo]
        self._reasonings: list[str] = []
        self._has_begun = False

    @property
    def content(self) -> str:
        """What is said so far."""
        return "".join(self._contents)

    @property
    def reasoning(self) -> str:
        """What is thought so far."""
        return "".join(self._reasonings)

    @property
    def place(self) -> int:
        """How far it is: its tokens, and one more at the end, with which comes what was held back."""
        return self.num_tokens + (self.finish is not None)

    def take(self, response: pb.GenerateResponse) -> Delta:
        """Takes the next message; returns what it adds to what the reader has."""
        if not self._has_begun:
            self._begin(response)
        text = response.text
        num_old = 0
        knows_end = False
        if self._num_known > self.num_tokens:
            # The reader has these; they count for what comes after them.
            num_old = min(len(response.token_ids), self._num_known - self.num_tokens)
            knows_end = self._num_known > self.num_tokens + num_old
            end = sum(response.text_lengths[:num_old])
            self._read(text[:end], Delta())
            text = text[end:]
        delta = Delta(content=self._echo)
        self._echo = ""
        self._read(text, delta)
        self._count(response, num_old, delta)
        if response.HasField("finish"):
            self._end(response.finish, delta)
            if knows_end:
                return Delta(finish_reason=delta.finish_reason)
        return delta

    def _begin(self, response: pb.GenerateResponse) -> None:
        self._has_begun = True
        self.num_prompt_tokens = response.prompt.num_tokens
        if self._splits_reasoning:
            self._splitter = ReasoningSplitter(is_open=response.prompt.opens_reasoning)

    def _read(self, text: str, delta: Delta) -> None:
        reasoning, content = self._splitter.feed(text) if self._splitter else ("", text)
        content, calls = self._parser.feed(content) if self._parser else (content, ())
        self._add(reasoning, content, calls, delta)

    def _end(self, finish: pb.Finish, delta: Delta) -> None:
        reasoning, content = self._splitter.finish() if self._splitter else ("", "")
        content, calls = self._parser.feed(content) if self._parser else (content, ())
        self._add(reasoning, content, calls, delta)
        if self._parser:
            content, calls = self._parser.finish()
            self._add("", content, calls, delta)
        self.finish = finish
        self.num_prompt_tokens = finish.usage.num_prompt_tokens
        self.finish_reason = _REASONS.get(finish.reason, "stop")
        if self.calls and self.finish_reason == "stop":
            self.finish_reason = "tool_calls"
        delta.finish_reason = self.finish_reason

    def _add(self, reasoning: str, content: str, calls: Sequence[ToolCall], delta: Delta) -> None:
        delta.reasoning += reasoning
        delta.content += content
        self._reasonings.append(reasoning)
        self._contents.append(content)
        for call in calls:
            named = self._named(call)
            self.calls.append(named)
            delta.calls.append({"index": len(self.calls) - 1, **named})

    def _named(self, call: ToolCall) -> dict[str, Any]:
        return {
            "id": f"call_{self._request_id}_{len(self.calls)}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }

    def _count(self, response: pb.GenerateResponse, num_old: int, delta: Delta) -> None:
        self.num_tokens += len(response.token_ids)
        self.num_llm_tokens += list(response.sources).count(pb.TOKEN_SOURCE_LLM)
        if self._includes_tokens:
            tokens = _tokens(response)
            self.tokens += tokens
            delta.tokens = tokens[num_old:]


def _tokens(response: pb.GenerateResponse) -> list[dict[str, Any]]:
    tokens: list[dict[str, Any]] = []
    end = 0
    for token_id, source, probability, length in zip(
        response.token_ids, response.sources, response.divergence_probabilities, response.text_lengths, strict=True
    ):
        start, end = end, end + length
        tokens.append(
            {
                "id": token_id,
                "text": response.text[start:end],
                "source": _AUTHORS.get(source, "slm"),
                "divergence_probability": round(probability, 6),
            }
        )
    if tokens and end < len(response.text):
        tokens[-1]["text"] += response.text[end:]
    return tokens
