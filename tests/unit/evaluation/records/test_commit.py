import re

from evaluation.records.commit import code_commit


def test_code_commit_is_a_commit_or_nothing() -> None:
    assert re.fullmatch(r"([0-9a-f]{40}\+?)?", code_commit())
