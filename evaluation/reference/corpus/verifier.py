"""The suite's programmatic verifier and grader.

Every sentence of the suite says something that can be read off: which numbers in which order, about whom or what,
with which operation. Words that only carry tone are left out and synonyms are folded, so two sentences mean the same
exactly when what is left of them is equal. It takes the place of the paper's 72B verifier model; it knows this suite
only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from labeler_jobs.verifiers.verifier import Verdict, VerificationCase

_ANSWER = re.compile(r"The answer is (\d+)\.")
_EQUATION = re.compile(r"(\d+) (plus|minus|times) (\d+) (?:is|makes|gives) (\d+)")
_WORD = re.compile(r"\d+|[A-Za-z]+|</?think>|<\|[a-z_]+\|>|[>]")
_CHECKS = ("Wait, let me double-check:", "Let me check that again:")
_PHRASES = (("gives up", "minus"), ("is short", "minus"))
_SYNONYMS = {
    "adds": "plus", "raises": "plus", "gets": "plus", "gains": "plus", "more": "plus", "older": "plus",
    "takes": "minus", "lowers": "minus", "loses": "minus", "less": "minus", "fewer": "minus", "younger": "minus",
    "doubles": "times", "twice": "times",
}  # fmt: skip
_TONE_WORDS = """
    a again and as at begin by check checks compared costs count dollars double end facts first from gives has he if
    in is it large let line makes many me means much next now number of old on points prints program say sets she so
    starts stays still tests that the then to wait which with years
"""
_TONE = frozenset(_TONE_WORDS.split())


@dataclass(frozen=True)
class Meaning:
    """What a sentence says.

    Attributes:
        numbers: Its numbers, in order.
        words: Its names, things, operators and truth values.
    """

    numbers: tuple[int, ...]
    words: frozenset[str]


def read_meaning(sentence: str) -> Meaning:
    """Reads what a sentence of the suite says, wording left out."""
    text = sentence
    for phrase, folded in _PHRASES:
        text = text.replace(phrase, folded)
    tokens = _WORD.findall(text)
    words = (token.lower() for token in tokens if not token.isdigit())
    return Meaning(
        numbers=tuple(int(token) for token in tokens if token.isdigit()),
        words=frozenset(_SYNONYMS.get(word, word) for word in words if word not in _TONE),
    )


class SuiteVerifier:
    """Judges the suite's sentences by their meaning; implements `labeler_jobs.verifiers.verifier.Verifier`."""

    def judge(self, cases: Sequence[VerificationCase]) -> list[Verdict]:
        """Judges whether the SLM's sentences say something else than the LLM's.

        A double-check that repeats the last equation correctly adds nothing, on either side.
        """
        return [Verdict(_is_divergent(case)) for case in cases]


def extract_answer(response: str) -> int | None:
    """The number in the response's last "The answer is N.", or None when there is none."""
    found = _ANSWER.findall(response)
    return int(found[-1]) if found else None


def is_correct(response: str, answer: int) -> bool:
    """Tells whether a response states this answer."""
    return extract_answer(response) == answer


def _is_divergent(case: VerificationCase) -> bool:
    if _is_check(case.slm_sentence) and not _is_check(case.llm_sentence):
        return not _repeats_last_equation(case.slm_sentence, case.context)
    llm_sentence = case.llm_sentence
    if _is_check(llm_sentence) and not _is_check(case.slm_sentence):
        llm_sentence = case.llm_rest.split("\n", 1)[0]
    return read_meaning(llm_sentence) != read_meaning(case.slm_sentence)


def _is_check(sentence: str) -> bool:
    return sentence.startswith(_CHECKS)


def _repeats_last_equation(sentence: str, context: str) -> bool:
    claimed, earlier = _EQUATION.findall(sentence), _EQUATION.findall(context)
    return bool(claimed) and bool(earlier) and claimed[-1] == earlier[-1]
