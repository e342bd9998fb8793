"""A whole answer, put together from the messages of its stream."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trivium.v1 import orchestrator_pb2 as pb


@dataclass(frozen=True, slots=True)
class Token:
    """A token of an answer.

    Args:
        token_id: In the pair's vocabulary.
        source: Who wrote it.
        divergence_probability: What the router said of the SLM's draft there, in [0, 1].
        text: What became final with it; what was held back to the end belongs to the last one.
    """

    token_id: int
    source: pb.TokenSource.ValueType
    divergence_probability: float
    text: str


@dataclass(slots=True)
class Completion:
    """An answer, complete once it has `finish.reason`.

    Attributes:
        request_id: As the request has it, or the client chose.
        text: All of it.
        tokens: Its tokens, in order.
        prompt: What the prompt came to.
        finish: How it ended and what it took.
        num_messages: Messages that it came in.
        seconds: From when this was made to the last message.
    """

    request_id: str = ""
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt: pb.PromptInfo = field(default_factory=pb.PromptInfo)
    finish: pb.Finish = field(default_factory=pb.Finish)
    num_messages: int = 0
    seconds: float = 0.0
    _began: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def usage(self) -> pb.Usage:
        """What it took."""
        return self.finish.usage

    @property
    def token_ids(self) -> list[int]:
        """The ids of its tokens."""
        return [token.token_id for token in self.tokens]

    def add(self, response: pb.GenerateResponse) -> None:
        """Appends the next message of the stream."""
        self.request_id = response.request_id
        self.num_messages += 1
        self.seconds = time.perf_counter() - self._began
        self.text += response.text
        end = 0
        for token_id, source, probability, length in zip(
            response.token_ids,
            response.sources,
            response.divergence_probabilities,
            response.text_lengths,
            strict=True,
        ):
            start, end = end, end + length
            self.tokens.append(Token(token_id, source, probability, response.text[start:end]))
        if (rest := response.text[end:]) and self.tokens:
            last = self.tokens[-1]
            self.tokens[-1] = Token(last.token_id, last.source, last.divergence_probability, last.text + rest)
        if response.HasField("prompt"):
            self.prompt.CopyFrom(response.prompt)
        if response.HasField("finish"):
            self.finish.CopyFrom(response.finish)
