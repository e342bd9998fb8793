"""Talks with the model services and the router as an orchestrator does, one question at a time.

Owns the streams and their messages; what is asked, and what the time between means, is its callers' business.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from trivium.v1 import llm_pb2, llm_pb2_grpc, router_pb2, router_pb2_grpc, slm_pb2, slm_pb2_grpc

from services.common.errors import PeerUnavailable
from services.common.serving.channels import open_channel
from services.common.tensors import pack, unpack

_FIRST_ID = secrets.randbits(62)
_ids = itertools.count(_FIRST_ID)


def new_sequence_id() -> int:
    """An id that no other sequence of the services has, as likely as not at all."""
    return next(_ids)


@dataclass(frozen=True, slots=True)
class Drafts:
    """Drafts that arrived together.

    Args:
        sequence_ids: Sequence of each row.
        positions: Position of each.
        token_ids: i64 [rows].
        hidden_states: f32 [rows, hidden].
        top_logits: f32 [rows, 100], falling.
    """

    sequence_ids: Sequence[int]
    positions: Sequence[int]
    token_ids: NDArray[np.int64]
    hidden_states: NDArray[np.float32]
    top_logits: NDArray[np.float32]


class _Stream:
    """One stream to one service."""

    def __init__(self, name: str, call: Any) -> None:
        self._name = name
        self._call = call

    async def write(self, message: Any) -> None:
        await self._call.write(message)

    async def read(self) -> Any:
        response = await self._call.read()
        if response is grpc.aio.EOF:
            raise PeerUnavailable(f"{self._name}: the stream ended")
        for error in getattr(response, "errors", ()):
            raise PeerUnavailable(f"{self._name}: {error.message or 'the sequence was refused'}")
        return response


class SlmStream(_Stream):
    """Drafts."""

    async def tell(self, *commands: slm_pb2.DraftCommand) -> None:
        """Sends commands in one message."""
        await self.write(slm_pb2.DraftRequest(commands=commands))

    async def drafts(self) -> Drafts:
        """The next drafts that arrive."""
        while True:
            response = await self.read()
            if num_rows := len(response.sequence_ids):
                return Drafts(
                    list(response.sequence_ids),
                    list(response.positions),
                    np.array(response.token_ids, dtype=np.int64),
                    unpack(response.hidden_states, field="hidden_states", shape=(num_rows, None)),
                    unpack(response.top_logits, field="top_logits", shape=(num_rows, None)),
                )


def open_slm(sequence_id: int, token_ids: Sequence[int], num_drafts: int) -> slm_pb2.DraftCommand:
    """Has the SLM draft after a prefix, whatever it drafts."""
    opened = slm_pb2.OpenSequence(token_ids=token_ids, draft_until=len(token_ids) + num_drafts)
    return slm_pb2.DraftCommand(sequence_id=sequence_id, open=opened)


def grant_slm(sequence_id: int, draft_until: int) -> slm_pb2.DraftCommand:
    """Lets the SLM draft on."""
    return slm_pb2.DraftCommand(sequence_id=sequence_id, grant=slm_pb2.GrantDraft(draft_until=draft_until))


def rewind_slm(sequence_id: int, length: int, token_id: int, epoch: int) -> slm_pb2.DraftCommand:
    """Puts the LLM's token in a draft's place, and has the SLM draft the one after it."""
    rewound = slm_pb2.RewindSequence(length=length, token_ids=[token_id], epoch=epoch, draft_until=length + 2)
    return slm_pb2.DraftCommand(sequence_id=sequence_id, rewind=rewound)


def close_slm(sequence_id: int) -> slm_pb2.DraftCommand:
    """Forgets a sequence."""
    return slm_pb2.DraftCommand(sequence_id=sequence_id, close=slm_pb2.CloseSequence())


class LlmStream(_Stream):
    """Answers."""

    async def extend(
        self, sequence_id: int, base_len: int, token_ids: Sequence[int], queries: Sequence[int]
    ) -> llm_pb2.ExtendAnswer:
        """Has a sequence extended, and waits for what the LLM would write at each query position."""
        answers = await self.extend_all({sequence_id: (base_len, token_ids, queries)})
        return answers[sequence_id]

    async def extend_all(
        self, asked: Mapping[int, tuple[int, Sequence[int], Sequence[int]]]
    ) -> dict[int, llm_pb2.ExtendAnswer]:
        """Likewise for many sequences, asked in one message: base length, tokens and query positions by sequence."""
        await self.write(
            llm_pb2.ExtendRequest(
                commands=[
                    llm_pb2.ExtendCommand(
                        sequence_id=sequence_id,
                        extend=llm_pb2.ExtendSequence(
                            base_length=base_len, token_ids=token_ids, query_positions=queries
                        ),
                    )
                    for sequence_id, (base_len, token_ids, queries) in asked.items()
                ]
            )
        )
        answers: dict[int, llm_pb2.ExtendAnswer] = {}
        while len(answers) < len(asked):
            response = await self.read()
            answers |= {answer.sequence_id: answer for answer in response.answers}
        return answers

    async def release(self, *sequence_ids: int) -> None:
        """Forgets sequences."""
        commands = [
            llm_pb2.ExtendCommand(sequence_id=each, release=llm_pb2.ReleaseSequence()) for each in sequence_ids
        ]
        await self.write(llm_pb2.ExtendRequest(commands=commands))


class RouterStream(_Stream):
    """Scores."""

    async def scores(self, drafts: Drafts) -> NDArray[np.float32]:
        """Divergence probabilities, f32 [rows]."""
        await self.write(
            router_pb2.ScoreRequest(
                batch_id=1,
                token_ids=drafts.token_ids.tolist(),
                hidden_states=pack(drafts.hidden_states),
                top_logits=pack(drafts.top_logits),
            )
        )
        response = await self.read()
        shape = (len(drafts.token_ids),)
        return unpack(response.divergence_probabilities, field="divergence_probabilities", shape=shape)


class PairStreams:
    """The services of a running pair, for the length of an `async with`.

    Args:
        addresses: "host:port" of slm, llm, and router if there is one.
    """

    slm: SlmStream
    llm: LlmStream
    router: RouterStream | None = None
    eos_token_ids: frozenset[int]
    router_threshold: float | None = None

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> PairStreams:
        slm, llm = await self._channel("slm"), await self._channel("llm")
        slm_stub, llm_stub = slm_pb2_grpc.SlmServiceStub(slm), llm_pb2_grpc.LlmServiceStub(llm)
        models = (
            (await slm_stub.GetServerInfo(slm_pb2.SlmServiceGetServerInfoRequest())).model,
            (await llm_stub.GetServerInfo(llm_pb2.LlmServiceGetServerInfoRequest())).model,
        )
        self.eos_token_ids = frozenset(token for model in models for token in model.eos_token_ids)
        self.slm, self.llm = SlmStream("slm", slm_stub.Draft()), LlmStream("llm", llm_stub.Extend())
        if "router" in self._addresses:
            stub = router_pb2_grpc.RouterServiceStub(await self._channel("router"))
            info = await stub.GetServerInfo(router_pb2.RouterServiceGetServerInfoRequest())
            self.router_threshold = info.router.default_threshold
            self.router = RouterStream("router", stub.Score())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def _channel(self, name: str) -> grpc.aio.Channel:
        return await self._stack.enter_async_context(open_channel(self._addresses[name]))
