"""Compares mathematical answers in a process of its own: `python -m evaluation.graders.math_worker`.

A line on stdin is a JSON object with `gold` and `answer`, LaTeX both, and `timeout_s`; the line on stdout that
follows it is a JSON object with `correct` and `read`, what the answer was understood as. Ends with its stdin, and
over an answer that takes longer than its time, whether or not its starter is still there.
"""

import json
import logging
import resource
import signal
import sys

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_MEMORY_BYTES = 2**31


def compare(gold: str, answer: str) -> dict[str, object]:
    """Parses both and compares them; an answer that can't be parsed is wrong."""
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    read = [parse(f"${text}$", configs, parsing_timeout=None) for text in (gold, answer)]
    # The starter holds the time; the library's own limit needs the main thread's signals.
    correct = bool(read[1]) and verify(*read, timeout_seconds=None)
    return {"correct": correct, "read": str(read[1][0]) if read[1] else None}


def main() -> None:
    """Answers until stdin ends."""
    # It says with every answer that no timeout is set.
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for line in sys.stdin:
        question = json.loads(line)
        # Without a handler this ends the process, whatever arithmetic it is in.
        signal.setitimer(signal.ITIMER_REAL, question["timeout_s"])
        try:
            answer = compare(question["gold"], question["answer"])
        except (MemoryError, RecursionError, ArithmeticError, ValueError, TypeError) as error:
            answer = {"correct": False, "read": None, "error": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
