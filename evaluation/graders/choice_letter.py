r"""Grades multiple choice: finds the letter that a response settles on.

The reply after the thinking is read for, in this order, the last box, the last statement of an answer ("the answer is
(C)", "Answer: C"), a line that holds nothing but a letter, and a "choice C" or "option C" that is the only one named.
A place that names two different letters names none.
"""

import re

from evaluation.graders.boxed import boxed_answers
from evaluation.graders.grade import Grade, final_text

LETTERS = "ABCD"

_MARKS = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boldsymbol|bf|rm)\b|[{}$*_`~]|\\[()\[\]]")
# A lower-case letter is a word of the sentence unless it stands in brackets or alone.
_CHOICE = r"(?:\(\s*[A-Da-d]\s*\)|\[\s*[A-Da-d]\s*\]|[A-D](?![\w'\u2019-])|[a-d](?=\s*(?:[.,;:)!]|$)))"
_STATED = re.compile(
    r"(?i:\banswer(?:\s+(?:choice|option|letter))?\s*(?:is|would be|should be|must be|=|:)\s*:?\s*"
    rf"(?:(?:choice|option|letter)\s+)?)(?P<choice>{_CHOICE})(?P<rest>[^\n]*)"
)
_ALONE = re.compile(r"^[^\w\n]*(?:(?:choice|option) +)?([A-D])[^\w\n]*$", re.MULTILINE | re.IGNORECASE)
_NAMED = re.compile(r"\b(?:choice|option)\s+\(?([A-D])\b", re.IGNORECASE)
_SECOND = re.compile(rf"^\s*(?:,|/|and|or|&|,\s*(?:and|or))\s+(?:(?:choice|option)\s+)?({_CHOICE})")
# "A" is also an article: "the answer is A proton".
_NOUN_FOLLOWS = re.compile(r"^ (?!because|since|as\b|and\b|or\b|due|which|given|for\b|with\b)[a-z]")
_LETTER_FIRST = re.compile(r"^\W*(?:(?:choice|option)\s+)?([A-D])(?:\W|$)", re.IGNORECASE)


def grade_choice(response: str, letter: str) -> Grade:
    """Compares the letter that a response settles on with the right one.

    Args:
        response: All of it.
        letter: One of `LETTERS`.
    """
    extracted, how = extract_choice(response)
    if extracted is None:
        return Grade(correct=False, extracted=None, reason=how)
    return Grade(extracted == letter, extracted, f"{how} {extracted}, {letter} is right")


def extract_choice(response: str) -> tuple[str | None, str]:
    """The letter that a response settles on.

    Returns:
        The letter in upper case and where it was found; or None and why there is none.
    """
    reply = final_text(response)
    if boxes := boxed_answers(reply):
        return _settled(_letters_in_box(boxes[-1]), "boxed")
    text = _MARKS.sub("", reply)
    for match in reversed(list(_STATED.finditer(text))):
        chosen, rest = match["choice"], match["rest"]
        if chosen == "A" and _NOUN_FOLLOWS.match(rest):
            continue
        second = _SECOND.match(rest)
        letters = {_letter(chosen)} | ({_letter(second[1])} if second else set())
        return _settled(letters, "stated")
    if alone := _ALONE.findall(text):
        return _settled({alone[-1].upper()}, "a line of its own:")
    return _settled({letter.upper() for letter in _NAMED.findall(text)}, "the only choice named:")


def _letters_in_box(content: str) -> set[str]:
    text = _MARKS.sub("", content).strip()
    letters = {_letter(found) for found in re.findall(rf"(?<!\w){_CHOICE}", text)}
    if len(letters) > 1:
        # "C) 2 A" names a choice and quotes it; "A, C" names two.
        first = _LETTER_FIRST.match(text)
        quoted = first is not None and re.match(r"\W*[A-Da-d]\s*[):.]", text)
        return {first[1].upper()} if first and quoted else letters
    return letters


def _letter(choice: str) -> str:
    return choice.strip("()[] \t").upper()


def _settled(letters: set[str], how: str) -> tuple[str | None, str]:
    if len(letters) == 1:
        return letters.pop(), how
    return None, f"ambiguous: {', '.join(sorted(letters))}" if letters else "names no choice"
