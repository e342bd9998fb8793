"""Grades answers by a language model that is shown the question, the reference answer and the response."""

from __future__ import annotations

from string import Template

from evaluation.graders.grade import Grade, parts
from evaluation.suites.own.rows import OwnQuestion
from labeler_jobs.verifiers.llm_verifier import TextGenerator
from labeler_jobs.verifiers.said import Readability, read_boolean

_READ_CHARS = 8000
"""Characters of a reply that the model is shown, the last ones."""
_PROMPT = Template(
    """You grade the response to a question. It is correct if it comes to the same as the reference answer; wording, \
order and length don't matter, and a response that leaves the answer open isn't correct.

Question:
$question

Reference answer:
$answer

Response:
$response

Reason in one or two sentences, then end with one JSON object: {"reason": "...", "correct": true} or \
{"reason": "...", "correct": false}."""
)


class AnswerJudge:
    """Grades responses; safe to use from several threads if its generator is.

    Args:
        generator: The model that is asked.
    """

    def __init__(self, generator: TextGenerator) -> None:
        self._generator = generator
        self._readability = Readability()

    def grade(self, question: OwnQuestion, response: str) -> Grade:
        """Asks for a verdict.

        Raises:
            VerifierUnreachable: The model can't be asked, or none of its verdicts can be read.
        """
        reply = parts(response)[1].strip()
        if not reply:
            return Grade(correct=False, extracted=None, reason="says nothing")
        prompt = _PROMPT.substitute(question=question.prompt, answer=question.answer, response=reply[-_READ_CHARS:])
        [said] = self._generator.generate([prompt])
        correct = read_boolean(said, "correct")
        self._readability.note(said, is_readable=correct is not None)
        if correct is None:
            return Grade(correct=False, extracted=None, reason="the verifier's verdict can't be read")
        return Grade(correct, None, f"the verifier calls it {'correct' if correct else 'wrong'}")
