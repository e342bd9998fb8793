"""Compares what a client got with what Redis would have gone on from.

The log of a finished request is made whole, and kept for half a minute: a test that runs requests may compare each of
them, however long it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from redis.asyncio import Redis

from services.orchestrator.index.token_log import HEADER_LEN, read_log
from services.orchestrator.routing.actions import AcceptedToken
from tests.serving import until

_ANY_TOKEN = 2**32


async def logged_tokens(redis: Redis, request_id: str) -> Sequence[AcceptedToken]:
    """What the log of a request holds, whosever it is; fails if it is damaged."""
    log = bytes(await redis.getrange(f"trivium:2:log:{request_id}", 0, -1))  # type: ignore[arg-type]
    if not log:
        return ()
    found = read_log(log, log[:HEADER_LEN], _ANY_TOKEN)
    assert not found.damaged, f"the log of {request_id} is damaged after {len(found.tokens)} tokens"
    return found.tokens


async def assert_log_is_whole(redis: Redis, request_id: str, token_ids: Sequence[int]) -> None:
    """Waits until the log of a request that has just finished holds its whole answer; it may never hold another.

    Args:
        redis: The Redis of the orchestrator.
        request_id: The request.
        token_ids: All that its client got.
    """
    found: list[int] = []

    async def is_whole() -> bool:
        found[:] = [token.token_id for token in await logged_tokens(redis, request_id)]
        assert found == list(token_ids[: len(found)]), f"the log of {request_id} isn't its answer"
        return len(found) == len(token_ids)

    try:
        # It is written when the stream has ended, but the stream doesn't wait for that.
        await until(is_whole, timeout_s=10)
    except TimeoutError:
        raise AssertionError(f"the log of {request_id} ends after {len(found)} of {len(token_ids)} tokens") from None
