r"""Finds the program in a response: which fenced block it is, and where that block begins and ends.

The last block labelled as Python counts; without one, the last unlabelled one that isn't announced as output
and looks like a program, else the last that isn't announced. A fence may be indented (in a list) or quoted,
may be longer than three, is closed by one that is at least as long, and ends with the response where it is
never closed.
"""

import re
from dataclasses import dataclass

from evaluation.graders.grade import parts

_FENCE = re.compile(
    r"[ \t]*+(?P<lead>(?:>[ \t]*+|(?:[-*+]|\d{1,3}[.)])[ \t]++)*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)"
)
_LABEL = re.compile(r"[{.\s]*([\w+#-]*)")
_PYTHON = re.compile(r"(?:python|py|pypy|ipython|sage)[\d.]*", re.IGNORECASE)
# "Example output:", "Sample Input 1", "Output for n = 3:", "输出:": what follows is no program.
_IS_TEXT = re.compile(
    r"^\W*(?:(?:an?|example|sample|expected|the|its|program'?s?|actual|this|console|terminal|test|corresponding)\s+)*"
    r"(?:input|output|result|stdin|stdout)s?(?:\s+(?:\d+|is|would\s+be|will\s+be|looks\s+like|(?:for|of|in|from|on)\s.*|\(.*\)))?\W*$"
    r"|(?:输出|输入|示例|样例|结果)[^\n]{0,6}$",
    re.IGNORECASE,
)
# "which prints", "Example:", "it outputs the following:", before a block that doesn't say that it is Python.
_ANNOUNCES_TEXT = re.compile(
    r"\b(?:prints?|printing|outputs|(?:will|would|should)\s+output|gives|giving|returns?|produces|yields|displays|shows)(?:\s+(?:the\s+)?(?:following|output|result|this|something\s+like))?\W*$"
    r"|\boutput\s+(?:is|will\s+be|would\s+be|looks\s+like)\W*$"
    r"|^\W*(?:for\s+)?(?:example|sample|test)(?:\s+(?:case|run|usage))?s?\s*\d*\W*$",
    re.IGNORECASE,
)
_ANNOUNCEMENT_LEN = 200
_CODE = re.compile(
    r"^\s*(?:import|from|def|class|for|while|if|return|with|try|print|async)\b|\w\s*=\s*\S|\w\(", re.MULTILINE
)


@dataclass(frozen=True)
class _Block:
    label: str
    announced: str
    lines: list[str]

    @property
    def program(self) -> str:
        first = next((line for line in self.lines if line.strip()), "")
        # A line of a text within the program may have less.
        return "".join(line[min(_indent(first), _indent(line)) :] for line in self.lines)

    @property
    def is_python(self) -> bool:
        return _PYTHON.fullmatch(self.label) is not None

    @property
    def is_text(self) -> bool:
        return _IS_TEXT.search(self.announced) is not None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def extract_program(response: str) -> str | None:
    """The program of a response, without indentation that all of it shares; None where there is none.

    Args:
        response: All of it; what comes before the end of thinking isn't read.
    """
    blocks = _blocks(parts(response)[1])
    labelled = [block for block in blocks if block.is_python]
    silent = [
        block
        for block in blocks
        if not block.label and not block.is_text and not _ANNOUNCES_TEXT.search(block.announced)
    ]
    for candidates in (
        [block for block in labelled if not block.is_text],
        labelled,
        [block for block in silent if _CODE.search(block.program)],
        silent,
    ):
        if candidates:
            return candidates[-1].program
    return None


def _blocks(reply: str) -> list[_Block]:
    blocks: list[_Block] = []
    opened: re.Match[str] | None = None
    above = ""
    for line in re.split(r"(?<=\n)", reply.replace("\r\n", "\n")):
        if opened is None:
            opened = _FENCE.match(line)
            if opened:
                blocks.append(_Block(_LABEL.match(opened["info"])[1].lower(), above, []))  # type: ignore[index]
            elif line.strip():
                above = line.strip()[-_ANNOUNCEMENT_LEN:]
        elif _closes(line, opened):
            kept = _body(line, opened).rstrip().rstrip(opened["mark"][0])
            if kept.strip():
                blocks[-1].lines.append(kept + "\n")
            opened, above = None, ""
        else:
            blocks[-1].lines.append(_body(line, opened))
    return blocks


def _closes(line: str, opened: re.Match[str]) -> bool:
    """A fence of its own, or one at the end of a line of code."""
    text = line.strip(" \t\n>")
    is_fence = set(text) == {opened["mark"][0]} and len(text) >= len(opened["mark"])
    return is_fence or (
        text.endswith(opened["mark"]) and not text.startswith(opened["mark"]) and opened["mark"] == "```"
    )


def _body(line: str, opened: re.Match[str]) -> str:
    """A line without what its block is quoted by."""
    if ">" in opened["lead"]:
        return re.sub(r"^[ \t]*(?:>[ ]?)+", "", line)
    return line
