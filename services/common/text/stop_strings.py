"""Finds stop strings in text that arrives piece by piece.

Owns the search. The result doesn't depend on how the text is cut into pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """An Aho-Corasick automaton over stop strings: constant time a character, however many stop strings there are.

    Its state stands for the longest end of the text so far that begins a stop string; only that much must be held
    back, as only that may still turn out to belong to one.

    Args:
        stop: The stop strings, none of them empty.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._match: list[str | None] = [None]
        for text in stop:
            self._add(text)
        self._fallback = [0] * len(self._next)
        self._link()
        self._state = 0

    @property
    def num_held(self) -> int:
        """Characters at the end of the text so far that may begin a stop string."""
        return self._depth[self._state]

    def search(self, text: str) -> tuple[int, str] | None:
        """Continues the search in the next piece of text.

        Returns:
            The end in `text` of the stop string that is complete first, and that string; of several that end at the
            same character, the longest. None if none is complete yet.
        """
        state = self._state
        for end, character in enumerate(text, start=1):
            while state and character not in self._next[state]:
                state = self._fallback[state]
            state = self._next[state].get(character, 0)
            match = self._match[state]
            if match is not None:
                self._state = 0
                return end, match
        self._state = state
        return None

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._match.append(None)
            state = self._next[state][character]
        self._match[state] = text

    def _link(self) -> None:
        # Breadth first: the fallback of a state is shorter, so it is known before.
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self._next[state].items():
                shorter = self._fallback[state]
                while shorter and character not in self._next[shorter]:
                    shorter = self._fallback[shorter]
                self._fallback[child] = self._next[shorter].get(character, 0)
                if self._match[child] is None:
                    self._match[child] = self._match[self._fallback[child]]
                queue.append(child)
