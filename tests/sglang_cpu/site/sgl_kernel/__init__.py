"""Stands in for SGLang's compiled kernels where there is no GPU: any name can be imported, calling one raises.

Owns nothing. It belongs to the test set-up and is never installed beside a real `sglang-kernel`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

__version__ = "0.4.10"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    # Dunder probes (`__path__`, `__wrapped__` ...) decide how a module is treated: they must be told the truth.
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} needs a GPU")

    return kernel
