"""What the paths of the gateway share: one object a process, made in `services.gateway.app`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from services.common.serving.telemetry import Telemetry
from services.gateway.metrics import Counts
from services.gateway.middleware import Door
from services.gateway.openai.plan import Limits
from services.gateway.pair import PairWatch
from services.gateway.settings import GatewaySettings
from services.gateway.streaming.choices import Orchestrators
from services.gateway.streaming.response import Terms


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway."""

    settings: GatewaySettings
    orchestrators: Orchestrators
    watch: PairWatch
    door: Door
    counts: Counts
    telemetry: Telemetry

    @property
    def limits(self) -> Limits:
        """What requests may ask for."""
        settings = self.settings
        return Limits(settings.max_n, settings.max_prompts, settings.default_temperature)

    @property
    def terms(self) -> Terms:
        """How requests are run."""
        return Terms(self.settings.timeout_s, self.settings.keep_alive_s)


def gateway_of(request: Request) -> Gateway:
    """The gateway that a request came to."""
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway
