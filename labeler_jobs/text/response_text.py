"""Response tokens as text, and the text of what branches off them.

Owns the relation between tokens and characters. A branch is detokenised behind the few tokens before it, so that its
cost doesn't grow with the response.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from labeler_jobs.text.sentence import sentence_end, sentence_start
from services.common.text.assembler import TextAssembler

_NUM_CONTEXT = 4
"""Tokens before a branch that may decide how its first token is written."""


class ResponseText:
    """A response and its text, special tokens included.

    Args:
        tokenizer: The pair's tokenizer.
        token_ids: The response.

    Attributes:
        text: All of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._token_ids = token_ids
        # Characters that are settled after each number of tokens, and the last number at which nothing was held back.
        self._num_chars = [0]
        self._settled_at = [0]
        assembler = TextAssembler(tokenizer, skip_special_tokens=False)
        pieces = []
        for position, token_id in enumerate(token_ids):
            pieces.append(assembler.push(token_id).text)
            self._num_chars.append(self._num_chars[-1] + len(pieces[-1]))
            self._settled_at.append(position + 1 if pieces[-1] else self._settled_at[-1])
        self.text = "".join((*pieces, assembler.finish()))

    def prefix_len(self, position: int) -> int:
        """Number of characters before the token at `position`."""
        return self._num_chars[position]

    def branch(self, position: int) -> Branch:
        """Starts a branch that replaces the tokens from `position` on."""
        return Branch(self, self._assembler(position), self._num_chars[position])

    def _assembler(self, position: int) -> TextAssembler:
        assembler = TextAssembler(self._tokenizer, skip_special_tokens=False)
        for token_id in self._token_ids[max(0, self._settled_at[position] - _NUM_CONTEXT) : position]:
            assembler.push(token_id)
        return assembler


class Branch:
    """What is written instead of a response's tokens from one position on.

    Args:
        response: What it branches off.
        assembler: Has read the tokens before the branch.
        prefix_len: Characters of the response that stay.
    """

    def __init__(self, response: ResponseText, assembler: TextAssembler, prefix_len: int) -> None:
        self._assembler = assembler
        self._prefix_len = prefix_len
        sentence = sentence_start(response.text, prefix_len)
        # The whole line: what came before a sentence on its line tells whether another one has begun.
        line = response.text.rfind("\n", 0, sentence) + 1
        self._sentence = sentence - line
        self._before = response.text[line:prefix_len]
        self._written = ""

    def push(self, token_id: int) -> None:
        """Takes the next token of the branch."""
        self._written += self._assembler.push(token_id).text

    @property
    def text(self) -> str:
        """What the branch's tokens say, without what is held back of an incomplete character."""
        return self._written

    @property
    def ends_sentence(self) -> bool:
        """Whether the sentence that the branch lies in has ended, in the branch or right where it begins."""
        text = self._before + self._written
        start = min(self._sentence, sentence_start(text, len(self._before)))
        return sentence_end(text, start) is not None
