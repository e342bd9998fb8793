r"""Finds the program in a response: which fenced block it is, and where that block begins and ends.

The last block labelled as Python counts; without one, the last unlabelled one that looks like a program, else the
last at all. Passed over, as long as there is another: what is announced as input, output or use of a program, a
session of the interpreter, and what holds no code. A fence may be indented (in a list), quoted or behind prose, may
be longer than three, and is closed by a line that begins with one at least as long, by the next block, or by the
response's end. One that is indented within a text of the program ends nothing.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.graders.grade import parts

_FENCE = re.compile(
    r"[ \t]*+(?P<lead>(?:>[ \t]*+|(?:[-*+]|\d{1,3}[.)])[ \t]++)*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$",
    re.MULTILINE,
)
_FENCE_BEHIND_PROSE = re.compile(
    r"(?P<lead>)[^`~\n]*[^`~\s][ \t]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)$", re.MULTILINE
)
_LABEL = re.compile(r"[{.\s]*(?:lang(?:uage)?[-:])?([\w+#-]*)", re.IGNORECASE)
_PYTHON = re.compile(r"(?:python|py|pypy|ipython|sage)[-\d.]*", re.IGNORECASE)
_FILE = re.compile(r"[{\s]*[\w./-]+\.py\b")
_ONE_LABEL = re.compile(r"[{.]?[\w+#-]+(?:[\s,;:{}][^`\n]*)?$")
_MARKDOWN = ("markdown", "md")
_TEXT_QUOTES = re.compile(r"\"\"\"|\'\'\'")
# "Example output:", "Sample Input 1", "Output for n = 3:", "输出:": what follows is no program.
_IS_TEXT = re.compile(
    r"^\W*(?:(?:an?|example|sample|expected|for|the|its|program'?s?|actual|this|console|terminal|test|corresponding)\s+)*"
    r"(?:input|output|result|stdin|stdout)s?(?:\s+(?:\d+|is|would\s+be|will\s+be|looks\s+like|(?:for|of|in|from|on)\s.*|\(.*\)))?\W*$"
    r"|(?:输出|输入|示例|样例|结果|出力|入力|출력|입력)[^\n]{0,6}$"
    r"|^\W*(?:ausgabe|eingabe|sortie|entrée|salida|entrada|saída|вывод|ввод)\b[^\n]{0,20}$",
    re.IGNORECASE,
)
# "which prints", "Example:", "it outputs the following:", before a block that doesn't say that it is Python.
_ANNOUNCES_TEXT = re.compile(
    r"\b(?:prints?|printing|outputs|(?:will|would|should)\s+output|gives|giving|returns?|produces|yields|displays|shows)(?:\s+(?:the\s+)?(?:following|output|result|this|something\s+like))?\W*$"
    r"|\boutput\s+(?:is|will\s+be|would\s+be|looks\s+like)\W*$"
    r"|^\W*(?:for\s+)?(?:example|sample|test)(?:\s+(?:case|run|usage))?s?\s*\d*\W*$",
    re.IGNORECASE,
)
# "Example usage:", "Test cases:", "You can test it with:", before a block of Python that calls the program.
_IS_USE = re.compile(
    r"^\W*(?:(?:an?|some|the|here|is|are|this|example|sample|simple|how\s+to|of|for)\W+)*"
    r"(?:usage|use|calls?|calling|examples?|tests?|testing|test\s+(?:cases?|code)|driver(?:\s+code)?|call\s+it|use\s+it|run\s+it)"
    r"(?:\s+(?:the|it|of|function|code|usage|cases?))*\W*$"
    r"|\b(?:test|call|use|run|try)\s+(?:it|this|the\s+\w+|your\s+\w+)\s+(?:with|like\s+(?:this|so)|as\s+follows|by|using)\W*$",
    re.IGNORECASE,
)
_ANNOUNCEMENT_LEN = 200
_CODE = re.compile(
    r"^\s*(?:import|from|def|class|for|while|if|return|with|try|print|async)\b|\w\s*=\s*\S|\w\(", re.MULTILINE
)


@dataclass
class _Block:
    info: str
    announced: str
    lines: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:
        found = _LABEL.match(self.info)
        return found[1].lower() if found else ""

    @property
    def program(self) -> str:
        first = next((line for line in self.lines if line.strip()), "")
        # A line of a text within the program may have less.
        return "".join(line[min(_indent(first), _indent(line)) :] for line in self.lines)

    @property
    def is_python(self) -> bool:
        return _is_python(self.info)

    @property
    def has_code(self) -> bool:
        return any(line.strip() and not line.lstrip().startswith("#") for line in self.lines)

    @property
    def is_session(self) -> bool:
        first = next((line.strip() for line in self.lines if line.strip()), "")
        return first.startswith((">>>", "$ "))

    @property
    def is_text(self) -> bool:
        return _IS_TEXT.search(self.announced) is not None

    @property
    def is_use(self) -> bool:
        return _IS_USE.search(self.announced) is not None

    @property
    def looks_like_code(self) -> bool:
        if not _CODE.search(self.program):
            return False
        # A single line is as likely a formula or a figure.
        return len(self.program.strip().split("\n")) > 1 or _is_valid(self.program)


def _is_python(info: str) -> bool:
    label = _LABEL.match(info)
    return _FILE.match(info) is not None or (label is not None and _PYTHON.fullmatch(label[1]) is not None)


def _is_valid(program: str) -> bool:
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def extract_program(response: str) -> str | None:
    """The program of a response, without indentation that all of it shares; None where there is none.

    Args:
        response: All of it; what comes before the end of thinking isn't read.
    """
    blocks = _blocks(parts(response)[1])
    labelled = [block for block in blocks if block.is_python]
    coded = [block for block in labelled if block.has_code]
    silent = [
        block
        for block in blocks
        if not block.label
        and block.has_code
        and not (block.is_text or block.is_session or _ANNOUNCES_TEXT.search(block.announced))
    ]
    for candidates in (
        [block for block in coded if not (block.is_text or block.is_use or block.is_session)],
        [block for block in coded if not (block.is_text or block.is_session)],
        coded,
        [block for block in silent if block.looks_like_code],
        silent,
        labelled,
    ):
        if candidates:
            return candidates[-1].program
    return None


def _blocks(reply: str) -> list[_Block]:
    blocks: list[_Block] = []
    opened: re.Match[str] | None = None
    above = ""
    lines = re.split(r"(?<=\n)", reply.replace("\r\n", "\n"))
    for place, line in enumerate(lines):
        if opened is not None:
            rest = _behind_end(line, opened)
            if rest is None or _is_within_text(line, opened, blocks[-1].lines, lines[place + 1 :]):
                blocks[-1].lines.append(_body(line, opened))
                continue
            if line.strip().endswith(opened["mark"]) and not _body(line, opened).lstrip().startswith(opened["mark"]):
                blocks[-1].lines.append(_body(line, opened).rstrip().rstrip(opened["mark"][0]) + "\n")
            opened, above = None, rest[-_ANNOUNCEMENT_LEN:]
            if not _ONE_LABEL.match(rest):
                continue
        opened = _opening(line)
        if opened:
            blocks.append(_Block(opened["info"].strip(), above))
        elif line.strip():
            above = line.strip()[-_ANNOUNCEMENT_LEN:]
    return [inner for block in blocks for inner in (_blocks("".join(block.lines)) if _is_reply(block) else [block])]


def _is_reply(block: _Block) -> bool:
    """Whether a whole answer was wrapped in a block of Markdown."""
    return block.label in _MARKDOWN and any(map(_FENCE.match, block.lines))


def _opening(line: str) -> re.Match[str] | None:
    fence = _FENCE.match(line)
    if fence is None:
        behind = _FENCE_BEHIND_PROSE.match(line)
        return behind if behind and _is_python(behind["info"]) else None
    return fence


def _behind_end(line: str, opened: re.Match[str]) -> str | None:
    """What stands behind the fence that ends a block, in the same line; None where the line ends none."""
    text, mark = line.strip(" \t\n>" if ">" in opened["lead"] else None), opened["mark"]
    if text.startswith(mark):
        rest = text.lstrip(mark[0])
        # Other than backticks, tildes may begin a line of a program's text.
        return rest if mark[0] == "`" or not rest else None
    return "" if text.endswith(mark) and mark == "```" else None


def _is_within_text(line: str, opened: re.Match[str], before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether a fence stands in a text of the program: indented, after quotes that close before the block does."""
    quotes = ""
    for found in _TEXT_QUOTES.finditer("".join(before)):
        quotes = "" if found[0] == quotes else quotes or found[0]
    if not quotes or _indent(line) <= _indent(opened[0]):
        return False
    closing = next((place for place, later in enumerate(after) if quotes in later), None)
    return closing is not None and any(_behind_end(later, opened) is not None for later in after[closing:])


def _body(line: str, opened: re.Match[str]) -> str:
    """A line without what its block is quoted by."""
    if ">" in opened["lead"]:
        return re.sub(r"^[ \t]*(?:>[ ]?)+", "", line)
    return line
