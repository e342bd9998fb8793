"""What is learnt from requests while they run: a shadow's decisions, and a sample of drafts."""

from __future__ import annotations

from dataclasses import dataclass

from trivium.v1 import router_pb2

from services.orchestrator.learning.sample import Sampler, SequenceSample
from services.orchestrator.learning.shadow import SequenceShadow, Shadow
from services.orchestrator.requests.task import GenerationTask


@dataclass(frozen=True, slots=True)
class Learning:
    """What is set up of both.

    Args:
        shadow: A second rule, if there is one.
        sampler: Draws the sample, if there is to be one.
    """

    shadow: Shadow | None = None
    sampler: Sampler | None = None

    def begin(
        self, task: GenerationTask, shadow_router: router_pb2.RouterInfo | None
    ) -> tuple[SequenceShadow | None, SequenceSample | None]:
        """The shadow and the sample of a new sequence, as far as it has one.

        Args:
            task: What was asked for. Of a request that is resumed, too much is unknown: it has neither.
            shadow_router: The router that the router service has for the shadow.
        """
        if task.resume_from is not None:
            return None, None
        shadow = self.shadow.begin(len(task.prompt_token_ids), shadow_router) if self.shadow else None
        return shadow, self.sampler.begin(task) if self.sampler else None
