"""Opens the language model that a command line names as verifier.

Owns the names: a URL is an OpenAI-compatible endpoint, "model:…" a model that this process loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from transformers import AutoConfig

from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.verifiers.chat_endpoint import ChatEndpoint, endpoint_settings
from labeler_jobs.verifiers.llm_verifier import LlmVerifier
from labeler_jobs.verifiers.local_generator import LocalGenerator
from labeler_jobs.verifiers.names import LOCAL, SUITE, VerifierChoiceError, check_name, is_url
from services.common.text.tokenizer import load_tokenizer
from services.engines.base import EngineOptions
from services.engines.factory import create_slm_engine


def check_llm_verifier(name: str) -> str:
    """Checks a verifier's name and settings, without asking anyone.

    Args:
        name: As in `open_llm_verifier`.

    Returns:
        The model that answers at a URL; empty for a model of this process.

    Raises:
        VerifierChoiceError: The name is neither, or a setting is missing or wrong.
    """
    check_name(name)
    if name == SUITE:
        raise VerifierChoiceError(f"--verifier: {SUITE!r} is no language model")
    return endpoint_settings(name).model if is_url(name) else ""


def reach_llm_verifier(name: str) -> None:
    """Makes sure that a verifier can be had, before work is done for it.

    Args:
        name: One that `check_llm_verifier` takes.

    Raises:
        VerifierChoiceError: The model isn't there, or can't chat.
        VerifierUnreachable: The endpoint isn't there, or refuses a question.
    """
    if is_url(name):
        ChatEndpoint(endpoint_settings(name)).check()
        return
    model, _, revision = name.removeprefix(LOCAL).partition("@")
    try:
        AutoConfig.from_pretrained(model, revision=revision or None)
        tokenizer = load_tokenizer(model, revision)
    except (OSError, ValueError, KeyError) as error:
        told = " ".join(str(error).split())
        raise VerifierChoiceError(f"--verifier: the model {model!r} can't be loaded: {told}") from error
    if not tokenizer.chat_template:
        raise VerifierChoiceError(f"--verifier: the model {model!r} has no chat template, so it can't be asked")


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
    check_llm_verifier(name)
    if is_url(name):
        yield LlmVerifier(ChatEndpoint(endpoint_settings(name)))
    else:
        model, _, revision = name.removeprefix(LOCAL).partition("@")
        loaded = create_slm_engine(engine, replace(options, model=model, revision=revision))
        with GreedyWriter(loaded, options.max_batch_size) as writer:
            yield LlmVerifier(LocalGenerator(writer, load_tokenizer(model, revision)))
