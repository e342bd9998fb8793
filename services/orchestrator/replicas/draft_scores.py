"""Has the drafts of a step scored: by a router, or here.

Owns which rows go where. What a rule computes from the SLM's own step is computed here, for all rows of the rule at
once; what a rule needs no score for is decided at once.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from trivium.v1 import slm_pb2

from services.common.errors import InvalidRequest, PeerUnavailable
from services.common.tensors import unpack
from services.orchestrator.replicas.router_side import RouterSide
from services.orchestrator.replicas.scored_row import DraftRow
from services.rules.rule import DraftRows, Evidence, Rule

logger = logging.getLogger(__name__)

_Indexed = list[tuple[int, DraftRow]]


class DraftScores:
    """Scores the drafts of all sequences, each by its rule's evidence.

    Args:
        router: Where those go whose rule needs the router.
    """

    def __init__(self, router: RouterSide) -> None:
        self._router = router

    def score(self, rows: Sequence[DraftRow | None], response: slm_pb2.DraftResponse) -> None:
        """Has the rows of a step scored that are not None.

        Raises:
            PeerUnavailable: The SLM's logits can't be read.
        """
        to_router = list(rows)
        unscored: _Indexed = []
        by_rule: dict[str, _Indexed] = defaultdict(list)
        for index, row in enumerate(rows):
            if row is None or row.rule.evidence is Evidence.ROUTER:
                continue
            to_router[index] = None
            (by_rule[row.rule.name] if row.rule.evidence is Evidence.SLM else unscored).append((index, row))
        self._router.score(to_router, response)
        for _, row in unscored:
            row.tell(0.0)
        if by_rule:
            drafts = _drafts(response, len(rows))
            for found in by_rule.values():
                indices = [index for index, _ in found]
                _score(found, DraftRows(drafts.top_logits[indices], drafts.token_ids[indices]))


def _drafts(response: slm_pb2.DraftResponse, num_rows: int) -> DraftRows:
    try:
        top_logits = unpack(response.top_logits, field="top_logits", shape=(num_rows, None))
    except InvalidRequest as error:
        raise PeerUnavailable(f"slm: {error}") from error
    return DraftRows(top_logits, np.array(response.token_ids, dtype=np.int64))


def _score(found: _Indexed, drafts: DraftRows) -> None:
    """Gives rows of one rule their scores. A rule that fails is told of in the log, and so are its rows."""
    rule: Rule = found[0][1].rule
    try:
        scores = np.asarray(rule.scores(drafts), dtype=np.float32)
        if scores.shape != (len(found),) or not np.isfinite(scores).all():
            raise ValueError(f"scores of {len(found)} drafts: expected as many, all finite, got shape {scores.shape}")
    except Exception:
        logger.exception("rule %s failed to score drafts", rule.name)
        for _, row in found:
            row.failed()
        return
    for (_, row), score in zip(found, scores.tolist(), strict=True):
        row.tell(score)
