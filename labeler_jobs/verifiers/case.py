"""The two sentences of a fork, as a verifier is shown them."""

from labeler_jobs.text.sentence import sentence_end, sentence_start
from labeler_jobs.verifiers.verifier import VerificationCase


def build_case(prefix_text: str, llm_text: str, slm_text: str) -> VerificationCase:
    """Cuts the sentence around the fork out of both texts.

    Args:
        prefix_text: What both texts share.
        llm_text: The LLM's whole response.
        slm_text: Prefix, SLM token and continuation.

    Returns:
        The case, its sentences beginning at the same character.
    """
    start = min(sentence_start(llm_text, len(prefix_text)), sentence_start(slm_text, len(prefix_text)))
    llm_end = sentence_end(llm_text, start)
    return VerificationCase(
        context=llm_text[:start].strip(),
        llm_sentence=llm_text[start:llm_end].strip(),
        slm_sentence=slm_text[start : sentence_end(slm_text, start)].strip(),
        llm_rest="" if llm_end is None else llm_text[llm_end:].strip(),
    )
