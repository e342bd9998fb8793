"""Special tokens that a user has written out stay text.

Owns the difference between a special token that the chat template writes and the same characters in a user's string.
A template joins strings, after which nobody can tell whose they were. So what could become a special token is covered
by placeholders before the template sees it; in what the template then returns, every special token is the template's
own. They are given names that nobody can guess, the covered strings are put back, and the text is tokenized by a
tokenizer that knows special tokens by these names alone.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

_INDEX_DIGITS = 6


class SpecialTokens:
    """The special tokens of a tokenizer.

    Args:
        tokenizer: May not be changed afterwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = tokenizer.backend_tokenizer
        added = tokenizer.added_tokens_decoder
        self._added: dict[int, AddedToken] = dict(sorted(added.items()))
        self.texts = tuple(token.content for token in self._added.values() if token.special)
        """Each as it is written out."""
        self.pattern = _any_of(map(re.escape, self.texts))
        """Finds one in a text; its only group is the whole."""
        self.beginnings = frozenset(text[:end] for text in self.texts for end in range(1, len(text)))
        """Every proper beginning of one."""
        self.endings = frozenset(text[start:] for text in self.texts for start in range(1, len(text)))
        """Every proper ending of one."""

    def shield(self) -> Shield:
        """Covers the strings of one prompt."""
        return Shield(self)

    def encode(self, rendered: str, shield: Shield) -> LiteralEncoding:
        """Tokenizes what a template has made of covered strings. May run in several threads.

        Args:
            rendered: With placeholders.
            shield: What covered them.

        Raises:
            ValueError: The tokenizer makes a special token of characters that are none, or the other way round.
        """
        aliases, literal, _ = self.literal
        written = []

        def renamed(match: re.Match[str]) -> str:
            alias = aliases.get(match[0])
            if alias is None:
                return match[0]
            written.append(match[0])
            return alias

        text = shield.uncovered(self._added_pattern.sub(renamed, rendered))
        [encoding] = literal.encode_batch_fast([text], add_special_tokens=False)
        return LiteralEncoding(self, encoding, written)

    @cached_property
    def literal(self) -> tuple[dict[str, str], Tokenizer, dict[int, int]]:
        """The names by which special tokens are known, the tokenizer that knows them, and the ids behind its ids.

        It takes as long to make as the tokenizer takes to load.
        """
        state = json.loads(self._backend.to_str())
        state["added_tokens"] = []
        literal = Tokenizer.from_str(json.dumps(state))
        nonce = secrets.token_hex(16)
        aliases = {text: f"{nonce}{index:0{_INDEX_DIGITS}}" for index, text in enumerate(self.texts)}
        ids = {}
        for token_id, token in self._added.items():
            name = aliases[token.content] if token.special else token.content
            renamed = AddedToken(
                name,
                single_word=token.single_word,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=token.normalized,
                special=token.special,
            )
            (literal.add_special_tokens if token.special else literal.add_tokens)([renamed])
            ids[literal.token_to_id(name)] = token_id
        return aliases, literal, ids

    @cached_property
    def ids(self) -> dict[int, str]:
        """The text of every special id."""
        return {token_id: token.content for token_id, token in self._added.items() if token.special}

    @cached_property
    def _added_pattern(self) -> re.Pattern[str]:
        # As the tokenizer finds added tokens: the leftmost, and of those the longest.
        tokens = sorted(self._added.values(), key=lambda token: len(token.content), reverse=True)
        return _any_of(
            rf"(?<!\w){re.escape(token.content)}(?!\w)" if token.single_word else re.escape(token.content)
            for token in tokens
        )


class Shield:
    """Covers what could become a special token in the strings of one prompt.

    That is each special token, and at both ends of a string what could become one together with what the template
    writes beside it.

    Args:
        specials: The tokenizer's special tokens.
    """

    def __init__(self, specials: SpecialTokens) -> None:
        self._specials = specials
        # Digits survive whatever a template does to strings, such as writing them in upper case or as JSON.
        self._nonce = "".join(secrets.choice("0123456789") for _ in range(30))
        self._placeholders: dict[str, str] = {}

    @property
    def covers(self) -> bool:
        """Whether there was anything to cover."""
        return bool(self._placeholders)

    def cover(self, text: str) -> str:
        """Covers a string that templates write out and don't read."""
        core = text.strip()
        if core and any(core in special for special in self._specials.texts):
            return text.replace(core, self._cover(core))
        return self.cover_ends(text)

    def cover_ends(self, text: str) -> str:
        """Covers a string that templates may read: words such as "object" stay, which special tokens may hold."""
        parts = self._specials.pattern.split(text)
        parts[1::2] = map(self._cover, parts[1::2])
        parts[0] = self._cover_start(parts[0])
        parts[-1] = self._cover_end(parts[-1])
        return "".join(parts)

    def cover_value(self, value: Any) -> Any:
        """Covers all strings of a JSON value, keys included."""
        if isinstance(value, str):
            return self.cover_ends(value)
        if isinstance(value, list):
            return [self.cover_value(item) for item in value]
        if isinstance(value, dict):
            return {self.cover_ends(key): self.cover_value(item) for key, item in value.items()}
        return value

    def uncovered(self, text: str) -> str:
        """Puts back what was covered."""
        if not self.covers:
            return text
        pieces = list(self._placeholders)
        placeholder = rf"{self._nonce}(\d{{{_INDEX_DIGITS}}})"
        return re.sub(placeholder, lambda match: pieces[int(match[1])], text)

    def _cover(self, piece: str) -> str:
        return self._placeholders.setdefault(piece, f"{self._nonce}{len(self._placeholders):0{_INDEX_DIGITS}}")

    def _cover_start(self, text: str) -> str:
        core = text.lstrip()
        for end in range(min(len(core), self._longest), 0, -1):
            if core[:end] in self._specials.endings:
                return text[: len(text) - len(core)] + self._cover(core[:end]) + core[end:]
        return text

    def _cover_end(self, text: str) -> str:
        core = text.rstrip()
        for start in range(max(0, len(core) - self._longest), len(core)):
            if core[start:] in self._specials.beginnings:
                return core[:start] + self._cover(core[start:]) + text[len(core) :]
        return text

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._specials.texts), default=0)


class LiteralEncoding:
    """A tokenized prompt: as long as its tokens are many, and with an object for each id only when asked.

    Args:
        specials: The tokenizer's special tokens.
        encoding: Of the tokenizer that knows special tokens by other names.
        written: The special tokens that the template wrote.
    """

    def __init__(self, specials: SpecialTokens, encoding: Encoding, written: list[str]) -> None:
        self._specials = specials
        self._encoding = encoding
        self._written = written

    def __len__(self) -> int:
        return len(self._encoding)

    @property
    def ids(self) -> list[int]:
        """The token ids.

        Raises:
            ValueError: The special tokens among them aren't those that the template wrote.
        """
        _, _, originals = self._specials.literal
        ids = [originals.get(token_id, token_id) for token_id in self._encoding.ids]
        # Such as a vocabulary whose model writes "</s>" for these four characters.
        if [self._specials.ids[token_id] for token_id in ids if token_id in self._specials.ids] != self._written:
            raise ValueError("the tokenizer can't write a special token as text")
        return ids


def _any_of(expressions: Iterator[str]) -> re.Pattern[str]:
    # Without any, one that matches nowhere.
    return re.compile(f"({'|'.join(expressions) or '(?!)'})")
