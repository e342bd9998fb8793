import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.decoding.path_following import FollowedPath, Fork, PathFollower
from labeler_jobs.verifiers.verifier import Label
from tests.unit.evaluation.decoding.one_by_one import NextToken, continue_greedily, follow_path

EOS, STOP = 0, 1
NUM_MEANINGS, NUM_WORDINGS = 3, 2
PROMPT = (2, 3)
LIMIT = 40


def word(meaning: int, wording: int) -> int:
    return 2 + meaning * NUM_WORDINGS + wording


def meaning_of(token_id: int) -> int:
    return token_id if token_id <= STOP else 2 + (token_id - 2) // NUM_WORDINGS


def meanings(token_ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(meaning_of, token_ids))


def draw(*key: object) -> random.Random:
    return random.Random(repr(key))


def answer(token_ids: Sequence[int]) -> int:
    """What a whole response comes to, with few outcomes, so that paths often differ and yet come to the same."""
    return draw("answer", meanings(token_ids)).randrange(2)


@dataclass(frozen=True)
class World:
    """Two models that end every response at `length` tokens at the latest, and the truth about them."""

    seed: int
    length: int
    wording_matters: bool

    def _next(self, name: str, sequence: Sequence[int], seen: Sequence[int]) -> int:
        if len(sequence) - len(PROMPT) >= self.length:
            return EOS
        content, style = draw(self.seed, name, tuple(seen)), draw(self.seed, name, "style", tuple(sequence))
        kind = content.random()
        if kind < 0.1 and len(sequence) > len(PROMPT):
            return EOS
        return STOP if kind < 0.3 else word(content.randrange(NUM_MEANINGS), style.randrange(NUM_WORDINGS))

    def llm(self, sequence: Sequence[int]) -> int:
        return self._next("llm", sequence, sequence if self.wording_matters else meanings(sequence))

    def slm(self, sequence: Sequence[int]) -> int:
        # A coin: half of the time what the LLM says in other words, else something of its own.
        if draw(self.seed, "coin", tuple(sequence)).random() < 0.5 and (token_id := self.llm(sequence)) > STOP:
            return token_id ^ 1
        return self._next("slm", sequence, sequence)

    def complete(self, sequence: Sequence[int]) -> tuple[int, ...]:
        """The response once the LLM has written on to its end."""
        written = list(sequence)
        while written[-1] != EOS or len(written) == len(PROMPT):
            written.append(self.llm(written))
        return tuple(written[len(PROMPT) :])


def response_of(fork: Fork, path: Sequence[int]) -> tuple[int, ...]:
    return (*fork.prefix[len(PROMPT) :], *path)


def follow_full(world: World, differs: Callable[[Fork, Sequence[int], Sequence[int]], bool]) -> FollowedPath:
    to_the_end = continue_greedily(world.llm, eos_token_id=EOS, max_new_tokens=LIMIT)
    return follow_path(PROMPT, world.slm, world.llm, to_the_end, differs, eos_token_id=EOS, max_new_tokens=LIMIT)


def follow_sentences(world: World) -> FollowedPath:
    def sentence_ended(sequence: Sequence[int]) -> bool:
        return sequence[-1] == STOP

    def differs(fork: Fork, slm_path: Sequence[int], llm_path: Sequence[int]) -> bool:
        return meanings(slm_path) != meanings(llm_path)

    to_the_stop = continue_greedily(world.llm, eos_token_id=EOS, max_new_tokens=LIMIT, has_ended=sentence_ended)
    return follow_path(PROMPT, world.slm, world.llm, to_the_stop, differs, eos_token_id=EOS, max_new_tokens=LIMIT)


def answers_differ(fork: Fork, slm_path: Sequence[int], llm_path: Sequence[int]) -> bool:
    return answer(response_of(fork, slm_path)) != answer(response_of(fork, llm_path))


WORLDS = st.builds(World, st.integers(0, 10**9), st.integers(1, 14), st.booleans())
PROFILE = settings(deadline=None, max_examples=150)


@PROFILE
@given(WORLDS)
def test_full_no_divergent_token_is_accepted_and_labels_are_the_truth(world: World) -> None:
    path = follow_full(world, answers_differ)
    assert len(path.labels) == len(path.token_ids)
    for position, (token_id, label) in enumerate(zip(path.token_ids, path.labels, strict=True)):
        prefix = (*PROMPT, *path.token_ids[:position])
        slm, llm = world.slm(prefix), world.llm(prefix)
        same_answer = answer(world.complete((*prefix, slm))) == answer(world.complete((*prefix, llm)))
        expected = Label.IDENTICAL if slm == llm else Label.NEUTRAL if same_answer else Label.DIVERGENT
        assert label == expected
        assert token_id == (llm if label == Label.DIVERGENT else slm)


@PROFILE
@given(WORLDS)
def test_full_path_ends_in_the_llms_answer(world: World) -> None:
    path = follow_full(world, answers_differ)
    assert path.token_ids[-1] == EOS
    wanted = answer(world.complete(PROMPT))
    assert answer(path.token_ids) == wanted
    for length in range(len(path.token_ids)):
        assert answer(world.complete((*PROMPT, *path.token_ids[:length]))) == wanted


@PROFILE
@given(WORLDS)
def test_sequence_built_anew_from_the_labels_is_the_path(world: World) -> None:
    path = follow_full(world, answers_differ)
    built: list[int] = []
    for label in path.labels:
        built.append((world.llm if label == Label.DIVERGENT else world.slm)((*PROMPT, *built)))
    assert tuple(built) == path.token_ids


