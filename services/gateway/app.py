"""Assembles the gateway's ASGI app from its parts. Starts nothing."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.errors import BY_STATUS, INVALID, ApiError, Kind
from services.gateway.middleware import REQUEST_ID, RequestGuard
from services.gateway.openapi import describe
from services.gateway.playground.page import router as page
from services.gateway.routes import completions, models, operations
from services.gateway.state import Gateway

Authenticate = Callable[[Request], Awaitable[None]]
"""Lets a request to /v1 pass, or raises an `ApiError`. Nothing of its body has been read."""


async def anyone(request: Request) -> None:
    """Lets every request pass."""


def create_app(gateway: Gateway, authenticate: Authenticate = anyone) -> FastAPI:
    """Makes the app.

    Args:
        gateway: What it shares with the process.
        authenticate: Who may call /v1.
    """
    app = FastAPI(
        title="Trivium",
        version=importlib.metadata.version("trivium"),
        description="OpenAI's API over a small and a large language model that write as one.",
        middleware=_middleware(gateway),
        # Its pages would load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    for module in (completions, models):
        app.include_router(module.router, dependencies=[Depends(authenticate)])
    app.include_router(operations.router)
    if gateway.settings.playground:
        app.include_router(page)
    _tell_errors(app)
    describe(app)
    return app


def create_operations_app(gateway: Gateway) -> FastAPI:
    """Makes the app of the port that is for whoever runs the gateway alone."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.gateway = gateway
    app.include_router(operations.router)
    _tell_errors(app)
    return app


def _tell_errors(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)


def _middleware(gateway: Gateway) -> list[Middleware]:
    layers = [Middleware(RequestGuard, door=gateway.door, counts=gateway.counts)]
    if gateway.settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(gateway.settings.cors_origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=[REQUEST_ID],
            )
        )
    return layers


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Of the router, which knows paths and methods."""
    assert isinstance(error, HTTPException)
    kind = BY_STATUS.get(error.status_code, Kind(error.status_code, INVALID.type))
    path = request.url.path[:256]
    messages = {404: f"there is no {path}", 405: f"{path} has no method {request.method[:32]}"}
    response = ApiError(kind, messages.get(error.status_code, str(error.detail))).response()
    response.headers.update(error.headers or {})
    return response
