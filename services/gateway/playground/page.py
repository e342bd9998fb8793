"""Serves the page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).with_name("index.html")


@router.get("/")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(_PAGE, media_type="text/html; charset=utf-8")
