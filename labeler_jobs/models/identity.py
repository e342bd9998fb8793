"""Which models a pair's sections name, and whether they can be labelled together.

Owns the identity that goes into plans and datasets. Reads configurations and digests weights; loads no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig

from router_service.description import ModelIdentity
from services.common.pair import ModelSection, Pair
from services.common.text.tokenizer import load_tokenizer, tokenizer_sha256
from services.common.weights import WeightsError, model_revision


class IdentityError(ValueError):
    """A model of the pair can't be labelled with. The message names the model and the field."""


@dataclass(frozen=True)
class LabelledModels:
    """The pair.

    Attributes:
        slm: The small model.
        llm: The large model.
        context_len: Longest sequence that both can hold, in tokens.
    """

    slm: ModelIdentity
    llm: ModelIdentity
    context_len: int


def identify_pair(pair: Pair) -> LabelledModels:
    """Identifies both models of a pair.

    Raises:
        IdentityError: A model can't be identified, or the two don't share a tokenizer.
    """
    # A folder has no name that means anything elsewhere.
    slm, slm_context_len = identify_model(pair.slm, f"trivium-{pair.name}-slm")
    llm, llm_context_len = identify_model(pair.llm, f"trivium-{pair.name}-llm")
    if slm.tokenizer_sha256 != llm.tokenizer_sha256:
        raise IdentityError(
            f"pair {pair.name}: tokenizer_sha256: the SLM's is {slm.tokenizer_sha256[:12]}…, the LLM's is "
            f"{llm.tokenizer_sha256[:12]}…: tokens of one mean nothing to the other"
        )
    return LabelledModels(slm, llm, min(slm_context_len, llm_context_len))


def identify_model(section: ModelSection, name: str) -> tuple[ModelIdentity, int]:
    """Identifies one model.

    Args:
        section: Where it is.
        name: What a folder is called.

    Returns:
        Its identity, and its context length in tokens.

    Raises:
        IdentityError: It can't be identified.
    """
    try:
        config = AutoConfig.from_pretrained(section.model, revision=section.revision or None)
        tokenizer = load_tokenizer(section.model, section.revision)
    except (OSError, ValueError, KeyError) as error:
        raise IdentityError(f"model {section.model!r}: can't be identified: {error}") from error
    text_config = config.get_text_config(decoder=True)
    folder = Path(section.model)
    try:
        revision = model_revision(section.model, section.revision)
    except WeightsError as error:
        raise IdentityError(f"model {section.model!r}: {error}") from error
    for field in ("vocab_size", "hidden_size", "max_position_embeddings"):
        if not isinstance(getattr(text_config, field, None), int):
            raise IdentityError(f"model {section.model!r}: config.json: {field} is missing")
    identity = ModelIdentity(
        model_id=name if folder.is_dir() else section.model,
        revision=revision,
        vocab_size=text_config.vocab_size,
        hidden_size=text_config.hidden_size,
        tokenizer_sha256=tokenizer_sha256(tokenizer),
    )
    return identity, text_config.max_position_embeddings
