"""`trivium keys`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

keys_app = typer.Typer(name="keys", help="Makes keys for the orchestrator's keys_file.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option("--tenant", help="Whose key it is, as in `tenants` of the file.")]
Expires = Annotated[
    datetime | None,
    typer.Option("--expires", formats=["%Y-%m-%d"], help="The first day (UTC) on which it doesn't count any more."),
]


@keys_app.command()
def new(tenant: Tenant, expires: Expires = None) -> None:
    """Draws a key, and shows it this once: the file holds nothing but its hash."""
    from pydantic import TypeAdapter, ValidationError

    from services.cli.errors import CliError
    from services.common.access.keys_file import TenantName, key_line, new_key

    try:
        TypeAdapter(TenantName).validate_python(tenant)
    except ValidationError:
        raise CliError("--tenant: at most 32 lower-case letters, digits and `-`, the first no `-`") from None
    key = new_key()
    typer.echo(key)
    typer.echo(f"for the list `keys` of the file:\n{key_line(tenant, key, expires and expires.date())}", err=True)


@keys_app.command()
def check(file: Annotated[str, typer.Argument(help="A keys_file.")]) -> None:
    """Tells what a file says, or what is wrong with it."""
    from pathlib import Path

    from services.cli.errors import CliError
    from services.common.access.keys_file import KeysFileError, read_keys_file

    try:
        content = read_keys_file(Path(file))
    except KeysFileError as error:
        raise CliError(str(error)) from error
    for tenant in content.tenants:
        typer.echo(f"{tenant}: {sum(entry.tenant == tenant for entry in content.keys)} keys")


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    app.add_typer(keys_app)
