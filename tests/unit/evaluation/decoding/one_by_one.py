"""Path-following one question at a time, models and verifier being functions: what batched decoding is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluation.decoding.path_following import FollowedPath, Fork, PathFollower

NextToken = Callable[[Sequence[int]], int]
Continue = Callable[[Sequence[int]], Sequence[int]]
Differs = Callable[[Fork, Sequence[int], Sequence[int]], bool]


def follow_path(
    prompt: Sequence[int],
    slm_next: NextToken,
    llm_next: NextToken,
    llm_continue: Continue,
    differs: Differs,
    *,
    eos_token_id: int,
    max_new_tokens: int,
) -> FollowedPath:
    follower = PathFollower(prompt, eos_token_id, max_new_tokens)
    while not follower.done:
        fork = follower.propose(slm_next(follower.sequence), llm_next(follower.sequence))
        if fork is not None:
            paths = [
                (token_id, *(() if token_id == eos_token_id else llm_continue((*fork.prefix, token_id))))
                for token_id in (fork.slm_token_id, fork.llm_token_id)
            ]
            follower.settle(divergent=differs(fork, *paths))
    return follower.path


def continue_greedily(
    llm_next: NextToken,
    *,
    eos_token_id: int,
    max_new_tokens: int,
    has_ended: Callable[[Sequence[int]], bool] = lambda sequence: False,
) -> Continue:

    def llm_continue(sequence: Sequence[int]) -> Sequence[int]:
        written: list[int] = []
        while len(written) < max_new_tokens and not has_ended((*sequence, *written)):
            written.append(llm_next((*sequence, *written)))
            if written[-1] == eos_token_id:
                break
        return written

    return llm_continue
