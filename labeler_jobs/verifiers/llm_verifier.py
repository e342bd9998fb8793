"""Asks a language model whether a differing token changes what a sentence says.

Owns the prompt, with the point of divergence marked, and reading the answer. Where the model runs is the backend's
business: `labeler_jobs.verifiers.chat_endpoint` or `labeler_jobs.verifiers.local_generator`.

Source: arXiv:2505.21600 §3.1, F.1; deviation: the prompt is worded anew and asks for a JSON answer, reason first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Protocol

from labeler_jobs.verifiers.said import NUM_HOPELESS, Readability, read_boolean
from labeler_jobs.verifiers.verifier import Verdict, VerificationCase

logger = logging.getLogger(__name__)

CONTEXT_CHARS = 4000
"""Characters of the text before the sentence that the model is shown, the last ones."""
DIVERGENCE_MARK = "[[HERE]]"


class TextGenerator(Protocol):
    """A model that answers prompts."""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """Answers user messages, each on its own, as deterministically as the model allows.

        Args:
            prompts: User messages.

        Returns:
            One answer a prompt, in order; empty where the model said nothing.

        Raises:
            VerifierUnreachable: If the model could not be asked.
        """
        ...


class LlmVerifier:
    """Judges cases by a language model; implements `labeler_jobs.verifiers.verifier.Verifier`.

    Attributes:
        num_judged: Cases judged so far.
        num_unparsable: Those among them whose answer could not be read, so that they count as divergent.
    """

    def __init__(self, generator: TextGenerator) -> None:
        """Sets a verifier up.

        Args:
            generator: The model that is asked.
        """
        self._generator = generator
        self._readability = Readability()
        self.num_judged = 0
        self.num_unparsable = 0

    def judge(self, cases: Sequence[VerificationCase]) -> list[Verdict]:
        """Judges a batch of cases; see `labeler_jobs.verifiers.verifier.Verifier.judge`.

        Raises:
            VerifierUnreachable: The model could not be asked, or none of its first answers can be read.
        """
        verdicts: list[Verdict] = []
        while len(verdicts) < len(cases):
            # A few alone, until it is known that the answers are of any use.
            end = len(cases) if self._readability.is_proven else len(verdicts) + NUM_HOPELESS
            verdicts += self._judge(cases[len(verdicts) : end])
        num_unparsable = sum(verdict.unparsable for verdict in verdicts)
        if num_unparsable:
            logger.warning("%d of %d answers can't be read and count as divergent", num_unparsable, len(cases))
        self.num_judged += len(cases)
        self.num_unparsable += num_unparsable
        return verdicts

    def _judge(self, cases: Sequence[VerificationCase]) -> list[Verdict]:
        answers = self._generator.generate([render_prompt(case) for case in cases])
        if len(answers) != len(cases):
            raise ValueError(f"the generator gave {len(answers)} answers to {len(cases)} prompts")
        verdicts = [read_verdict(answer) for answer in answers]
        for answer, verdict in zip(answers, verdicts, strict=True):
            self._readability.note(answer, is_readable=not verdict.unparsable)
        return verdicts


def render_prompt(case: VerificationCase) -> str:
    """Writes the prompt for one case, with a mark where its sentences part."""
    shared = _shared_len(case.llm_sentence, case.slm_sentence)
    sentences = (case.llm_sentence, case.slm_sentence)
    marked = [f"{sentence[:shared]}{DIVERGENCE_MARK}{sentence[shared:]}" for sentence in sentences]
    context = case.context[-CONTEXT_CHARS:]
    return _template().substitute(context=context, sentence_a=marked[0], sentence_b=marked[1], mark=DIVERGENCE_MARK)


def read_verdict(answer: str) -> Verdict:
    """Reads a model's answer.

    Args:
        answer: What the model wrote; see `said.read_boolean`.

    Returns:
        The verdict; an answer without one is unparsable and counts as divergent.
    """
    divergent = read_boolean(answer, "divergent")
    return Verdict(divergent=True, unparsable=True) if divergent is None else Verdict(divergent)


def _shared_len(first: str, second: str) -> int:
    """Length of the common beginning; a Latin word or a number that only one of them goes on with isn't cut."""
    pairs = enumerate(zip(first, second, strict=False))
    shared = next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
    while shared and _within_word(first, shared, second):
        shared -= 1
    return shared


def _within_word(first: str, at: int, second: str) -> bool:
    before, after = first[at - 1], first[at : at + 1] + second[at : at + 1]
    return before.isascii() and before.isalnum() and any(c.isascii() and c.isalnum() for c in after)


@cache
def _template() -> Template:
    return Template(files("labeler_jobs.verifiers").joinpath("prompt.txt").read_text(encoding="utf-8"))
