"""Builds `trivium.v1` from the .proto files beside this one.

Owns the generated code: it is written next to its sources, ignored by git and shipped in the wheel. Runs as
hatchling's build hook on every install, and by hand as `python protos/build.py`.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent


def generate() -> list[Path]:
    """Generates messages, stubs and type stubs.

    Returns:
        The generated files.

    Raises:
        RuntimeError: protoc refused a file; its own message is on stderr.
    """
    sources = sorted(ROOT.glob("trivium/v1/*.proto"))
    include = importlib.resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{include}",
        f"--python_out={ROOT}",
        f"--grpc_python_out={ROOT}",
        f"--mypy_out={ROOT}",
        f"--mypy_grpc_out={ROOT}",
        *(str(source) for source in sources),
    ]
    status: int = protoc.main(arguments)
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status}")
    return sorted(ROOT.glob("trivium/v1/*_pb2*.py*"))


class ProtoBuildHook(BuildHookInterface[Any]):
    """Generates before hatchling collects files, for wheels and editable installs alike."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the generated files to the build as artifacts."""
        generate()
        build_data["artifacts"].append("protos/trivium/v1/*_pb2*")


if __name__ == "__main__":
    generate()
