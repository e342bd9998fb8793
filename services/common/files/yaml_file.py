"""Reads YAML files that people write into strict schemas, and says what is wrong with them in their own words.

Owns the errors: file, key, and the closest key or value that exists; and the bounds of what is read: its size, its
depth, and that nothing in it stands for something else. Doesn't know what the files are about.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

S = TypeVar("S", bound=BaseModel)

MAX_BYTES = 2**18
"""Largest file."""
MAX_DEPTH = 32
"""Most lists and mappings within each other."""

_MAX_QUOTED = 80


def read_yaml(path: Path, schema: type[S], error_type: type[ValueError]) -> S:
    """Reads and checks a YAML file.

    Args:
        path: The file.
        schema: What has to stand in it; forbids extra keys.
        error_type: What is raised.

    Returns:
        The file's content.

    Raises:
        ValueError: Of `error_type`, a line for each mistake: the file can't be read, isn't YAML, or has a wrong key
            or value.
    """
    content = read_yaml_content(path, error_type)
    if not isinstance(content, dict):
        keys = ", ".join(schema.model_fields)
        raise error_type(f"{path}: expected the keys {keys}, found {type(content).__name__}")
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        lines = (_explain(schema, mistake) for mistake in error.errors(include_url=False))
        raise error_type("\n".join(f"{path}: {line}" for line in lines)) from error


def read_yaml_content(path: Path, error_type: type[ValueError], *, quotes: bool = True) -> Any:
    """Reads a YAML file that is within the bounds.

    Args:
        path: The file.
        error_type: What is raised.
        quotes: Whether messages may quote the file; those of one that holds secrets may not.

    Raises:
        ValueError: Of `error_type`: the file can't be read, or isn't YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise error_type(f"{path}: larger than {MAX_BYTES} bytes")
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error if quotes else type(error).__name__
        raise error_type(f"{path}: can't be read: {reason}") from (error if quotes else None)
    try:
        return yaml.load(text, _BoundedLoader)
    except (yaml.YAMLError, ValueError) as error:
        # What looks like a date or a number needn't be one.
        if quotes:
            raise error_type(f"{path}: not YAML: {error}") from error
        mark = getattr(error, "problem_mark", None)
        raise error_type(f"{path}: not YAML{f' in line {mark.line + 1}' if mark else ''}") from None


class _BoundedLoader(yaml.SafeLoader):
    """Refuses what makes a small file large: aliases, and depth."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        if self._depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def closest(given: str, known: list[str], kind: str) -> str:
    """What to write instead of something unknown: the closest that exists, else all that exist."""
    matches = difflib.get_close_matches(given[:_MAX_QUOTED], known, n=1, cutoff=0.5)
    return f"did you mean {matches[0]!r}?" if matches else f"known {kind}: {', '.join(known)}"


def _explain(schema: type[BaseModel], mistake: Any) -> str:
    location = [str(part) for part in mistake["loc"]]
    key, given = _shortened(".".join(location)), _shortened(repr(mistake["input"]))
    if mistake["type"] == "missing":
        # What was given is all that stands around it.
        return f"{key}: {mistake['msg']}"
    if mistake["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {closest(location[-1], _known_keys(schema, location[:-1]), 'keys')}"
    if mistake["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", mistake["ctx"]["expected"])
        return f"{key}: unknown value {given}: {closest(str(mistake['input']), known, 'values')}"
    return f"{key}: {mistake['msg']}, got {given}"


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"


def _known_keys(section: type[BaseModel], location: list[str]) -> list[str]:
    for key in location:
        annotation = section.model_fields[key].annotation
        # A section that may be left out is one of the annotation's arguments.
        sections = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not sections:
            raise TypeError(f"{key!r} is no section, so it can't hold an unknown key")
        section = sections[0]
    return list(section.model_fields)
