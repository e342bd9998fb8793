"""Finds the answers that a response gives to a mathematical question: boxes, and "the answer is 25"."""

import re
from collections.abc import Iterator

from evaluation.graders.boxed import Box, boxes
from evaluation.graders.math_text import MEANING
from evaluation.graders.settled import Found, ends_in_correction

_HEAD = re.compile(
    r"""
    (?<![A-Za-z])(?:answer|ans)(?![A-Za-z])
        (?:[\s*_"]*=|(?:(?!answer)[^\n.:=?!;]){0,60}?(?:\b(?:is|be|was|equals|as|becomes)\b|[:>\u2192\u2014\u2013]|\s-\s|[^\S\n]*[*#_]*[^\S\n]*\n))
    | (?:答案|结果|答)[^\n。\uff0c,:\uff1a是为不]{0,12}?(?:是|为|等于|[:\uff1a=】])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|never|cannot|neither|whether|if|can't)\b|n['\u2019]t\b|不", re.IGNORECASE)
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|assume|wrong|incorrect|false|not|previous|old)\b[^.,;\n]{0,20}|\bis\s+(?:the|my|your)?\s*|不是?)$",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"""(?:[\s*_:,"'\u201c\u2018`>#=\u2192\u2014]+|\\[(\[]|\$+|\\(?:displaystyle|,|;|!)
    |(?:therefore|thus|hence|then|so|indeed|simply|just|clearly|exactly|precisely|equal\s+to|given\s+by|found\s+to\s+be|now|actually|only|obviously
       |in\s+fact|of\s+course|again|certainly|surely|definitely|still|indeed|finally|evidently|equals|probably|likely|apparently|instead|really|in\s+the\s+end
       |(?:the\s+)?(?:number|integer|value|single\s+number|positive\s+integer)(?:\s+is\b)?|就|应该|应|即|\w+ly)\b[,:]?
    |it(?:'s|\s+is)\b|not\s+[^\n.]{1,20}?\bbut\s+(?:rather\s+)?)+""",
    re.VERBOSE | re.IGNORECASE,
)
# Of a sentence: what may belong to the value. Words end it, as do stops, lines, colons and arrows.
_TEXT = r"\\(?:text\w*|math(?:rm|bf|it)|operatorname|mbox|underline|boldsymbol|bm)\s*\{[^{}]*\}"
_VALUE = re.compile(
    rf"(?:{_TEXT}|\\(?!(?:implies|iff|because|therefore|to|(?:long|Long)?(?:left|right|Left|Right)+arrow)\b)[A-Za-z]+|\\[^A-Za-z\n]|(?<![A-Za-z])(?:sin|cos|tan|log|ln|sqrt|pi)\b|(?<![A-Za-z])[A-Za-z](?![A-Za-z'\u2019])"
    r"|[.!](?=[^\s*\"'\u201d)$\]]|$)(?!$)|[^A-Za-z\\\n;?.!:\u2190-\u2194\u21d0-\u21d4\u2014\u2235\u2234\u3002\uff0c\u4e00-\u9fff])*"
)
_STARTS_VALUE = re.compile(r"[-+(\u2212]*\s*(?:[\d.\\]|[A-Za-z](?![A-Za-z]))|\{")
# ", 20+5=25": a reason that is an equation.
_EQUATION_AFTER = re.compile(r"^([^=,]*),[^,]*=.*$", re.DOTALL)
_DANGLING = re.compile(r"(?:[\s,(\[{*_\"'\u201d\u2019`~-]|\\[(\[,;!]|\s[aI](?=\s*$))+$")
_WORD_AFTER = re.compile(r"\s*(?P<word>[A-Za-z]+)\s*(?P<rest>[^\n]{0,40})")
# "25 or 26", "25 or maybe 26", "25 and 26"; not "25 and we are done".
_ANOTHER = re.compile(r"(?:(?:maybe|perhaps|possibly|even|also)\s+)?[-+\d\\$(]")
_ONLY_VALUE = re.compile(r"[^A-Za-z]*(?:\\[A-Za-z]+[^A-Za-z]*)*")
_RATIO = re.compile(r":\d+")
_ASIDE_WORDS = "because since as where when if not is does but power through"
_OTHER_VALUE = MEANING - frozenset(_ASIDE_WORDS.split())
_AND = frozenset({"and", "or", "to"})
_SENTENCE_LEN = 300

# Boxes that hold no value: a formula's name ("m+n"), a placeholder ("answer"), a sign that the proof ends.
_LETTERS_ONLY = re.compile(
    r"(?:\\(?:cdot|times|quad|left|right|,|;|!| |text\s*\{\s*\}|mathrm|mathbf|[dt]?frac|sqrt|sum"
    r"|alpha|beta|gamma|theta|lambda|sigma|omega|delta|epsilon)(?![A-Za-z])"
    r"|[A-Za-z]{1,2}(?![A-Za-z])|[-+*/^_=(){}\s,.|!\\])*"
)
_PLACEHOLDER = re.compile(
    r"[\W_]*(?:(?:\\text\w*|\\mathrm|\\mathbf)?[\W_]*(?:your|final|the|numerical)?\s*(?:answer|result|value|q\.?e\.?d|done|correct|verified|check(?:mark)?|square|blacksquare"
    r"|true|ok|ldots|dots|cdots|yes)(?:\s+here)?)?[\W_]*",
    re.IGNORECASE,
)
_CONSTANT = re.compile(r"\\(?:pi|infty|varnothing|emptyset|phi)\b")
_JOINED = re.compile(
    r"[\s$\\()\[\]]*(?:,|or|and|,\s*or|,\s*and|\\text\{\s*(?:or|and)\s*\}|或|和)[\s$\\()\[\]]*(?:[a-z]\s*=\s*)?",
    re.IGNORECASE,
)


def answers(text: str, gold: str) -> list[Found[str]]:
    """All answers that a text gives, as LaTeX.

    Args:
        text: The reply, or the thinking.
        gold: The right answer. Where it is a number, a box without one ("m+n", "answer") is no answer, unless
            there is no other.
    """
    boxed = _joined(boxes(text), text)
    if re.search(r"\d", gold):
        boxed = [found for found in boxed if _holds_value(found.answer)] or boxed[-1:]
    return [*boxed, *_statements(text)]


def _holds_value(latex: str) -> bool:
    if re.search(r"\d", latex) or _CONSTANT.search(latex):
        return True
    return not (_LETTERS_ONLY.fullmatch(latex) or _PLACEHOLDER.fullmatch(latex))


def _joined(found: list[Box], text: str) -> list[Found[str]]:
    """Boxes with an "or" between them are one answer."""
    answers: list[Found[str]] = []
    end = -1
    for box in found:
        if answers and box.start - end < 40 and _JOINED.fullmatch(text, end, box.start):
            answers[-1] = Found(answers[-1].start, True, f"{answers[-1].answer}, {box.content}")
        else:
            answers.append(Found(box.start, True, box.content))
        end = box.end
    return answers


def _statements(text: str) -> Iterator[Found[str]]:
    for head in _HEAD.finditer(text):
        before = text[max(0, head.start() - 40) : head.start()]
        if _DENIED.search(head.group()) or _DENIED_BEFORE.search(before):
            continue
        value = stated_value(text[head.end() : head.end() + _SENTENCE_LEN])
        if value is not None:
            yield Found(head.end(), False, value)


def stated_value(sentence: str) -> str | None:
    """The value that a sentence begins with: "25" of " therefore 25, since 5*5 = 25."; None without."""
    line = sentence.lstrip().split("\n", 1)[0]
    corrected = _after_opening(line[ends_in_correction(line) :])
    # "24, no wait, 25."
    if len(corrected) < len(line) and _STARTS_VALUE.match(corrected) and _ONLY_VALUE.fullmatch(corrected):
        return _leading_value(corrected)
    rest = _after_opening(sentence)
    return _leading_value(rest) if _STARTS_VALUE.match(rest) else None


def _after_opening(sentence: str) -> str:
    opened = _OPENING.match(sentence)
    return sentence[opened.end() :] if opened else sentence


def _leading_value(rest: str) -> str | None:
    match = _VALUE.match(rest)
    assert match is not None
    written = match.group()
    if ratio := _RATIO.match(rest, match.end()):
        written += ratio.group()
    value = _EQUATION_AFTER.sub(r"\1", _DANGLING.sub("", written))
    word = _WORD_AFTER.match(rest, match.end())
    if word and _changes(word, written.rstrip().endswith(",")):
        # Not a value that can be read, and not one that can be left out either.
        return f"{value} {rest[match.end() :].splitlines()[0].strip()}"
    return value or None


def _changes(word: re.Match[str], after_comma: bool) -> bool:
    """Whether the word after a value makes another value of it: "25 thousand", "25 or 26"."""
    name = word["word"].lower()
    if name in _AND:
        return bool(_ANOTHER.match(word["rest"]))
    return name in _OTHER_VALUE and not after_comma
