"""Reads JSON files that come with models and says what is wrong with them; writes them whole or not at all.

Owns the errors: whatever the file is, a reader gets an object or one kind of exception that names the file. Doesn't
know what the files are about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 2**26
"""Largest file: the weight maps of the largest models take a few MiB."""


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; the file changes whole or not at all."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    aside.replace(path)


def read_json_object(path: Path, error_type: type[ValueError]) -> dict[str, Any]:
    """Reads a JSON file that holds an object.

    Args:
        path: The file.
        error_type: What is raised.

    Raises:
        ValueError: Of `error_type`: the file is missing or can't be read, is too large, isn't JSON, is nested too
            deep, or holds something else.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise error_type(f"{path}: no such file") from error
    except OSError as error:
        raise error_type(f"{path}: can't be read: {error}") from error
    if len(data) > MAX_BYTES:
        raise error_type(f"{path}: larger than {MAX_BYTES} bytes")
    try:
        content = json.loads(data.decode())
    except RecursionError as error:
        raise error_type(f"{path}: not valid JSON: nested too deep") from error
    except ValueError as error:
        raise error_type(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise error_type(f"{path}: the document must be an object")
    return content
