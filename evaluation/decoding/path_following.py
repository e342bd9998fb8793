"""Path-following: prefer the SLM's token unless it leads the LLM's own continuation elsewhere.

Owns the algorithm and nothing else: `PathFollower` decides token by token and asks nobody. Whoever drives it asks the
models and the verifier, so that it can be tested where the truth is known.

A driver that lets the LLM write on to the end of the response ("full") gets a path whose every prefix leads the LLM
to a response of the quality of its own, and so does the whole path. The proof compares each step with the one before,
so it needs a verifier whose judgement carries over: whatever equals an equal is equal. With continuations up to the
end of the sentence, a token counts as neutral once its sentence says the same; a difference that shows only later is
missed.

Source: arXiv:2505.21600 §3.2, Algorithm 1 and Appendix E; deviation: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from labeler_jobs.verifiers.verifier import Label


@dataclass(frozen=True)
class Fork:
    """A position at which the models differ.

    Attributes:
        prefix: Prompt and path so far, token ids.
        slm_token_id: What the SLM writes there.
        llm_token_id: What the LLM writes there.
    """

    prefix: tuple[int, ...]
    slm_token_id: int
    llm_token_id: int


@dataclass(frozen=True)
class FollowedPath:
    """A response that follows the LLM's path.

    Attributes:
        token_ids: The response, EOS included when it was reached.
        labels: For each token, how the SLM's token relates to the LLM's at that prefix. Where it is DIVERGENT the
            response has the LLM's token, else the SLM's.
    """

    token_ids: tuple[int, ...]
    labels: tuple[Label, ...]


class PathFollower:
    """Decides one path token by token. Call `propose`, and `settle` after every fork, until `done`."""

    def __init__(self, prompt: Sequence[int], eos_token_id: int, max_new_tokens: int) -> None:
        """Starts a path.

        Args:
            prompt: Token ids.
            eos_token_id: Ends the response, whoever writes it.
            max_new_tokens: Limit of the response, in tokens.
        """
        self._sequence = list(prompt)
        self._prompt_len = len(prompt)
        self._labels: list[Label] = []
        self._fork: Fork | None = None
        self._eos_token_id = eos_token_id
        self._max_new_tokens = max_new_tokens

    @property
    def done(self) -> bool:
        """Whether the response has ended, or reached its limit."""
        ended = bool(self._labels) and self._sequence[-1] == self._eos_token_id
        return ended or len(self._labels) >= self._max_new_tokens

    @property
    def sequence(self) -> tuple[int, ...]:
        """Prompt and path so far."""
        return tuple(self._sequence)

    @property
    def path(self) -> FollowedPath:
        """What has been decided so far."""
        return FollowedPath(tuple(self._sequence[self._prompt_len :]), tuple(self._labels))

    def propose(self, slm_token_id: int, llm_token_id: int) -> Fork | None:
        """Takes what both models write next.

        Returns:
            None where they agree: the token is taken. Else the fork that `settle` has to decide.
        """
        if self._fork is not None or self.done:
            raise RuntimeError("settle the fork first" if self._fork is not None else "the path has ended")
        if slm_token_id == llm_token_id:
            self._take(slm_token_id, Label.IDENTICAL)
            return None
        self._fork = Fork(self.sequence, slm_token_id, llm_token_id)
        return self._fork

    def settle(self, *, divergent: bool) -> None:
        """Decides the open fork: the LLM's token if the SLM's diverges, else the SLM's."""
        if self._fork is None:
            raise RuntimeError("there is no fork to settle")
        fork, self._fork = self._fork, None
        if divergent:
            self._take(fork.llm_token_id, Label.DIVERGENT)
        else:
            self._take(fork.slm_token_id, Label.NEUTRAL)

    def _take(self, token_id: int, label: Label) -> None:
        self._sequence.append(token_id)
        self._labels.append(label)
