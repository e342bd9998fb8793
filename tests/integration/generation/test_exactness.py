"""What the services write is what the plain loop writes, by every rule, at every depth and number of streams."""

from __future__ import annotations

import pytest

from evaluation.exactness import Outcome, Reference, compare, reference_decodings
from evaluation.reference.pair import LoadedPair
from services.rules.shipped import SHIPPED
from tests.integration.harness.completions import NUM_PROMPTS, tell
from tests.integration.harness.pair import RunningPair

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

DEPTHS = (0, 4, 16)
NUM_PROMPTS_A_RULE = 3


@pytest.mark.parametrize(("num_streams", "num_prompts"), [(1, 3), (12, NUM_PROMPTS)])
async def test_services_write_the_reference_decoding(
    pair: RunningPair,
    references: list[Reference],
    num_streams: int,
    num_prompts: int,
) -> None:
    chosen = [reference for index, reference in enumerate(references) if index % NUM_PROMPTS < num_prompts]

    outcomes = await compare(pair.front.address, chosen, depths=DEPTHS, concurrencies=(num_streams,))

    assert len(outcomes) == 3 * len(DEPTHS)
    assert_exact(outcomes, num_prompts)


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", [rule.name for rule in SHIPPED])
async def test_services_write_the_reference_decoding_of_a_rule_that_requests_name(
    pair: RunningPair, references: list[Reference], reference_pair: LoadedPair, name: str, sampled: bool
) -> None:
    prompts = [reference.prompt_token_ids for reference in references[:NUM_PROMPTS_A_RULE]]
    expected = reference_decodings(reference_pair, prompts, [reference_pair.rule(name)], sampled=sampled)

    for front in (pair.front, pair.other_front):
        outcomes = await compare(front.address, expected, depths=(0, 16), concurrencies=(NUM_PROMPTS_A_RULE,))
        assert_exact(outcomes, NUM_PROMPTS_A_RULE)


def assert_exact(outcomes: list[Outcome], num_prompts: int) -> None:
    tell("tokens compared", sum(outcome.num_tokens for outcome in outcomes))
    num_near_ties = sum(outcome.num_excused for outcome in outcomes)
    tell("near ties", num_near_ties)
    # A handful of a thousand completions at most: more would be a difference that is explained away.
    assert num_near_ties <= len(outcomes)
    assert all(outcome.num_compared == num_prompts for outcome in outcomes)
    assert not [outcome for outcome in outcomes if outcome.num_different]
