"""Where a sentence ends, for cutting the LLM's continuation of a differing token.

Ends are newlines (so every line of code is one), the stops of CJK scripts, and `.`, `!`, `?` before white space.
Whether such a full stop ends its sentence is decided by Punkt, on parameters of our own: nothing is downloaded. Text
may still be on its way, so an end is told only when nothing that may follow takes it back.

Source: arXiv:2505.21600 §3.2 (sentence-ending symbols, then a sentence separator). deviation: the paper names NLTK
and jieba; CJK stops end their sentences without a look at the words, so no word segmentation is needed.
"""

import re
from collections import Counter
from functools import lru_cache
from itertools import product

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from labeler_jobs.text.sentence_data import ABBREVIATIONS, COMMON_WORDS, INNER_ABBREVIATIONS, NUMBERED

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WIDE_STOPS = r"\u3002\uff01\uff1f\uff61"
_WIDE_CLOSERS = r"\u300d\u300f\u201d\u2019\uff09\u3011\u300b\u3009\"')\]"
_QUOTES = "\"'`\u2019\u201d\u00bb"
_CANDIDATE = re.compile(
    rf"""
    \n
    | (?:[{_WIDE_STOPS}]|(?<=[{_CJK}])[!?])[{_WIDE_STOPS}!?]*+[{_WIDE_CLOSERS}]*+(?!\Z)
    | (?<=[^\s(\[{{=<>&|,;:+/])(?P<stop>[.!?\u2026]+)(?P<closers>(?:[{_QUOTES})\]}}*_$]|\\[)\]])*)(?=\s)
    """,
    re.VERBOSE,
)
_LINE_BREAK = re.compile(r"[^\S\n]*\n")
_NEXT_WORD = re.compile(rf"[\s\"'`(\[{{*_$\\\u2018\u201c\u00ab]*+(?:(?P<run>[^\W_{_CJK}]+)|\S)")
_WORD_BEFORE = re.compile(r"[^\s\"'`(\[{*_$\u2018\u201c\u00ab]+\Z")
_ENUMERATOR = re.compile(
    rf"(?:\A|\n|[.!?]\s|[{_WIDE_STOPS}])[\s>#*_+\-\u2022(\[]*(?:(?:step|case|part|item)\s+)?(?:\d{{1,3}}|[a-z]|[ivx]{{2,4}})\Z",
    re.IGNORECASE,
)
_FACTORIAL = re.compile(r"(?:\d|\b[A-Za-z]|\))\Z")
_ELLIPSIS = re.compile(r"\.{2,}|\.*\u2026[.\u2026]*")
_OUTSIDE_QUOTES = re.compile(rf"[^{_QUOTES}]*")
_OPERATORS = frozenset("+/=^%&|,;:")
"""What no sentence begins with."""
_LOOK_BACK = 64
"""Characters before a stop that tell what kind of stop it is."""
_OCCURS_IN_LOWER_CASE = 1 << 5
"""Punkt's flag of a word seen in lower case within sentences."""
_LOWER_CASE = "word"
"""Stands for any word in lower case: Punkt, on these parameters, treats them alike."""
_CAPITALS = ("The", "Name", "7")
"""Of what else may follow, one of each kind that Punkt tells apart."""


def sentence_end(text: str, start: int = 0) -> int | None:
    """Finds the end of the sentence that `start` lies in.

    It looks at the text from `start` on, and at most a line's beginning before it: cheap enough for every token that
    is generated.

    Args:
        text: Text so far; more may follow. It should reach back to the beginning of the line, which tells the "1." of
            an enumeration from the end of a sentence.
        start: Character to look from.

    Returns:
        The index just past the sentence's last character, or None while the sentence is still open. Closing quotes
        and brackets belong to the sentence, and so does the newline that ends one without a stop. Blank space before
        the sentence's first word ends nothing. Once told, an end stays, whatever is appended to `text`.
    """
    for match in _CANDIDATE.finditer(text, start):
        if not text[start : match.end()].strip():
            continue
        ends = _is_end(text, match) if match["stop"] else True
        if ends is None:
            return None
        if ends:
            return match.end()
    return None


def sentence_start(text: str, position: int) -> int:
    """Finds where the sentence that holds `position` begins.

    Args:
        text: Whole text.
        position: A character of the sentence, in [0, len(text)].

    Returns:
        The index of the sentence's first character (blank space included), 0 for the first sentence.
    """
    start = _line_above(text, position)
    while (end := sentence_end(text, start)) is not None and end <= position:
        start = end
    return start


def _line_above(text: str, position: int) -> int:
    """Where the last written line begins that ends before `position`: its newline ends a sentence."""
    written = len(text[: text.rfind("\n", 0, position) + 1].rstrip())
    return text.rfind("\n", 0, written) + 1


def _is_end(text: str, match: re.Match[str]) -> bool | None:
    """Judges one candidate of Latin script; None while too little of what follows is known."""
    if _LINE_BREAK.match(text, match.end()):
        return True
    stop, at, quoted = match["stop"], match.start("stop"), not _OUTSIDE_QUOTES.fullmatch(match["closers"])
    look_back = max(0, at - _LOOK_BACK)
    if stop == "." and _ENUMERATOR.search(text, look_back, at):
        return False
    word = _WORD_BEFORE.search(text, look_back, at)
    factorial = stop == "!" and _FACTORIAL.search(text, look_back, at)
    context = f"{word.group() if word else ''}{'...' if _ELLIPSIS.fullmatch(stop) else stop}"
    if not quoted and not factorial and _ends_before(context, (*_CAPITALS, _LOWER_CASE)):
        return True
    following = _NEXT_WORD.match(text, match.end())
    if following is None:
        return None
    next_word = following["run"] or following.group()[-1]
    if next_word[0].islower():
        return not quoted and not factorial and _breaks(context, _LOWER_CASE)
    if next_word in _OPERATORS or (factorial and not next_word[0].isupper()):
        return False
    unfinished = following["run"] and following.end() == len(text)
    if unfinished and not _ends_before(context, _CAPITALS):
        return None
    return _breaks(context, next_word)


@lru_cache(maxsize=4096)
def _ends_before(context: str, next_words: tuple[str, ...]) -> bool:
    return all(_breaks(context, next_word) for next_word in next_words)


@lru_cache(maxsize=4096)
def _breaks(context: str, next_word: str) -> bool:
    """Asks Punkt whether a sentence ends between a word with its stop and the next word."""
    return bool(_PUNKT.text_contains_sentbreak(f"{context} {next_word}"))


def _make_punkt() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types.update(ABBREVIATIONS, INNER_ABBREVIATIONS)
    # A known collocation is what Punkt never breaks.
    parameters.collocations.update(product(INNER_ABBREVIATIONS, COMMON_WORDS))
    parameters.collocations.update((word, "##number##") for word in NUMBERED)
    # A Counter, since Punkt would enter every word that it looks up into its own default dict.
    parameters.ortho_context = Counter(dict.fromkeys(COMMON_WORDS, _OCCURS_IN_LOWER_CASE))
    return PunktSentenceTokenizer(parameters)


_PUNKT = _make_punkt()
