import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.reference.corpus.arithmetic import MAX_VALUE
from evaluation.reference.corpus.phrasing import preferred_index
from evaluation.reference.corpus.samples import DOMAINS, NUM_TRAIN, draw_sample, training_samples, unseen_samples
from evaluation.reference.corpus.verifier import extract_answer

EQUATION = re.compile(r"(\d+) (plus|minus|times) (\d+) (?:is|makes|gives) (\d+)")
INDICES = st.integers(0, 10**8)


def run_program(query: str) -> int:
    program = [line.split(": ", 1)[1] for line in query.splitlines() if line.startswith("line ")]
    scope: dict[str, int] = {}
    exec("\n".join(program), {}, scope)
    return next(iter(scope.values()))


def follow_story(query: str) -> int:
    numbers = re.findall(r"(finds|buys|wins|loses|sells|drops|has|starts with) (\d+)|(doubles|twice)", query)
    value = 0
    for verb, operand, doubled in numbers:
        if doubled:
            value *= 2
        elif verb in ("has", "starts with"):
            value = int(operand)
        else:
            value += int(operand) if verb in ("finds", "buys", "wins") else -int(operand)
    return value


def follow_facts(query: str) -> int:
    first, *facts = query.split("Compared to")
    value = int(re.findall(r"\d+", first)[0])
    for fact in facts:
        if "twice" in fact:
            value *= 2
            continue
        operand = int(re.findall(r"\d+", fact)[0])
        value += operand if re.search("older|more", fact.split("How many")[0]) else -operand
    return value


SOLVERS = {"math": follow_story, "code": run_program, "qa": follow_facts}


@settings(deadline=None)
@given(INDICES)
def test_sample_answer_is_what_the_query_works_out_to(index: int) -> None:
    sample = draw_sample(index)
    assert SOLVERS[sample.domain](sample.query) == sample.answer


@settings(deadline=None)
@given(INDICES)
def test_sample_response_ends_with_its_answer(index: int) -> None:
    sample = draw_sample(index)
    assert sample.response.startswith("<think>\n")
    assert sample.response.endswith(f"The answer is {sample.answer}.")
    assert extract_answer(sample.response) == sample.answer


@settings(deadline=None)
@given(INDICES)
def test_sample_response_equations_are_true_and_in_range(index: int) -> None:
    for left, operator, right, result in EQUATION.findall(draw_sample(index).response):
        a, b = int(left), int(right)
        assert {"plus": a + b, "minus": a - b, "times": a * b}[operator] == int(result)
        assert 1 <= int(result) <= MAX_VALUE


def test_draw_sample_same_index_gives_the_same_sample() -> None:
    assert draw_sample(1234) == draw_sample(1234)


def test_domains_take_turns() -> None:
    assert {draw_sample(index).domain for index in range(3)} == set(DOMAINS)


def test_splits_share_no_query() -> None:
    validation = {sample.query for sample in unseen_samples("validation", 300)}
    held_out = {sample.query for sample in unseen_samples("held_out", 300)}
    train = {sample.query for sample in training_samples()}
    assert len(validation) == len(held_out) == 300
    assert not validation & held_out
    assert not (validation | held_out) & train


def test_unseen_samples_of_the_training_range_are_refused() -> None:
    with pytest.raises(ValueError, match="training range is seen"):
        unseen_samples("train", 1)


def test_training_samples_beyond_the_range_are_refused() -> None:
    with pytest.raises(ValueError, match=str(NUM_TRAIN)):
        training_samples(NUM_TRAIN + 1)


def test_preferred_index_depends_on_site_and_context() -> None:
    picks = {preferred_index(site, 4, word) for site in ("opener", "verb") for word in ("a", "b", "c", "d", "e")}
    assert picks == {0, 1, 2, 3}
    assert preferred_index("opener", 4, "a") == preferred_index("opener", 4, "a")
