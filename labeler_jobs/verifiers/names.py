"""What a command line calls a verifier. Imports nothing that loads a model or speaks HTTP."""

from __future__ import annotations

SUITE = "suite"
"""Knows the sentences of the reference suite."""
LOCAL = "model:"
"""Before the folder or the Hugging Face id of a model that is loaded here."""


class VerifierChoiceError(ValueError):
    """No verifier can be made of this. The message names the option or the environment variable."""


def is_url(name: str) -> bool:
    """Whether it is the beginning of an endpoint's URL."""
    return name.startswith(("http://", "https://"))


def check_name(name: str) -> None:
    """Refuses what names no verifier.

    Raises:
        VerifierChoiceError: It doesn't.
    """
    is_local = name.startswith(LOCAL) and name != LOCAL
    if not (name == SUITE or is_url(name) or is_local):
        raise VerifierChoiceError(
            f"--verifier: {name!r}: expected {SUITE!r}, a URL (http://…) or a model (model:PATH or model:ID)"
        )
