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
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer
from transformers import PreTrainedTokenizerFast

_INDEX_DIGITS = 6
_WORD = re.compile(r"\w")

_Node = dict[str, "_Node"]


class SpecialTokens:
    """The special tokens of a tokenizer.

    Takes as long to make as the tokenizer takes to load.

    Args:
        tokenizer: May not be changed afterwards.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._added: dict[int, AddedToken] = dict(sorted(tokenizer.added_tokens_decoder.items()))
        self.texts = tuple(token.content for token in self._added.values() if token.special)
        """Each as it is written out."""
        self.pattern = _any_of(self.texts)
        """Finds one in a text; its only group is the whole."""
        self.joined = "\0".join(self.texts)
        """All of them, to search for a part of one."""
        self.longest = max(map(len, self.texts), default=0)
        """Characters of the longest."""
        self.beginnings = frozenset(text[:end] for text in self.texts for end in range(1, len(text)))
        """Every proper beginning of one."""
        self.endings = frozenset(text[start:] for text in self.texts for start in range(1, len(text)))
        """Every proper ending of one."""
        self.ids = {token_id: token.content for token_id, token in self._added.items() if token.special}
        """The text of every special id."""
        # As the tokenizer finds added tokens: the leftmost, and of those the longest.
        self._added_pattern = _any_of([token.content for token in self._added.values()])
        self._single_words = {token.content for token in self._added.values() if token.single_word}
        self.renamed = _Renamed(self._added, tokenizer.backend_tokenizer)

    def shield(self) -> Shield:
        """Covers the strings of one prompt."""
        return Shield(self)

    def encode(self, rendered: str, shield: Shield) -> LiteralEncoding:
        """Tokenizes what a template has made of covered strings. May run in several threads.

        Args:
            rendered: With placeholders.
            shield: What covered them.
        """
        written = []

        def rename(match: re.Match[str]) -> str:
            name = self.renamed.names.get(match[0])
            if name is None or (match[0] in self._single_words and _beside_word(match)):
                return match[0]
            written.append(match[0])
            return name

        text = shield.uncovered(self._added_pattern.sub(rename, rendered))
        [encoding] = self.renamed.tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return LiteralEncoding(self, encoding, written)


class _Renamed:
    """A copy of a tokenizer that knows special tokens by other names.

    Args:
        added: The tokenizer's added tokens by their ids.
        backend: The tokenizer.
    """

    def __init__(self, added: Mapping[int, AddedToken], backend: Tokenizer) -> None:
        state = json.loads(backend.to_str())
        state["added_tokens"] = []
        self.tokenizer = Tokenizer.from_str(json.dumps(state))
        nonce = secrets.token_hex(16)
        special = [token.content for token in added.values() if token.special]
        # With the ends of the text: next to a word, or another special token, the tokenizer takes it as it took that.
        self.names = {
            text: f"{text[0]}{nonce}{index:0{_INDEX_DIGITS}}{text[-1]}" for index, text in enumerate(special)
        }
        """The name of each special token."""
        copies = [self._copied(token) for token in added.values()]
        self.tokenizer.add_special_tokens([token for token in copies if token.special])
        self.tokenizer.add_tokens([token for token in copies if not token.special])
        self.ids = {
            self.tokenizer.token_to_id(token.content): token_id for token_id, token in zip(added, copies, strict=True)
        }
        """The tokenizer's id of each added token, by the copy's."""

    def _copied(self, token: AddedToken) -> AddedToken:
        return AddedToken(
            self.names.get(token.content, token.content),
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
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
        self._nonce = f"{secrets.randbits(96):030}"
        self._placeholders: dict[str, str] = {}

    @property
    def covers(self) -> bool:
        """Whether there was anything to cover."""
        return bool(self._placeholders)

    def cover(self, text: str) -> str:
        """Covers a string that templates write out and don't read."""
        core = text.strip()
        if core and core in self._specials.joined:
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
        for end in range(min(len(core), self._specials.longest), 0, -1):
            if core[:end] in self._specials.endings:
                return text[: len(text) - len(core)] + self._cover(core[:end]) + core[end:]
        return text

    def _cover_end(self, text: str) -> str:
        core = text.rstrip()
        for start in range(max(0, len(core) - self._specials.longest), len(core)):
            if core[start:] in self._specials.beginnings:
                return core[:start] + self._cover(core[start:]) + text[len(core) :]
        return text


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
        originals = self._specials.renamed.ids
        ids = [originals.get(token_id, token_id) for token_id in self._encoding.ids]
        # Such as a vocabulary whose model writes "</s>" for these four characters.
        if [self._specials.ids[token_id] for token_id in ids if token_id in self._specials.ids] != self._written:
            raise ValueError("the tokenizer can't write a special token as text")
        return ids


def _beside_word(match: re.Match[str]) -> bool:
    text, start, end = match.string, match.start(), match.end()
    return bool(_WORD.search(text[max(0, start - 1) : start]) or _WORD.search(text[end : end + 1]))


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    """Finds the longest of some texts in a time that doesn't grow with their number. Its only group is the whole."""
    root: _Node = {}
    for text in texts:
        node = root
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return re.compile(f"({_expression(root)})")


def _expression(node: _Node) -> str:
    branches = [re.escape(character) + _expression(child) for character, child in node.items() if character]
    if not branches:
        # A leaf; or, without any text, what is found nowhere.
        return "" if node else "(?!)"
    joined = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
    return f"{joined}?" if "" in node else joined
