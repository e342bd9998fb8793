"""The paths that models answer at: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from services.client import CallFailed
from services.gateway.bodies import read_json
from services.gateway.errors import MODEL_NOT_FOUND, ApiError, invalid, of_call
from services.gateway.keys import key_of
from services.gateway.openai.chat import ChatRequest, plan_chat
from services.gateway.openai.common import with_headers
from services.gateway.openai.completions import CompletionRequest, plan_completion
from services.gateway.openai.plan import Limits, Plan
from services.gateway.openapi import completion_docs
from services.gateway.pair import ServedPair
from services.gateway.state import Gateway, gateway_of
from services.gateway.streaming.response import CompletionResponse
from services.gateway.streaming.sse import LAST_EVENT_ID, Place, parse_place

router = APIRouter(tags=["completions"])

MakePlan = Callable[[Mapping[str, Any], str, Limits], Plan]


@router.post("/v1/chat/completions", openapi_extra=completion_docs(ChatRequest, "chat.completion"))
async def chat_completions(request: Request) -> Response:
    """Answers a conversation."""
    return await _answer(request, plan_chat)


@router.post("/v1/completions", openapi_extra=completion_docs(CompletionRequest, "text_completion"))
async def completions(request: Request) -> Response:
    """Goes on with a text."""
    return await _answer(request, plan_completion)


async def _answer(request: Request, make_plan: MakePlan) -> Response:
    gateway = gateway_of(request)
    settings = gateway.settings
    body = await read_json(request, max_bytes=int(settings.max_body_mb * 2**20), timeout_s=settings.body_timeout_s)
    event_id = request.headers.get(LAST_EVENT_ID)
    place = parse_place(event_id) if event_id else None
    request_id = place.request_id if place else uuid.uuid4().hex
    plan = make_plan(with_headers(body, request.headers), request_id, gateway.limits)
    pair = await known_pair(gateway)
    if plan.request.model not in (None, pair.model):
        raise unknown_model(plan.request.model, pair)
    return CompletionResponse(
        resumed(plan, place) if place else plan,
        gateway.orchestrators,
        gateway.terms,
        model=pair.model,
        splits_reasoning=plan.separates_reasoning and settings.split_reasoning and pair.has_reasoning,
        counts=gateway.counts,
        resumed=place,
        api_key=key_of(request),
    )


async def known_pair(gateway: Gateway) -> ServedPair:
    """The pair that is served.

    Raises:
        ApiError: Nobody has told yet.
    """
    try:
        return await gateway.watch.pair()
    except CallFailed as failure:
        raise of_call(failure, "") from None


def unknown_model(name: str | None, pair: ServedPair) -> ApiError:
    """A model that isn't served."""
    shown = (name or "")[:256]
    return ApiError(MODEL_NOT_FOUND, f"model: there is no {shown!r}; {pair.model!r} is served", "model")


def resumed(plan: Plan, place: Place) -> Plan:
    """The plan of a stream that broke: the orchestrator tells all of it again, and what the reader has is left out.

    Raises:
        ApiError: It can't be gone on with.
    """
    if not plan.stream or len(plan.requests) > 1:
        raise invalid(LAST_EVENT_ID, "only a stream of one answer can be gone on with")
    [request] = plan.requests
    request.resume_from = 0
    return replace(plan, requests=[request], request_id=place.request_id)
