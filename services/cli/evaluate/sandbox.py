"""`trivium evaluate sandbox`: what this machine offers for running a model's programs apart."""

from __future__ import annotations

import typer
from rich.text import Text

from evaluation.graders.sandbox_check import sandbox_parts
from services.cli.console import out


def show_sandbox() -> None:
    """Writes one line for each part of the isolation.

    Raises:
        typer.Exit: With 1, where programs would be refused.
    """
    parts = sandbox_parts()
    for part in parts:
        mark, style = ("ok", "green") if part.is_there else ("missing", "red" if part.is_needed else "yellow")
        out.print(Text.assemble((f"{mark:<9}", style), f"{part.name}: {part.detail}"), soft_wrap=True)
    if any(part.is_needed and not part.is_there for part in parts):
        out.print("A model's programs aren't run here, unless --allow-unisolated-code insists on it.", soft_wrap=True)
        raise typer.Exit(1)