@PROFILE
@given(WORLDS)
def test_verifier_that_refuses_everything_gives_the_llms_response(world: World) -> None:
    path = follow_full(world, lambda fork, slm_path, llm_path: True)
    assert path.token_ids == world.complete(PROMPT)
    assert Label.NEUTRAL not in path.labels


@PROFILE
@given(st.integers(0, 10**9), st.integers(1, 14))
def test_sentences_keep_the_answer_where_only_meaning_steers_the_llm(seed: int, length: int) -> None:
    world = World(seed, length, wording_matters=False)
    path = follow_sentences(world)
    assert meanings(path.token_ids) == meanings(world.complete(PROMPT))
    assert answer(path.token_ids) == answer(world.complete(PROMPT))


def test_sentences_accept_more_than_they_should_where_wording_steers_the_llm() -> None:
    lost = kept_by_full = 0
    for seed in range(60):
        world = World(seed, 14, wording_matters=True)
        wanted = answer(world.complete(PROMPT))
        if answer(follow_sentences(world).token_ids) != wanted:
            lost += 1
            kept_by_full += answer(follow_full(world, answers_differ).token_ids) == wanted
    assert lost > 5
    assert kept_by_full == lost


def scripted(table: dict[tuple[int, ...], int]) -> NextToken:
    return lambda sequence: table[tuple(sequence)]


def test_sentence_level_misses_a_difference_that_shows_in_a_later_sentence() -> None:
    # Both wordings of "a" end their sentence alike; only after the second one does the LLM say "b" instead of "c".
    a1, a2, b, c = word(0, 0), word(0, 1), word(1, 0), word(2, 0)
    llm = {
        (): a1, (a1,): STOP, (a1, STOP): c, (a1, STOP, c): EOS,
        (a2,): STOP, (a2, STOP): b, (a2, STOP, b): EOS,
    }  # fmt: skip
    slm = llm | {(): a2}

    def follow(has_ended: Callable[[Sequence[int]], bool]) -> FollowedPath:
        onwards = continue_greedily(scripted(llm), eos_token_id=EOS, max_new_tokens=9, has_ended=has_ended)
        return follow_path(
            (), scripted(slm), scripted(llm), onwards,
            lambda fork, slm_path, llm_path: meanings(slm_path) != meanings(llm_path),
            eos_token_id=EOS, max_new_tokens=9,
        )  # fmt: skip

    by_sentence = follow(lambda sequence: sequence[-1] == STOP)
    assert by_sentence == FollowedPath((a2, STOP, b, EOS), (Label.NEUTRAL, *[Label.IDENTICAL] * 3))
    to_the_end = follow(lambda sequence: False)
    assert to_the_end == FollowedPath((a1, STOP, c, EOS), (Label.DIVERGENT, *[Label.IDENTICAL] * 3))


def test_full_verifier_whose_judgement_does_not_carry_over_drifts_away() -> None:
    """Each step differs by one from the one before, which this verifier lets pass, and five steps add up."""

    def llm(sequence: Sequence[int]) -> int:
        return EOS if len(sequence) == 5 else 10

    def slm(sequence: Sequence[int]) -> int:
        return EOS if len(sequence) == 5 else 11

    onwards = continue_greedily(llm, eos_token_id=EOS, max_new_tokens=9)
    path = follow_path(
        (), slm, llm, onwards,
        lambda fork, slm_path, llm_path: abs(sum(slm_path) - sum(llm_path)) > 1,
        eos_token_id=EOS, max_new_tokens=9,
    )  # fmt: skip
    assert sum(path.token_ids) - sum(onwards(())) == 5


def test_slm_that_ends_early_is_judged_without_a_continuation() -> None:
    seen: list[tuple[Sequence[int], Sequence[int]]] = []

    def differs(fork: Fork, slm_path: Sequence[int], llm_path: Sequence[int]) -> bool:
        seen.append((slm_path, llm_path))
        return True

    llm = {(): 5, (5,): 6, (5, 6): EOS}
    onwards = continue_greedily(scripted(llm), eos_token_id=EOS, max_new_tokens=9)
    path = follow_path((), lambda _: EOS, scripted(llm), onwards, differs, eos_token_id=EOS, max_new_tokens=9)
    assert seen == [((EOS,), (5, 6, EOS)), ((EOS,), (6, EOS))]
    assert path.token_ids == (5, 6, EOS)


def test_limit_ends_the_path() -> None:
    path = follow_path(
        PROMPT, lambda _: 5, lambda _: 5, lambda _: (), lambda *_: True, eos_token_id=EOS, max_new_tokens=3
    )
    assert path == FollowedPath((5, 5, 5), (Label.IDENTICAL,) * 3)


def test_prompt_that_ends_in_eos_is_no_end_of_the_response() -> None:
    follower = PathFollower([EOS], EOS, max_new_tokens=2)
    assert not follower.done
    assert follower.propose(EOS, EOS) is None
    assert follower.done


def test_follower_out_of_turn_is_refused() -> None:
    follower = PathFollower(PROMPT, EOS, max_new_tokens=1)
    with pytest.raises(RuntimeError, match="no fork"):
        follower.settle(divergent=True)
    assert follower.propose(4, 5) == Fork(PROMPT, 4, 5)
    with pytest.raises(RuntimeError, match="settle"):
        follower.propose(4, 4)
    follower.settle(divergent=False)
    assert follower.path == FollowedPath((4,), (Label.NEUTRAL,))
    with pytest.raises(RuntimeError, match="ended"):
        follower.propose(4, 4)
