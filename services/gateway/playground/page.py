"""Serves the page and its two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    # Scripts, styles and requests of this server alone, in no frame of another's page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
}


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.get("/playground/{part}")
async def part(part: Literal["playground.css", "playground.js"]) -> FileResponse:
    """A part of the page."""
    return FileResponse(_FOLDER / part, headers=_HEADERS)
