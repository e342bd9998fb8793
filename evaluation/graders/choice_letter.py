r"""Grades multiple choice: finds the letter that a response settles on.

Letters inside formulas are none (`choice_text`). Boxes and explicit statements (`choice_patterns.STATEMENTS`)
come first, in the order of `settled`; a box without a letter is no answer. Where there is neither: a line
that holds nothing but a letter, a line that begins with one and its reason, and at last an "option C" that is
the only one named and isn't called wrong. A place that names two different letters, or one that isn't
offered, names none, and nothing weaker is asked.
"""

import re
from collections.abc import Iterator

from evaluation.graders.choice_patterns import (
    ALONE,
    BOXED,
    DENIED_BEFORE,
    DENIED_INSIDE,
    DENIED_MENTION,
    DENIED_MENTION_BEFORE,
    LEADING,
    MENTION,
    NOUN_FOLLOWS,
    QUESTION,
    SECOND,
    STATEMENTS,
)
from evaluation.graders.choice_text import reaching, readable
from evaluation.graders.grade import Grade
from evaluation.graders.settled import Found, first_that_answers, settle

LETTERS = "ABCD"

_LOOK_BACK = 60
"""Characters before a statement that may turn it round."""


def grade_choice(response: str, letter: str, letters: str = LETTERS) -> Grade:
    """Compares the letter that a response settles on with the right one.

    Args:
        response: All of it.
        letter: One of `letters`.
        letters: Those that are offered, from A on.
    """
    extracted, how = extract_choice(response, letters)
    if extracted is None:
        return Grade(correct=False, extracted=None, reason=how)
    return Grade(extracted == letter, extracted, f"{how} {extracted}, {letter} is right")


def extract_choice(response: str, letters: str = LETTERS) -> tuple[str | None, str]:
    """The letter that a response settles on.

    Args:
        response: All of it.
        letters: Those that are offered, from A on.

    Returns:
        The letter in upper case and where it was found; or None and why there is none.
    """
    named, how = first_that_answers(response, lambda part: _read(part, letters)) or (set(), "")
    if len(named) == 1 and named <= set(letters):
        return next(iter(named)), how
    if len(named) > 1:
        return None, f"ambiguous: {', '.join(sorted(named))}"
    return None, f"{how} {named.pop()}, which isn't offered" if named else "names no choice"


def _read(part: str, letters: str) -> tuple[set[str], str] | None:
    last = letters[-1]
    text = readable(part, last)
    boxed = reaching(BOXED, last).finditer(text)
    found = [Found(match.start(), True, set(match["letters"])) for match in boxed]
    if settled := settle(text, [*found, *_statements(text, last)]):
        return settled.answer, settled.how
    for pattern in (reaching(ALONE, last), reaching(LEADING, last)):
        if alone := [match for match in pattern.finditer(text) if _letter(match) in letters]:
            return {_letter(alone[-1])}, "a line of its own:"
    mentions = reaching(MENTION, last).finditer(text)
    mentioned = {_letter(match) for match in mentions if not _is_denied_mention(match, text)}
    return (mentioned, "the only choice named:") if mentioned else None


def _statements(text: str, last: str) -> Iterator[Found[set[str]]]:
    for pattern in STATEMENTS:
        for match in reaching(pattern, last).finditer(text):
            if not _is_denied(match, text):
                yield Found(match.start(_group(match)), False, _letters(match, text, last))


def _is_denied_mention(match: re.Match[str], text: str) -> bool:
    before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
    return bool(DENIED_MENTION.match(match["rest"]) or DENIED_MENTION_BEFORE.search(before))


def _is_denied(match: re.Match[str], text: str) -> bool:
    groups = match.groupdict()
    is_article = match[_group(match)] == "A" and NOUN_FOLLOWS.match(text, match.end())
    denied = not groups.get("contrast") and DENIED_INSIDE.search(match.group())
    before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
    return bool(is_article or denied or DENIED_BEFORE.search(before) or QUESTION.match(text, match.end()))


def _letters(match: re.Match[str], text: str, last: str) -> set[str]:
    letters = {_letter(match)}
    if first := match.groupdict().get("first"):
        letters.add(_bare(first))
    elif second := reaching(SECOND, last).match(text, match.end(_group(match))):
        letters.add(_bare(second["choice"]))
    return letters


def _letter(match: re.Match[str]) -> str:
    return _bare(match[_group(match)])


def _group(match: re.Match[str]) -> str:
    return "choice" if match["choice"] else "bracketed"


def _bare(choice: str) -> str:
    return choice.strip("()[] \t").upper()
