"""A language model on an engine of this process, as the backend of `labeler_jobs.verifiers.llm_verifier`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from labeler_jobs.verifiers.verifier import VerifierUnreachable
from services.common.errors import ContextLengthExceeded


class Writer(Protocol):
    """Continues token sequences greedily; `labeler_jobs.models.writer.GreedyWriter` is one."""

    def write(self, prefixes: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Continues each prefix up to an end-of-sequence token, which is kept, or up to the limit."""
        ...


class LocalGenerator:
    """Answers prompts greedily; implements `labeler_jobs.verifiers.llm_verifier.TextGenerator`."""

    def __init__(self, writer: Writer, tokenizer: PreTrainedTokenizerFast, max_tokens: int = 512) -> None:
        """Sets a generator up.

        Args:
            writer: Writes with the model; entered already.
            tokenizer: The model's tokenizer, with a chat template.
            max_tokens: Limit of an answer, in tokens.
        """
        self._writer = writer
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Answers user messages; see `TextGenerator.generate`.

        Raises:
            VerifierUnreachable: If a prompt is longer than the model's context.
        """
        try:
            written = self._writer.write([self._encode(prompt) for prompt in prompts], self._max_tokens)
        except ContextLengthExceeded as error:
            raise VerifierUnreachable(f"the verifier's model needs a longer context: {error}") from error
        return [str(self._tokenizer.decode(token_ids, skip_special_tokens=True)) for token_ids in written]

    def _encode(self, prompt: str) -> list[int]:
        messages = [{"role": "user", "content": prompt}]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        token_ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return token_ids
