"""The file of tenants and the hashes of their keys.

Owns its format and what is wrong with one. No message quotes what the file holds, since a key may stand where it
doesn't belong.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from services.common.files.yaml_file import read_yaml_content

KEY_PREFIX = "tvm_"
"""What every key begins with, so that scanners for secrets find one that has leaked."""

LossPolicy = Literal["wait", "slm_only", "fail"]

_NUM_KEY_BYTES = 32
# A key is longer, a name of the schema or of a tenant shorter.
_MAX_QUOTED = 32


class KeysFileError(ValueError):
    """The file can't be used; the message says why, and holds no key and no hash."""


def new_key() -> str:
    """Draws a key."""
    return KEY_PREFIX + secrets.token_urlsafe(_NUM_KEY_BYTES)


def key_digest(key: str) -> bytes:
    """What is kept of a key. It has 256 random bits, so that a plain hash can't be searched."""
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _day_begins(value: object) -> object:
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _read_digest(value: object) -> bytes:
    if not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise ValueError("expected the SHA-256 of a key, in 64 hexadecimal digits")
    return bytes.fromhex(value)


TenantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
Digest = Annotated[bytes, BeforeValidator(_read_digest)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RoutingLimits(_Section):
    """Which routing a tenant may ask for. A request that asks for none gets the closest to the default."""

    min_threshold: float = Field(default=0.0, ge=0)
    max_threshold: float | None = Field(default=None, ge=0)
    min_llm_usage: float = Field(default=0.0, ge=0, le=1)
    max_llm_usage: float = Field(default=1.0, ge=0, le=1)
    llm_loss_policies: tuple[LossPolicy, ...] = Field(default=("wait", "slm_only", "fail"), min_length=1)

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max_threshold is not None and self.max_threshold < self.min_threshold:
            raise ValueError("max_threshold is below min_threshold")
        if self.max_llm_usage < self.min_llm_usage:
            raise ValueError("max_llm_usage is below min_llm_usage")
        return self


class TenantLimits(_Section):
    """What a tenant may take of one process; None is without end."""

    max_concurrent_requests: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)
    routing: RoutingLimits = RoutingLimits()


class KeyEntry(_Section):
    """A key: whose it is, and until when."""

    tenant: TenantName
    sha256: Digest
    expires: Annotated[AwareDatetime | None, BeforeValidator(_day_begins)] = None


class KeysFile(_Section):
    """The whole file."""

    tenants: dict[TenantName, TenantLimits]
    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _known_tenants_and_no_key_twice(self) -> Self:
        for index, entry in enumerate(self.keys):
            if entry.tenant not in self.tenants:
                raise ValueError(f"keys.{index}: tenants has no {entry.tenant!r}")
        if len({entry.sha256 for entry in self.keys}) != len(self.keys):
            raise ValueError("keys: one stands there twice")
        return self


def read_keys_file(path: Path) -> KeysFile:
    """Reads a YAML or JSON file.

    Raises:
        KeysFileError: It can't be used.
    """
    content = read_yaml_content(path, KeysFileError, quotes=False)
    try:
        return KeysFile.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{path}: {_location(mistake['loc'])}{_message(mistake['msg'])}" for mistake in mistakes]
        raise KeysFileError("\n".join(lines)) from None


def key_line(tenant: str, key: str, expires: date | None = None) -> str:
    """The entry of a key, for the list `keys` of the file."""
    until = f", expires: {expires.isoformat()}" if expires else ""
    return f"  - {{tenant: {tenant}, sha256: {key_digest(key).hex()}{until}}}"


def _location(parts: tuple[int | str, ...]) -> str:
    shown = (text if len(text := str(part)) <= _MAX_QUOTED else "…" for part in parts)
    return f"{'.'.join(shown)}: " if parts else ""


def _message(text: str) -> str:
    return text.removeprefix("Value error, ")
