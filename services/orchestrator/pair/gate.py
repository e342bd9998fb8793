"""Lets replicas in that belong to the pair, and keeps others out.

Owns what is known of the pair while the process runs. The rules of what fits together are `pair_check`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from trivium.v1 import common_pb2, router_pb2

from services.common.errors import PeerUnavailable, ReplicaMismatch, TriviumError
from services.orchestrator.pair.check import ServedPair, check_pair, check_router, model_identity, with_router

INCOMPLETE = "the pair isn't complete: one of its services hasn't answered yet"
"""What callers are told until then."""

_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class PairMembers:
    """One description of each kind, as far as it is known."""

    slm: common_pb2.ModelInfo | None = None
    llm: common_pb2.ModelInfo | None = None
    router: router_pb2.RouterInfo | None = None


class PairGate:
    """Collects one description of each kind; once they fit together, they are the pair until the process ends.

    The models are, that is. Its router may change.

    Args:
        tokenizer_sha256: Fingerprint of the orchestrator's own tokenizer.
        num_tokenizer_ids: Number of its ids, added tokens included.
        on_change: Called with the pair once it is complete, and with the error when a replica doesn't fit.
        has_router: Whether the pair has a router.
        allow_other_slm: As of `check_pair`.
    """

    def __init__(
        self,
        tokenizer_sha256: str,
        num_tokenizer_ids: int,
        on_change: Callable[[ServedPair | TriviumError], None],
        *,
        has_router: bool = True,
        allow_other_slm: bool = False,
    ) -> None:
        self.pair: ServedPair | None = None
        """The pair, once it is complete."""
        self.members = PairMembers()
        """Who belongs to it so far."""
        self._tokenizer_sha256 = tokenizer_sha256
        self._num_tokenizer_ids = num_tokenizer_ids
        self._on_change = on_change
        self._has_router = has_router
        self._allow_other_slm = allow_other_slm
        self._complete = asyncio.Event()
        self._misfit: TriviumError | None = None

    def admit_slm(self, info: common_pb2.ModelInfo) -> None:
        """Admits an SLM replica.

        Raises:
            TriviumError: It doesn't fit the rest; the message names both sides.
        """
        self._same("SLM", self.members.slm, info)
        self._admit(replace(self.members, slm=info))

    def admit_llm(self, info: common_pb2.ModelInfo) -> None:
        """Admits an LLM replica; raises as `admit_slm` does."""
        self._same("LLM", self.members.llm, info)
        self._admit(replace(self.members, llm=info))

    def admit_router(self, info: router_pb2.RouterInfo) -> None:
        """Admits a router replica, of whatever weights; raises as `admit_slm` does."""
        if self.pair:
            try:
                check_router(self.pair.slm, info, allow_other_slm=self._allow_other_slm)
            except TriviumError as error:
                self._refuse(error)
        self._admit(replace(self.members, router=info))

    def serve_router(self, info: router_pb2.RouterInfo) -> None:
        """Lets new sequences have a router that was admitted."""
        assert self.pair is not None, "replicas are admitted to a pair that is complete"
        self.pair = with_router(self.pair, info, allow_other_slm=self._allow_other_slm)
        self.members = replace(self.members, router=info)

    async def enter(self, admit: Callable[[], None]) -> None:
        """Lets a replica in once the pair is complete: until then, it may turn out to belong to another one.

        Args:
            admit: Admits it; called again once the pair is known.

        Raises:
            PeerUnavailable: The pair isn't complete after a second. By then, another replica may be there: ask again.
            TriviumError: As `admit` raises it.
        """
        admit()
        if self.pair is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._complete.wait()
            if self.pair is None:
                raise PeerUnavailable(f"the pair isn't complete: {self._misfit or self._missing()}")
            admit()

    def _missing(self) -> str:
        known: dict[str, object] = {"SLM": self.members.slm, "LLM": self.members.llm}
        if self._has_router:
            known["router"] = self.members.router
        return f"it waits for the {' and '.join(kind for kind, info in known.items() if info is None)}"

    def _same(self, kind: str, known: common_pb2.ModelInfo | None, info: common_pb2.ModelInfo) -> None:
        if self.pair and known and model_identity(known) != model_identity(info):
            self._refuse(
                ReplicaMismatch(
                    f"{kind}: a replica serves {info.model_id!r} (revision {info.revision!r}, weights "
                    f"{info.weights_revision!r}, {info.num_parameters} parameters), the others {known.model_id!r} "
                    f"(revision {known.revision!r}, weights {known.weights_revision!r}, {known.num_parameters} "
                    "parameters)"
                )
            )

    def _admit(self, members: PairMembers) -> None:
        if self.pair:
            return
        if members.slm and members.llm and (members.router or not self._has_router):
            try:
                self.pair = check_pair(
                    members.slm,
                    members.llm,
                    members.router,
                    tokenizer_sha256=self._tokenizer_sha256,
                    num_tokenizer_ids=self._num_tokenizer_ids,
                    allow_other_slm=self._allow_other_slm,
                )
            except TriviumError as error:
                # The last to come stays out, and asks again: any of them may be the one that gets replaced.
                self._refuse(error)
        self.members = members
        if self.pair:
            self._complete.set()
            self._on_change(self.pair)

    def _refuse(self, error: TriviumError) -> NoReturn:
        self._misfit = error
        self._on_change(error)
        raise error


def refuse_draining(replica: common_pb2.ReplicaInfo) -> None:
    """Keeps a replica out that is about to stop: it would take nothing.

    Raises:
        PeerUnavailable: It is.
    """
    if replica.draining:
        raise PeerUnavailable(f"replica {replica.replica_id} is about to stop")
