"""Stage 2: from every different SLM token the LLM writes on to the end of the sentence.

The continuation of the LLM's own token is the response itself. A response is run once, and the continuations that
branch off it find their prefixes in the engine's cache: the cost grows with what is written, not with the prefixes.
As many responses as the cache holds are run first; then their forks follow by length, whichever response they belong
to, since a pass over sequences of one length pads nothing.

Source: arXiv:2505.21600 §3.2 (sentence-level path-following) and §4.1 (batched continuations on shared prefixes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import overload

import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from labeler_jobs.models.writer import GreedyWriter
from labeler_jobs.stages.schemas import CONTINUATIONS
from labeler_jobs.text.response_text import Branch, ResponseText


@dataclass(frozen=True)
class Forked:
    """A response, and where the SLM would have written another token.

    Attributes:
        query_id: The query that it answers.
        prompt: Token ids.
        response: Token ids.
        forks: Position in the response and the SLM's token there, positions ascending.
    """

    query_id: str
    prompt: Sequence[int]
    response: Sequence[int]
    forks: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Fork:
    number: int
    owner: int
    position: int
    slm_token_id: int


def continue_sentences(
    forked: Sequence[Forked],
    tokenizer: PreTrainedTokenizerFast,
    writer: GreedyWriter,
    context_len: int,
    max_new_tokens: int,
    cache_tokens: int,
    on_tokens: Callable[[int], None],
) -> pa.RecordBatch:
    """Lets the LLM finish the sentence after each fork, greedily.

    Args:
        forked: Responses with their forks.
        tokenizer: The pair's tokenizer.
        writer: Writes with the LLM.
        context_len: Longest sequence.
        max_new_tokens: Limit of a continuation.
        cache_tokens: The engine's KV budget.
        on_tokens: Told how many tokens a step wrote.

    Returns:
        Rows of `schemas.CONTINUATIONS`, one a fork, in order. Nothing is written after an end-of-sequence token, nor
        after a token that ends the sentence by itself.
    """
    sentences = _Sentences(forked, tokenizer)
    eos = frozenset(writer.info.eos_token_ids)
    forks, ended = _list_forks(forked), {}
    for fork in forks:
        if fork.slm_token_id in eos:
            ended[fork.number] = "eos"
        elif len(forked[fork.owner].prompt) + fork.position + 1 >= context_len:
            ended[fork.number] = "limit"
        elif sentences.branch(fork).ends_sentence:
            ended[fork.number] = "sentence"
    families = _families(forked, [fork for fork in forks if fork.number not in ended], cache_tokens // 2)
    rows, trunks = _in_order(forked, families)
    stops = _SentenceStops(sentences, rows)
    written = writer.write(_Prefixes(forked, rows), max_new_tokens, stops, trunks, on_tokens)
    continuations: list[list[int]] = [[] for _ in forks]
    for row, (fork, token_ids) in enumerate(zip(rows, written, strict=True)):
        continuations[fork.number] = token_ids
        ended[fork.number] = "eos" if token_ids[-1] in eos else "sentence" if row in stops.ended else "limit"
    return pa.RecordBatch.from_pydict(
        {
            "query_id": [forked[fork.owner].query_id for fork in forks],
            "position": [fork.position for fork in forks],
            "slm_token_id": [fork.slm_token_id for fork in forks],
            "continuation_token_ids": continuations,
            "ended": [ended[fork.number] for fork in forks],
        },
        schema=CONTINUATIONS,
    )


class _Sentences:
    """The texts of responses, made when they are needed first."""

    def __init__(self, forked: Sequence[Forked], tokenizer: PreTrainedTokenizerFast) -> None:
        self._forked = forked
        self._tokenizer = tokenizer
        self._texts: dict[int, ResponseText] = {}

    def branch(self, fork: _Fork) -> Branch:
        """The branch at a fork, with the SLM's token in it."""
        if fork.owner not in self._texts:
            self._texts[fork.owner] = ResponseText(self._tokenizer, self._forked[fork.owner].response)
        branch = self._texts[fork.owner].branch(fork.position)
        branch.push(fork.slm_token_id)
        return branch


class _SentenceStops:
    """Ends a row once its sentence has ended; remembers which rows these were."""

    def __init__(self, sentences: _Sentences, rows: Sequence[_Fork]) -> None:
        self._sentences = sentences
        self._rows = rows
        self._branches: dict[int, Branch] = {}
        self.ended: set[int] = set()

    def __call__(self, row: int, written: list[int]) -> bool:
        if len(written) == 1:
            self._branches[row] = self._sentences.branch(self._rows[row])
        branch = self._branches[row]
        branch.push(written[-1])
        if branch.ends_sentence:
            del self._branches[row]
            self.ended.add(row)
        return row in self.ended


class _Prefixes(Sequence[Sequence[int]]):
    """The prefix of every row; made on demand, since all of them together are as long as the response squared."""

    def __init__(self, forked: Sequence[Forked], rows: Sequence[_Fork]) -> None:
        self._forked = forked
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sequence[int]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sequence[int]]: ...
    def __getitem__(self, index: int | slice) -> Sequence[int] | Sequence[Sequence[int]]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        fork = self._rows[index]
        owner = self._forked[fork.owner]
        return [*owner.prompt, *owner.response[: fork.position], fork.slm_token_id]


def _list_forks(forked: Sequence[Forked]) -> list[_Fork]:
    places = [(owner, *fork) for owner, response in enumerate(forked) for fork in response.forks]
    return [_Fork(number, *place) for number, place in enumerate(places)]


def _families(forked: Sequence[Forked], forks: Sequence[_Fork], cache_tokens: int) -> list[list[_Fork]]:
    """Forks of consecutive responses that the cache holds together; one response may always be there."""
    families: list[list[_Fork]] = []
    num_tokens = 0
    for owner, group in groupby(forks, key=lambda fork: fork.owner):
        num_more = len(forked[owner].prompt) + len(forked[owner].response)
        if not families or num_tokens + num_more > cache_tokens:
            families.append([])
            num_tokens = 0
        families[-1].extend(group)
        num_tokens += num_more
    return families


def _in_order(
    forked: Sequence[Forked], families: Sequence[Sequence[_Fork]]
) -> tuple[list[_Fork], dict[int, list[Sequence[int]]]]:
    """Rows for the writer, and the trunks of each family by its first row. Longest first, both."""
    rows: list[_Fork] = []
    trunks: dict[int, list[Sequence[int]]] = {}
    for family in families:
        last = {fork.owner: fork.position for fork in family}
        prefixes = ([*forked[owner].prompt, *forked[owner].response[:end]] for owner, end in last.items())
        trunks[len(rows)] = sorted(prefixes, key=len, reverse=True)
        rows += sorted(family, key=lambda fork: -len(forked[fork.owner].prompt) - fork.position)
    return rows, trunks
