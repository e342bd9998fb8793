"""The routing core: decides, token by token, who writes. Start reading Trivium here.

For a prefix x of prompt and accepted tokens, the next token y is

    s = SLM(x)                              the small model's draft
    y = s  if accept(x, s)  else  LLM(x)    accept is the rule's; the router's is p(features of s) < threshold

repeated until an end. Run one token at a time, that is the *reference decoding*. `RoutingCore` decodes the same
tokens while the three models work at the same time, on one sequence, in any order of messages, through the loss of
any peer.

The idea: `tokens` is a hypothesis, the prompt and all that is drafted so far. Each undecided position has a slot. A
slot is *decided* by the rule's verdict on its score, or by the LLM's answer, always given that the tokens before it
stand. An answer that differs from the draft replaces it and drops every slot after it, because those were drafted
after another prefix. Decided slots leave from the front, in order, as accepted tokens: those never change.

Where no LLM is left and the caller chooses to go on without, drafts of routed positions stand until there is an LLM
again. They are marked, for only then may the tokens differ from the reference decoding.

What a peer says may come late, twice, or never. So every draft and score carries the epoch of the rewind that it
follows, and every LLM answer the id of its pass: what doesn't match is ignored.

This file is pure: events are method calls, actions are returned, and nothing waits, sends or measures time.
Source: arXiv:2505.21600 §4.3 and A.4; deviation: the SLM drafts past a token that is still undecided (run-ahead).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.orchestrator.routing.actions import (
    AcceptedToken,
    Action,
    AskLlm,
    Emit,
    Finish,
    FinishReason,
    GrantSlm,
    NoText,
    OpenSlm,
    RewindSlm,
    Source,
    TextReader,
)
from services.orchestrator.routing.depth import RunAhead
from services.rules.decider import Decider, Draft, Verdict


@dataclass(frozen=True, slots=True)
class Ending:
    """When a sequence ends.

    Args:
        eos_token_ids: End-of-sequence tokens of either model.
        max_len: Prompt and completion together hold at most this many tokens.
        text: Reads each accepted token that is not EOS, in order; a stop string ends the sequence.
    """

    eos_token_ids: frozenset[int]
    max_len: int
    text: TextReader = field(default_factory=NoText)


@dataclass(slots=True)
class _Slot:
    """An undecided or not yet accepted position. Flagged: the LLM is to be asked, and hasn't answered."""

    token_id: int
    epoch: int
    score: float | None = None
    verdict: Verdict | None = None
    decided_by: Source | None = None

    @property
    def flagged(self) -> bool:
        return self.verdict is not None and self.decided_by is None


