"""Which pair the orchestrators serve, and what its chat template can do.

Owns the name of the model. Orchestrators are asked in the background, so that requests don't wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import PurePath

from trivium.v1 import orchestrator_pb2 as pb

from services.client import CallFailed
from services.gateway.streaming.choices import Orchestrators

logger = logging.getLogger(__name__)

_FIRST_INTERVAL_S = 0.5
_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class ServedPair:
    """The pair.

    Args:
        model: What clients call it.
        created: When this process first saw it, in seconds since 1970.
        context_len: Longest sequence in tokens.
        has_reasoning: Its chat template knows of reasoning.
    """

    model: str
    created: int
    context_len: int
    has_reasoning: bool


class PairWatch:
    """Knows the pair as soon as an orchestrator tells.

    Args:
        orchestrators: Who is asked.
        model_name: What clients call it; made from the names of both models if empty.
    """

    def __init__(self, orchestrators: Orchestrators, model_name: str = "") -> None:
        self._orchestrators = orchestrators
        self._model_name = model_name
        self._created = int(time.time())
        self.known: ServedPair | None = None
        """As it was last told; None before the first time."""

    async def pair(self) -> ServedPair:
        """The pair.

        Raises:
            CallFailed: No orchestrator has told yet, and none answers.
        """
        return self.known or await self._ask()

    async def run(self) -> None:
        """Keeps what is known up to date, until cancelled."""
        while True:
            try:
                await self._ask()
            except CallFailed as error:
                logger.debug("no orchestrator answers", extra={"code": error.code.name})
            await asyncio.sleep(_INTERVAL_S if self.known else _FIRST_INTERVAL_S)

    async def _ask(self) -> ServedPair:
        info = await self._orchestrators.server_info()
        self.known = ServedPair(
            model=self._model_name or _joint_name(info),
            created=self._created,
            context_len=info.context_length,
            has_reasoning=info.chat_template.has_reasoning,
        )
        return self.known


def _joint_name(info: pb.OrchestratorServiceGetServerInfoResponse) -> str:
    return "+".join(PurePath(model.model_id).name for model in (info.slm, info.llm))
