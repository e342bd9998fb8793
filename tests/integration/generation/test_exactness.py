"""What the services write is what the plain loop writes, at every threshold, depth and number of streams."""

from __future__ import annotations

import pytest

from evaluation.exactness import Reference, compare
from tests.integration.harness.completions import NUM_PROMPTS, tell
from tests.integration.harness.pair import RunningPair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEPTHS = (0, 4, 16)


@pytest.mark.parametrize(("num_streams", "num_prompts"), [(1, 3), (12, NUM_PROMPTS)])
async def test_services_write_the_reference_decoding(
    pair: RunningPair,
    references: list[Reference],
    num_streams: int,
    num_prompts: int,
) -> None:
    chosen = [reference for index, reference in enumerate(references) if index % NUM_PROMPTS < num_prompts]

    outcomes = await compare(pair.front.address, chosen, depths=DEPTHS, concurrencies=(num_streams,))

    tell("tokens compared", sum(outcome.num_tokens for outcome in outcomes))
    num_near_ties = sum(outcome.num_excused for outcome in outcomes)
    tell("near ties", num_near_ties)
    # A handful of a thousand completions at most: more would be a difference that is explained away.
    assert num_near_ties <= len(outcomes)
    assert len(outcomes) == 3 * len(DEPTHS)
    assert all(outcome.num_compared == num_prompts for outcome in outcomes)
    assert not [outcome for outcome in outcomes if outcome.num_different]