class RoutingCore:
    """The state machine of one sequence. Every event returns the actions it calls for, in order.

    Args:
        prompt_token_ids: The prompt, at least one token.
        decider: The rule, for this sequence alone.
        ending: When the sequence ends.
        run_ahead: How far the SLM may draft past the oldest undecided position.
        resumed: Tokens accepted in an earlier life of the sequence.
    """

    def __init__(
        self,
        prompt_token_ids: Sequence[int],
        *,
        decider: Decider,
        ending: Ending,
        run_ahead: RunAhead,
        resumed: Sequence[AcceptedToken] = (),
    ) -> None:
        if not prompt_token_ids:
            raise ValueError("prompt_token_ids: at least one token")
        self.num_drafts_dropped = 0
        self.num_answers_dropped = 0
        self._decider = decider
        self._ending = ending
        self._run_ahead = run_ahead
        self._tokens = [*prompt_token_ids, *(token.token_id for token in resumed)]
        self._resumed = tuple(resumed)
        self._stop = ""
        self._slots: deque[_Slot] = deque()
        self._finish_reason: FinishReason | None = None
        self._slm_attached = False
        self._epoch = 0
        self._draft_until = 0
        self._llm_attached = False
        self._llm_absent = False
        self._llm_held_len = 0
        self._pass_id = 0
        self._pass_queries: tuple[int, ...] = ()
        self._resumed_texts = tuple(self._read(token.token_id) for token in resumed)
        for token in resumed:
            self._tell_decider(token)
        if len(self._tokens) >= ending.max_len:
            self._finish_reason = self._finish_reason or FinishReason.LENGTH

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the sequence ended; None while it runs."""
        return self._finish_reason

    @property
    def accepted_len(self) -> int:
        """Number of final tokens, prompt included."""
        return len(self._tokens) - len(self._slots)

    @property
    def llm_held_len(self) -> int:
        """Number of leading tokens of the hypothesis that the LLM is thought to hold."""
        return self._llm_held_len

    @property
    def tokens(self) -> Sequence[int]:
        """The hypothesis: prompt, accepted tokens, and drafts that are not accepted yet."""
        return self._tokens

    @property
    def awaits_draft(self) -> bool:
        """Whether the SLM may draft, so that a draft has to come."""
        at_eos = bool(self._slots) and self._tokens[-1] in self._ending.eos_token_ids
        return self._slm_attached and not at_eos and len(self._tokens) < self._draft_until

    @property
    def awaits_answer(self) -> bool:
        """Whether the LLM was asked and hasn't answered."""
        return bool(self._pass_queries)

    def begin(self) -> list[Action]:
        """Emits what an earlier life of the sequence has left, before any other event. It may be all there is."""
        actions: list[Action] = [Emit(self._resumed, self._resumed_texts)] if self._resumed else []
        if self._finish_reason:
            actions.append(self._finish(self._finish_reason))
        return actions

    # --- events: the SLM

    def slm_ready(self) -> list[Action]:
        """An SLM replica is at hand; it knows nothing of this sequence yet."""
        if self._finish_reason:
            return []
        self._slm_attached = True
        self._epoch += 1
        self._draft_until = self._window_end()
        # A prefix without room for one more draft would be refused, so the last draft may be made twice.
        prefix = tuple(self._tokens[: self._ending.max_len - 1])
        return [OpenSlm(prefix, self._epoch, self._draft_until)]

    def slm_lost(self) -> list[Action]:
        """The SLM replica is gone. Drafts that arrived stand; those on their way are void."""
        self._slm_attached = False
        self._epoch += 1
        return []

    def drafted(self, position: int, token_id: int, epoch: int) -> bool:
        """The SLM drafted a token.

        Returns:
            True if it is current: then the router is to score it, and its score comes back through `scored`.
        """
        if self._finish_reason or epoch != self._epoch or position != len(self._tokens):
            return False
        self._tokens.append(token_id)
        self._slots.append(_Slot(token_id, epoch))
        return True

    def slm_saturation(self, saturated: bool) -> None:
        """Tells whether the SLM had to leave sequences out of its last step."""
        self._run_ahead.slm_saturated = saturated

    # --- events: the router

    def scored(self, position: int, score: float, epoch: int) -> list[Action]:
        """The draft of `epoch` at `position` has its score."""
        slot = self._slot(position)
        if slot is None or slot.epoch != epoch or slot.score is not None:
            return []
        slot.score = score
        if not self._decider.in_order:
            self._judge(slot, position, score)
        return self._advance()

    def scores_lost(self) -> list[Action]:
        """Scores that were asked for won't come. The SLM drafts again from the first position without one."""
        for index, slot in enumerate(self._slots):
            if slot.score is None:
                position = self.accepted_len + index
                self._truncate(position)
                return self._rewind(position, ())
        return []

    # --- events: the LLM

    def llm_ready(self) -> list[Action]:
        """An LLM replica is at hand; it knows nothing of this sequence yet."""
        self._llm_attached = True
        self._llm_absent = False
        self._llm_held_len = 0
        return self._advance()

    def llm_lost(self) -> list[Action]:
        """The LLM replica is gone, and the answer that was asked for with it."""
        self._llm_attached = False
        self._pass_queries = ()
        return []

    def llm_absent(self) -> list[Action]:
        """No LLM replica is left, and the caller goes on without: routed drafts stand until `llm_ready`."""
        if self._finish_reason or self._llm_attached:
            return []
        self._llm_absent = True
        for slot in self._slots:
            if slot.flagged:
                slot.decided_by = Source.SLM_FALLBACK
        return self._advance()

    def llm_needs(self, pass_id: int, held_len: int) -> list[Action]:
        """The LLM replica holds only the first `held_len` tokens and did not run the pass."""
        if pass_id != self._pass_id or not self._pass_queries:
            return []
        self._pass_queries = ()
        self._llm_held_len = held_len
        return self._advance()

    def answered(self, pass_id: int, token_ids: Sequence[int]) -> list[Action]:
        """The LLM answered the query positions of a pass, in order.

        An answer counts only if the tokens before its position are those of the pass: positions behind a truncation
        have left `_pass_queries` by then, and those behind a disagreement within this answer are dropped here.
        """
        if pass_id != self._pass_id or not self._pass_queries:
            return []
        queries, self._pass_queries = self._pass_queries, ()
        self.num_answers_dropped += len(token_ids) - len(queries)
        for index, (position, token_id) in enumerate(zip(queries, token_ids, strict=False)):
            # A queried position stays flagged, and in its place, until it is answered or truncated.
            slot = self._slots[position - self.accepted_len]
            agrees = token_id == slot.token_id
            slot.decided_by = Source.SLM_CONFIRMED if agrees and slot.verdict is Verdict.CONFIRM else Source.LLM
            if not agrees:
                self.num_answers_dropped += len(queries) - index - 1
                return self._replace(position, token_id)
        return self._advance()

    # --- events: the caller

    def cancel(self) -> list[Action]:
        """The caller wants no more."""
        if self._finish_reason:
            return []
        return [self._finish(FinishReason.CANCELLED)]

    # --- transitions

    def _advance(self) -> list[Action]:
        """Accepts what is decided, asks about what is flagged, and opens the draft window further."""
        actions = self._accept_and_ask()
        window_end = self._window_end()
        stride = max(1, self._run_ahead.depth // 2)
        used_up = len(self._tokens) >= self._draft_until
        if self._slm_attached and window_end >= self._draft_until + (1 if used_up else stride):
            self._draft_until = window_end
            actions.append(GrantSlm(window_end))
        return actions

    def _rewind(self, length: int, token_ids: tuple[int, ...]) -> list[Action]:
        """The hypothesis was truncated to `length` and extended by `token_ids`; the SLM follows."""
        self._epoch += 1
        actions = self._accept_and_ask()
        if self._slm_attached:
            self._draft_until = self._window_end()
            actions.append(RewindSlm(length, token_ids, self._epoch, self._draft_until))
        return actions

    def _accept_and_ask(self) -> list[Action]:
        if self._finish_reason:
            return []
        actions: list[Action] = []
        tokens, texts = self._accept()
        if tokens:
            actions.append(Emit(tokens, texts))
        if self._finish_reason:
            self.num_drafts_dropped += len(self._slots)
            actions.append(self._finish(self._finish_reason))
        elif self._llm_attached and not self._pass_queries:
            self._ask_llm(actions)
        return actions

    def _accept(self) -> tuple[tuple[AcceptedToken, ...], tuple[str, ...]]:
        """Takes what is decided off the front: the tokens, and the text of each."""
        accepted: list[AcceptedToken] = []
        texts: list[str] = []
        while self._slots and not self._finish_reason:
            slot = self._slots[0]
            if slot.score is None:
                break
            if slot.verdict is None:
                self._judge(slot, self.accepted_len, slot.score)
            if slot.decided_by is None:
                break
            self._slots.popleft()
            token = AcceptedToken(slot.token_id, slot.decided_by, slot.score)
            accepted.append(token)
            self._tell_decider(token)
            texts.append(self._read(slot.token_id))
            if self.accepted_len >= self._ending.max_len:
                self._finish_reason = self._finish_reason or FinishReason.LENGTH
        self._run_ahead.accepted(len(accepted))
        return tuple(accepted), tuple(texts)

    def _judge(self, slot: _Slot, position: int, score: float) -> None:
        slot.verdict = self._decider.verdict(Draft(position, slot.token_id, score))
        if slot.verdict is Verdict.ACCEPT:
            slot.decided_by = Source.SLM
        elif self._llm_absent:
            slot.decided_by = Source.SLM_FALLBACK

    def _tell_decider(self, token: AcceptedToken) -> None:
        if self._decider.in_order:
            self._decider.accepted(token.token_id, by_llm=token.source is Source.LLM, score=token.score)

    def _read(self, token_id: int) -> str:
        """Reads a token that is final. Returns the text that became final with it."""
        if token_id in self._ending.eos_token_ids:
            self._finish_reason = FinishReason.STOP
            return ""
        text, stop = self._ending.text.push(token_id)
        if stop is not None:
            self._stop = stop
            self._finish_reason = FinishReason.STOP
        return text

    def _finish(self, reason: FinishReason) -> Finish:
        self._finish_reason = reason
        self._slm_attached = self._llm_attached = False
        self._pass_queries = ()
        return Finish(reason, "" if self._stop else self._ending.text.finish(), self._stop)

    def _ask_llm(self, actions: list[Action]) -> None:
        """Asks one pass at a time: positions that are flagged meanwhile share the next one."""
        start = self.accepted_len
        queries = tuple(start + index for index, slot in enumerate(self._slots) if slot.flagged)
        if not queries:
            return
        # Logits exist for processed tokens only: the token before the first query must be in the pass.
        base_len = min(self._llm_held_len, queries[0] - 1)
        # What follows the last query is not needed to answer it.
        self._llm_held_len = queries[-1]
        self._pass_id += 1
        self._pass_queries = queries
        actions.append(AskLlm(self._pass_id, base_len, tuple(self._tokens[base_len : queries[-1]]), queries))

    def _window_end(self) -> int:
        if self._slots and self._tokens[-1] in self._ending.eos_token_ids:
            return len(self._tokens)
        return min(self.accepted_len + 1 + self._run_ahead.depth, self._ending.max_len)

    def _replace(self, position: int, token_id: int) -> list[Action]:
        """The LLM's token takes the place of a draft; what was drafted after it is void."""
        self._run_ahead.overruled(self._truncate(position + 1))
        self._slots[-1].token_id = token_id
        self._tokens[position] = token_id
        self._llm_held_len = min(self._llm_held_len, position)
        return self._rewind(position, (token_id,))

    def _truncate(self, length: int) -> int:
        """Shortens the hypothesis to `length` tokens, none of them accepted. Returns how many drafts were dropped."""
        num_dropped = len(self._tokens) - length
        for _ in range(num_dropped):
            self._slots.pop()
        del self._tokens[length:]
        self._llm_held_len = min(self._llm_held_len, length)
        self._pass_queries = tuple(query for query in self._pass_queries if query < length)
        self.num_drafts_dropped += num_dropped
        return num_dropped

    def _slot(self, position: int) -> _Slot | None:
        index = position - self.accepted_len
        return self._slots[index] if 0 <= index < len(self._slots) and not self._finish_reason else None
