"""One response of oracle path-following: what is decided, and what it needs next of whom.

Owns the order of steps of a row, without a model. The LLM first plans: it writes on to the end of the sentence and of
the one after it. The plan is followed as long as the SLM agrees. At the first fork the LLM tries the SLM's token: it
writes from there to the end of the sentence. The verifier then compares both; what the LLM wrote after the token that
stands becomes the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from evaluation.decoding.path_following import FollowedPath, Fork, PathFollower
from labeler_jobs.models.huggingface import decode_text
from labeler_jobs.text.sentence import sentence_end, sentence_start
from labeler_jobs.verifiers.case import build_case
from labeler_jobs.verifiers.verifier import VerificationCase


@dataclass(frozen=True)
class RowReader:
    """How rows turn token ids into text, and their limits.

    Attributes:
        tokenizer: The pair's tokenizer.
        eos_token_id: Ends a response.
        max_new_tokens: Limit of a response, in tokens.
        max_sentence_len: Limit of what the LLM writes at a time, in tokens: twice as much for a plan.
    """

    tokenizer: PreTrainedTokenizerBase
    eos_token_id: int
    max_new_tokens: int
    max_sentence_len: int

    @property
    def most_new_tokens(self) -> int:
        """Most tokens after a prompt that a model is ever shown."""
        return self.max_new_tokens + 2 * self.max_sentence_len + 1

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of response tokens, special ones included."""
        return decode_text(self.tokenizer, token_ids)


class OracleRow:
    """A response that is being decoded.

    The LLM is asked to `write` after `target` until the row is `ready`. Then, if it is `trying`, its `case` is judged
    and it is told to `settle`; if its plan is `unread`, the SLM has to `read` it; and it may `advance`.

    Attributes:
        ready: Whether it needs no more of the LLM for now.
    """

    def __init__(self, reader: RowReader, prompt: Sequence[int]) -> None:
        """Starts a response.

        Args:
            reader: Text and limits.
            prompt: Token ids.
        """
        self._reader = reader
        self._follower = PathFollower(prompt, reader.eos_token_id, reader.max_new_tokens)
        self._plan: list[int] = []
        # The SLM's tokens after the path and each beginning of the plan, as far as they are known.
        self._proposals: list[int] = []
        self._fork: Fork | None = None
        # What the LLM wrote after the fork's SLM token; None while it doesn't try it.
        self._branch: list[int] | None = None
        self.ready = False

    @property
    def done(self) -> bool:
        """Whether the response is finished."""
        return self._follower.done

    @property
    def path(self) -> FollowedPath:
        """The response so far."""
        return self._follower.path

    @property
    def trying(self) -> bool:
        """Whether the LLM writes after an SLM token that differs from its own."""
        return self._branch is not None

    @property
    def unread(self) -> bool:
        """Whether the SLM has to say what it would write along the plan."""
        return self._fork is None and not self.done and len(self._proposals) < len(self._plan)

    @property
    def planned(self) -> tuple[int, ...]:
        """Prompt, path and plan: what the SLM reads."""
        return (*self._follower.sequence, *self._plan)

    @property
    def target(self) -> tuple[int, ...]:
        """What the LLM writes after."""
        if self._branch is None:
            return self.planned
        assert self._fork is not None
        return (*self._fork.prefix, self._fork.slm_token_id, *self._branch)

    def write(self, token_id: int) -> None:
        """Takes the LLM's token after `target`."""
        if self._branch is None:
            self._plan.append(token_id)
            self.ready = self._plan_suffices()
        else:
            self._branch.append(token_id)
            self.ready = self._branch_suffices()

    def read(self, first: int, token_ids: Sequence[int]) -> None:
        """Takes the SLM's tokens for consecutive positions of `planned` from `first` on, and for the one after it."""
        at = first - len(self._follower.sequence)
        self._proposals[max(at, 0) :] = token_ids[max(-at, 0) :]

    def advance(self) -> None:
        """Follows the plan to the next fork, and says what is needed of the LLM."""
        while self._fork is None and self._plan and not self.done:
            self._fork = self._follower.propose(self._proposals[0], self._plan[0])
            if self._fork is None:
                del self._plan[0], self._proposals[0]
        self.ready = False
        if self._fork is not None and self._plan_suffices():
            self._branch = []
            self.ready = self._branch_suffices()

    def case(self) -> VerificationCase:
        """What the verifier has to compare."""
        prefix, planned, tried = self._texts()
        return build_case(prefix, planned, tried)

    def settle(self, *, divergent: bool) -> None:
        """Takes the verdict on the token that was tried."""
        assert self._branch is not None
        self._follower.settle(divergent=divergent)
        if divergent:
            del self._plan[0], self._proposals[0]
        else:
            self._plan, self._proposals = self._branch, []
        self._fork = self._branch = None

    def _plan_suffices(self) -> bool:
        """Whether the plan holds the sentence that the path is in and the next one, which a verifier may look at."""
        if not self._plan:
            return False
        if self._plan[-1] == self._reader.eos_token_id or len(self._plan) >= 2 * self._reader.max_sentence_len:
            return True
        path = self.path.token_ids
        prefix, text = self._reader.text(path), self._reader.text([*path, *self._plan])
        end = sentence_end(text, sentence_start(text, len(prefix)))
        return end is not None and sentence_end(text, end) is not None

    def _branch_suffices(self) -> bool:
        """Whether the sentence with the SLM's token in it has ended."""
        assert self._fork is not None
        assert self._branch is not None
        last = self._branch[-1] if self._branch else self._fork.slm_token_id
        if last == self._reader.eos_token_id or len(self._branch) >= self._reader.max_sentence_len:
            return True
        prefix, planned, tried = self._texts()
        start = min(sentence_start(planned, len(prefix)), sentence_start(tried, len(prefix)))
        return sentence_end(tried, start) is not None

    def _texts(self) -> tuple[str, str, str]:
        """Text of the path, of path and plan, and of path and branch."""
        assert self._fork is not None
        assert self._branch is not None
        path, text = self.path.token_ids, self._reader.text
        return text(path), text([*path, *self._plan]), text([*path, self._fork.slm_token_id, *self._branch])
