"""A second rule beside the one that decides: what it would have decided is counted, and nothing else comes of it.

Owns which requests it looks at, its scores, and the counts. It decides about the drafts that the first rule decided
about, each after the prefix that was written in the end: a rule of its own would have written another text. So the
counts depend on the answers alone, not on how they came about.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from trivium.v1 import router_pb2

from services.common.rule_spec import RuleSpec
from services.orchestrator.learning.final_drafts import FinalDrafts
from services.orchestrator.routing.actions import AcceptedToken, Source
from services.rules.chosen import THRESHOLD, ChosenRule
from services.rules.decider import Draft, Verdict
from services.rules.registry import Rules
from services.rules.rule import Evidence, Rule, RuleError

logger = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of a draft by the rule that decides."""

    STOOD = "stood"
    """It stood without the LLM."""
    CONFIRMED = "confirmed"
    """The LLM was asked, and would write the same."""
    REPLACED = "replaced"
    """The LLM was asked, and wrote another token."""
    FALLBACK = "fallback"
    """The LLM was to be asked, and there was none."""


class ShadowCounts:
    """Decisions of the shadow, by what became of the draft.

    Attributes:
        num_accepted: Drafts that it would have accepted.
        num_asked: Those that it would have asked the LLM about.
        num_unscored: Those that it was to decide about and has no score of.
    """

    def __init__(self) -> None:
        self.num_accepted: Counter[Outcome] = Counter()
        self.num_asked: Counter[Outcome] = Counter()
        self.num_unscored = 0


class Shadow:
    """The second rule, as it is set up.

    Args:
        rules: Those that are installed.
        spec: Which one, and its parameters.
        share: Of the requests that it looks at, in [0, 1].
        draw: Where chance comes from.

    Raises:
        RuleError: There is no such rule, or a parameter can't be used.
    """

    def __init__(
        self,
        rules: Rules,
        spec: RuleSpec,
        share: float,
        draw: random.Random,
    ) -> None:
        self.counts = ShadowCounts()
        self._rule = rules.named(spec.name)
        self._parameters = spec.parameters
        self._share = share
        self._draw = draw
        self._chosen({THRESHOLD: 0.0} if self._needs_router else {})

    @property
    def _needs_router(self) -> bool:
        return self._rule.evidence is Evidence.ROUTER

    def begin(self, first_position: int, router: router_pb2.RouterInfo | None) -> SequenceShadow | None:
        """The shadow of a new sequence; None where it has none.

        Args:
            first_position: Its prompt's length.
            router: The router that the router service has for it; None where there is none.
        """
        if self._draw.random() >= self._share:
            return None
        if not self._needs_router:
            return self._begin(self._chosen({}), first_position)
        if router is None:
            return None
        return self._begin(self._chosen({THRESHOLD: router.default_threshold}, router.weights_sha256), first_position)

    def _begin(self, chosen: ChosenRule, first_position: int) -> SequenceShadow | None:
        try:
            return SequenceShadow(chosen, self.counts, first_position)
        # The rule may be anybody's, and the sequence must not suffer from one that doesn't decide about it.
        except Exception:
            logger.exception("rule %s failed as a shadow", chosen.rule.name)
            return None

    def _chosen(self, defaults: dict[str, float], router_weights: str = "") -> ChosenRule:
        known = {name: value for name, value in defaults.items() if name in self._rule.parameters}
        chosen = ChosenRule.of(self._rule, known | dict(self._parameters))
        return ChosenRule(chosen.rule, chosen.parameters, router_weights)


@dataclass(slots=True, eq=False)
class ShadowRow:
    """A draft that is scored for the shadow."""

    shadow: SequenceShadow
    token_id: int
    score: float | None = None
    is_lost: bool = False

    @property
    def rule(self) -> Rule:
        """What would decide about it."""
        return self.shadow.chosen.rule

    @property
    def router_weights(self) -> str:
        """Of the shadow's router."""
        return self.shadow.chosen.router_weights

    def tell(self, score: float) -> None:
        """Here is its score."""
        self.score = score
        self.shadow.settle()

    def lost(self) -> int | None:
        """Its score won't come. Nothing is drafted again for it."""
        self.is_lost = True
        self.shadow.settle()
        return None

    def failed(self) -> None:
        """The rule failed to score it, and is asked no more about this sequence."""
        self.shadow.give_up()
        self.lost()


class SequenceShadow:
    """The shadow of one sequence.

    Args:
        chosen: The second rule.
        counts: Where its decisions are counted.
        first_position: The prompt's length.
    """

    def __init__(self, chosen: ChosenRule, counts: ShadowCounts, first_position: int) -> None:
        self.chosen = chosen
        self._counts = counts
        self._decider = chosen.decider()
        self._drafts: FinalDrafts[ShadowRow] = FinalDrafts(first_position)
        self._position = first_position
        self._unsettled: deque[tuple[ShadowRow | None, AcceptedToken]] = deque()
        self._is_blind = False

    def drafted(self, position: int, token_id: int) -> ShadowRow | None:
        """There is a draft. Its score is to come through what is returned, if it is wanted."""
        if self._is_blind:
            return None
        row = ShadowRow(self, token_id)
        self._drafts.drafted(position, row)
        return row

    def accepted(self, tokens: Sequence[AcceptedToken]) -> None:
        """These tokens are final; they follow those before."""
        self._unsettled.extend((self._drafts.accepted(), token) for token in tokens)
        self.settle()

    def give_up(self) -> None:
        """Nothing more is decided."""
        self._is_blind = True

    def settle(self) -> None:
        """Decides what can be decided: in order, since a rule may keep state."""
        while self._unsettled:
            row, token = self._unsettled[0]
            if row is not None and row.score is None and not row.is_lost:
                return
            self._unsettled.popleft()
            self._decide(row, token)
            self._position += 1

    def _decide(self, row: ShadowRow | None, token: AcceptedToken) -> None:
        if self._is_blind or row is None or row.score is None:
            self._counts.num_unscored += 1
            # What a rule that keeps state would have decided later on is unknown as well.
            self._is_blind = self._is_blind or self._decider.in_order
            return
        try:
            verdict = self._decider.verdict(Draft(self._position, row.token_id, row.score))
            if self._decider.in_order:
                self._decider.accepted(token.token_id, by_llm=token.source is Source.LLM, score=row.score)
        except Exception:
            logger.exception("rule %s failed as a shadow", self.chosen.rule.name)
            self._counts.num_unscored += 1
            self._is_blind = True
            return
        counts = self._counts.num_accepted if verdict is Verdict.ACCEPT else self._counts.num_asked
        counts[_outcome(token, row.token_id)] += 1


def _outcome(token: AcceptedToken, draft: int) -> Outcome:
    match token.source:
        case Source.SLM:
            return Outcome.STOOD
        case Source.SLM_FALLBACK:
            return Outcome.FALLBACK
        case Source.SLM_CONFIRMED:
            return Outcome.CONFIRMED
        case Source.LLM:
            return Outcome.CONFIRMED if token.token_id == draft else Outcome.REPLACED


def check_shadow(spec: RuleSpec, rules: Rules, *, has_router: bool) -> None:
    """Checks that a shadow can be had.

    Raises:
        RuleError: It needs a router service, and there is none.
    """
    if rules.named(spec.name).evidence is Evidence.ROUTER and not has_router:
        raise RuleError(f"{spec.name} needs a router service with a shadow_checkpoint, and there is none")
