"""The paths for whoever runs the gateway: its health and its metrics."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.errors import UNAVAILABLE, ApiError
from services.gateway.openapi import error_docs
from services.gateway.state import gateway_of

router = APIRouter(tags=["operations"])


@router.get("/health", responses=error_docs(503))
async def health(request: Request) -> dict[str, str]:
    """Whether requests are to come here: once an orchestrator has told which pair is served, until the end begins.

    An orchestrator that is away later changes nothing: streams wait for it, and may come back through any gateway.
    """
    gateway = gateway_of(request)
    if gateway.door.is_closing:
        raise ApiError(UNAVAILABLE, "this gateway is about to stop")
    if gateway.watch.known is None:
        raise ApiError(UNAVAILABLE, "no orchestrator has answered yet")
    return {"status": "ok", "model": gateway.watch.known.model}


@router.get("/live")
async def live() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus metrics"}},
)
def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(gateway_of(request).telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")
