"""Turns accepted tokens into text, piece by piece.

Owns incremental detokenisation and stop strings. Pure: a tokenizer in, text out. What it has given out is never taken
back: text that may still change, or belong to a stop string, is held until it can't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from services.common.text.stop_strings import StopMatcher

_REPLACEMENT = "\ufffd"
# A character of 4 bytes takes at most 4 tokens, and tokens may straddle two characters now and then. A longer run
# without a whole character at its end isn't text, and only its end is still in doubt.
_MAX_UNSETTLED_TOKENS = 8
_MAX_INCOMPLETE_BYTES = 3
# So many tokens hold all bytes of 3 incomplete characters.
_KEPT_TOKENS = _MAX_INCOMPLETE_BYTES * _MAX_INCOMPLETE_BYTES


class TextDelta(NamedTuple):
    """What one token added.

    Args:
        text: Text that became final, without the stop string.
        stop: The stop string that the token completed, if it did.
    """

    text: str
    stop: str | None


_NOTHING = TextDelta("", None)


class TextAssembler:
    """Detokenises one completion.

    All deltas and what `finish` returns, joined, are the text that the tokenizer decodes from all tokens (without its
    optional clean-up of spaces), cut before the stop string that is complete first.

    Args:
        tokenizer: The pair's tokenizer.
        stop: Stop strings, none of them empty.
        skip_special_tokens: Leave special tokens, such as end of sequence, out of the text.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stop: Sequence[str] = (), *, skip_special_tokens: bool = True
    ) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._skip_special = skip_special_tokens
        self._special_ids = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._matcher = StopMatcher(stop) if stop else None
        # What a token means may depend on its neighbours, so a window of tokens is decoded: first the context, whose
        # text ended with a whole character, then the tokens since. `_num_done` characters of its text are final.
        self._window: list[int] = []
        self._num_context = 0
        self._num_done = 0
        self._held = ""
        self._stop: str | None = None

    def push(self, token_id: int) -> TextDelta:
        """Takes the next token. After a stop string nothing more becomes text."""
        if self._stop is not None or self._is_silent(token_id):
            return _NOTHING
        self._window.append(token_id)
        text = self._decode_window()
        if not text.endswith(_REPLACEMENT):
            new = text[self._num_done :]
            self._window = self._window[self._num_context :]
            self._num_context = len(self._window)
            self._num_done = len(self._decode_window())
        elif len(self._window) - self._num_context > _MAX_UNSETTLED_TOKENS:
            new = self._settle(text)
        else:
            return _NOTHING
        return self._released(new) if new else _NOTHING

    def finish(self) -> str:
        """Returns the text that was held back. Call it once, after the last token."""
        if self._stop is not None:
            return ""
        released = self._released(self._decode_window()[self._num_done :]).text
        if self._stop is not None:
            return released
        return released + self._held

    def _is_silent(self, token_id: int) -> bool:
        if token_id in self._special_ids:
            return self._skip_special
        # A model's vocabulary may be padded with ids that its tokenizer doesn't know.
        return self._tokenizer.id_to_token(token_id) is None

    def _decode_window(self) -> str:
        text: str = self._tokenizer.decode(self._window, skip_special_tokens=self._skip_special)
        return text

    def _settle(self, text: str) -> str:
        """Gives out all but the end of a long run of bytes that form no characters, and shortens the window."""
        # An incomplete character shows as one replacement character, or as one for each of its bytes.
        tail = text[-_MAX_INCOMPLETE_BYTES:]
        num_open = len(tail) - len(tail.rstrip(_REPLACEMENT))
        new = text[self._num_done : len(text) - num_open]
        self._window = self._window[-_KEPT_TOKENS:]
        self._num_context = 0
        self._num_done = len(self._decode_window()) - num_open
        return new

    def _released(self, new: str) -> TextDelta:
        """Passes new text through the search for stop strings."""
        if self._matcher is None:
            return TextDelta(new, None)
        text = self._held + new
        found = self._matcher.search(new)
        if found is None:
            num_released = len(text) - self._matcher.num_held
            self._held = text[num_released:]
            return TextDelta(text[:num_released], None)
        end, self._stop = found
        self._held = ""
        return TextDelta(text[: len(text) - len(new) + end - len(self._stop)], self._stop)
