"""The paths that tell which model is served."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from services.gateway.openapi import error_docs
from services.gateway.pair import ServedPair
from services.gateway.routes.completions import known_pair, unknown_model
from services.gateway.state import gateway_of

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=error_docs(401, 403, 503))
async def models(request: Request) -> dict[str, Any]:
    """Lists the one model: the pair."""
    pair = await known_pair(gateway_of(request))
    return {"object": "list", "data": [_described(pair)]}


@router.get("/v1/models/{model_id:path}", responses=error_docs(401, 403, 404, 503))
async def model(model_id: str, request: Request) -> dict[str, Any]:
    """Describes a model."""
    pair = await known_pair(gateway_of(request))
    if model_id != pair.model:
        raise unknown_model(model_id, pair)
    return _described(pair)


def _described(pair: ServedPair) -> dict[str, Any]:
    return {
        "id": pair.model,
        "object": "model",
        "created": pair.created,
        "owned_by": "trivium",
        "max_model_len": pair.context_len,
    }
