r"""Prepares a response for the search of a letter: plain text in which no letter of a formula is left.

A formula that is nothing but a letter (`$\mathbf{(C)}$`) becomes that letter, any other one `FORMULA`. A box becomes
`⟦C⟧`, with the letters that it names, or `FORMULA`.

Patterns are written for four options, A to D; `reaching` widens one where there are more.
"""

import re
import unicodedata
from functools import cache

from evaluation.graders.boxed import boxes

FORMULA = "\u25a1"
BOX_OPEN, BOX_CLOSE = "\u27e6", "\u27e7"

_COMMAND = (
    r"\\(?:text|textbf|textit|textrm|textsf|mathbf|mathrm|mathit|mathsf|boldsymbol|bm|bf|rm|underline|emph|boxed)\b"
)
_MARKUP = re.compile(rf"{_COMMAND}|[{{}}$*`~]|\\[()\[\],;:! ]|\\(?:quad|left|right)\b|(?<!\w)_+|_+(?!\w)")
_MATH = re.compile(r"\$\$.{0,2000}?\$\$|\$[^$\n]{0,500}\$|\\\(.{0,1000}?\\\)|\\\[.{0,2000}?\\\]", re.DOTALL)
_QUOTES = re.compile(
    "[\"\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f]|(?<!\\w)['\u2018](?=\\(?[A-Za-z]\\)?[.,]?['\u2019])"
    "|(?<=[^\\w][A-Za-z])['\u2019]|(?<=\\))['\u2019]|(?<=[A-Za-z][.,])['\u2019](?!\\w)"
)
_ONE_LETTER = re.compile(r"\s*[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:]?\s*")
# "(C) 3 eV", "C) 5 A", "C. 25", "Option C: 25": the letter that marks a quoted option.
_LABEL = re.compile(
    r"\s*(?:(?:option|choice|answer:?)\s+)?(?:[(\[]\s*([A-D])\s*[)\]](?![\^_(])|([A-D])\s*(?:\)|[.:](?=\s)))",
    re.IGNORECASE,
)
# "25 (C)", and not "f(C)".
_LABEL_LAST = re.compile(r"(?:^|\s)[(\[]\s*([A-D])\s*[)\]]\s*$")
# "A, C", "A and C".
_LIST = re.compile(
    r"\s*[(\[]?[A-D][)\]]?(?:\s*(?:,|/|&|and|or|;|\u548c|\u6216)\s*[(\[]?[A-D][)\]]?)+\s*\.?\s*", re.IGNORECASE
)
_ONE_OF_LIST = re.compile(r"(?<![A-Za-z])[A-Da-d](?![A-Za-z])")
# "Option C", "the answer is C", "C is correct", "C because ...".
_NAMED = re.compile(
    r"\s*(?:(?:the )?(?:correct |right |final |best )?(?:option|choice|answer)(?:\s+is|:)?\s+)?[(\[]?([A-D])[)\]]?"
    r"(?:\s*\.?\s*|,?\s+(?:is|because|since|as)\b.*)",
    re.IGNORECASE | re.DOTALL,
)

# "C \\text{ (3 eV)}", where "C (x + 1)" is a formula.
_BEFORE_TEXT = re.compile(r"\s*([A-D])\s*\\text\w*\s*\{\s*[(,:.-]")
# Two boxes that are one answer: "⟦A⟧ or ⟦C⟧".
_JOINED = re.compile(rf"{BOX_CLOSE}[\s$]*(?:,|/|and|or|,\s*and|,\s*or|\u548c|\u6216)[\s$]*{BOX_OPEN}")


@cache
def reaching(pattern: re.Pattern[str], last: str) -> re.Pattern[str]:
    """A pattern for options up to another letter than D.

    Args:
        pattern: It names options as the ranges A-D and a-d.
        last: The last option, in upper case.
    """
    if last <= "D":
        return pattern
    widened = pattern.pattern.replace("A-D", f"A-{last}").replace("a-d", f"a-{last.lower()}")
    return re.compile(widened, pattern.flags)


def readable(response: str, last: str = "D") -> str:
    """The text in which letters are looked for.

    Args:
        response: All of it.
        last: The last option.
    """
    pieces, position = [], 0
    for box in boxes(response):
        pieces += [response[position : box.start], _shown_box(box.content, last)]
        position = box.end
    text = _JOINED.sub("", "".join([*pieces, response[position:]]))
    text = unicodedata.normalize("NFKC", _MATH.sub(lambda match: _shown_formula(match, last), text))
    return _QUOTES.sub("", _MARKUP.sub("", text))


def _shown_formula(match: re.Match[str], last: str) -> str:
    content = _MARKUP.sub("", match.group())
    # "\\[ \\text{Answer: } C \\]" is read, "$C = Q/V$" isn't.
    if BOX_OPEN in content or _ONE_LETTER.fullmatch(content) or re.search(r"\banswer\b", content, re.IGNORECASE):
        return content
    label = reaching(_LABEL, last).match(content)
    return f"({label[1]}) {FORMULA}" if label and label[1] else FORMULA


def _shown_box(latex: str, last: str) -> str:
    letters = "".join(sorted(_letters_of_box(unicodedata.normalize("NFKC", latex), last)))
    return f" {BOX_OPEN}{letters}{BOX_CLOSE} " if letters else f" {FORMULA} "


def _letters_of_box(latex: str, last: str) -> set[str]:
    text = _MARKUP.sub(" ", latex).strip()
    before_text, named, label, label_last, listed, one = (
        reaching(pattern, last) for pattern in (_BEFORE_TEXT, _NAMED, _LABEL, _LABEL_LAST, _LIST, _ONE_OF_LIST)
    )
    if listed.fullmatch(text):
        return {letter.upper() for letter in one.findall(text)}
    match = before_text.match(latex) or named.fullmatch(text) or label.match(text) or label_last.search(text)
    return {letter.upper() for letter in match.groups() if letter} if match else set()
