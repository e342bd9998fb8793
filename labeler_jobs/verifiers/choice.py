"""Opens the language model that a command line names as verifier.

Owns the names: a URL is an OpenAI-compatible endpoint, "model:…" a model that this process loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.verifiers.chat_endpoint import ChatEndpoint, VerifierChoiceError, endpoint_settings, is_url
from labeler_jobs.verifiers.llm_verifier import LlmVerifier
from labeler_jobs.verifiers.local_generator import LocalGenerator
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine

_LOCAL = "model:"


@contextmanager
def open_llm_verifier(name: str, engine: str, options: EngineOptions) -> Iterator[LlmVerifier]:
    """Opens a language model as verifier, and closes it with the block.

    Args:
        name: "http://…" or "https://…", the beginning of an OpenAI-compatible URL: which model answers there, and all
            else about it, is read from `TRIVIUM_VERIFIER_…`. Or "model:" with a Hugging Face id or a folder, with
            "@revision" if wanted.
        engine: Runs a model of this process: "transformers" or "sglang".
        options: How that engine is set up; its model is replaced.

    Raises:
        VerifierChoiceError: If the name is neither, or a setting is missing or wrong.
        ModelLoadError: If the model can't be loaded.
    """
    if is_url(name):
        yield LlmVerifier(ChatEndpoint(endpoint_settings(name)))
    elif name.startswith(_LOCAL) and name != _LOCAL:
        model, _, revision = name.removeprefix(_LOCAL).partition("@")
        loaded = create_slm_engine(engine, replace(options, model=model, revision=revision))
        with GreedyWriter(loaded, options.max_batch_size) as writer:
            yield LlmVerifier(LocalGenerator(writer, load_tokenizer(model, revision)))
    else:
        raise VerifierChoiceError(f"verifier {name!r}: expected a URL (http://…) or a model (model:PATH or model:ID)")
