"""The production engines: SGLang behind its public API and plugin hooks.

SGLang runs in a process of its own (`host`), because it takes over the process that it lives in: event loop policy,
signal handlers, environment, and a shutdown that ends every child. The engines here keep the sequences and talk to
it. Importing this package doesn't import SGLang.
"""

from importlib.util import find_spec

if find_spec("sglang") is None:
    raise ModuleNotFoundError("the engine 'sglang' needs the package sglang", name="sglang")

from services.engines.sglang.llm import SglangLlmEngine
from services.engines.sglang.slm import SglangSlmEngine

__all__ = ["SglangLlmEngine", "SglangSlmEngine"]
