"""What the index's tests need instead of a Redis and of running sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.orchestrator.index.command_link import Command
from services.orchestrator.index.prefix_index import IndexedPair
from services.orchestrator.requests.task import GenerationTask
from services.orchestrator.routing.actions import AcceptedToken, Source
from tests.rules import router_rule

PAIR = IndexedPair(models_identity=b"models", vocab_size=1000)


class FakeLink:
    """A `CommandLink` that answers as it is told.

    Args:
        answer: Gives the reply to a command.
    """

    def __init__(self, answer: Callable[[Command], Any]) -> None:
        self.available = True
        self.problem = ""
        self.num_commands = 0
        self.num_failures = 0
        self.commands: list[Command] = []
        self._answer = answer

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        self.available = False

    async def run(self, *command: bytes | str | int) -> Any:
        return (await self.run_all([command]))[0]

    async def run_all(self, commands: Sequence[Command]) -> Sequence[Any]:
        self.commands += commands
        return [self._answer(command) for command in commands]


@dataclass
class FakeCore:
    """The part of a routing core that the index reads."""

    tokens: list[int]
    accepted_len: int
    llm_held_len: int


@dataclass
class FakeReplica:
    """A replica's name."""

    replica_id: str


@dataclass
class FakeSequence:
    """A sequence that accepts what it is told to."""

    sequence_id: int
    task: GenerationTask
    completion: list[AcceptedToken] = field(default_factory=list)
    slm: FakeReplica | None = field(default_factory=lambda: FakeReplica("s"))
    llm: FakeReplica | None = field(default_factory=lambda: FakeReplica("l"))
    core: FakeCore = field(init=False)

    def __post_init__(self) -> None:
        tokens = [*self.task.prompt_token_ids, *(token.token_id for token in self.completion)]
        self.core = FakeCore(tokens, len(tokens), 0)

    def accept(self, *tokens: AcceptedToken) -> None:
        """Tokens become final; the LLM has seen them."""
        self.completion += tokens
        self.core.tokens += [token.token_id for token in tokens]
        self.core.accepted_len = len(self.core.tokens)
        self.core.llm_held_len = len(self.core.tokens) - 1


def make_sequence(sequence_id: int = 1, *, num_prompt: int = 40, resume_from: int | None = None) -> FakeSequence:
    """A sequence that has accepted nothing."""
    task = GenerationTask(
        f"r{sequence_id}", tuple(range(num_prompt)), 10_000, router_rule(0.5), resume_from=resume_from
    )
    return FakeSequence(sequence_id, task)


def make_tokens(count: int, start: int = 0) -> list[AcceptedToken]:
    """Different tokens, of all sources."""
    sources = list(Source)
    return [
        AcceptedToken(number % PAIR.vocab_size, sources[number % 3], (number % 5) / 4)
        for number in range(start, start + count)
    ]
