"""Lets a torchvision wheel be imported that was built for CUDA, which is the only kind on the package index.

Owns an import hook that a `.pth` file starts with every interpreter; it costs one entry in `sys.meta_path` until
torchvision is imported. Such a wheel can't load its operators without CUDA, and then fails to register a shape
function for two of them. Declaring these operators beforehand lets the import pass; calling them still fails.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_libraries: list[object] = []


class TorchvisionHook:
    """Declares the operators when torchvision is first looked for."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds nothing; the declaration is its side effect."""
        if name == "torchvision" and not _libraries:
            import torch

            library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
            # An operator lives as long as the library object that declared it.
            _libraries.append(library)
            for operator in ("nms", "qnms"):
                schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                library.define(schema)  # type: ignore[no-untyped-call]
        return None


sys.meta_path.insert(0, TorchvisionHook())
