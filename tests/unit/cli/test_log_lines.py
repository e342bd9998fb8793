import pytest

from services.cli.log_lines import last_serious

INFO = '{"level": "INFO", "message": "ready"}'
ERROR = '{"level": "ERROR", "message": "can\'t start:\\n no such model"}'


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        (INFO, ""),
        (f"{INFO}\n{ERROR}\n{INFO}\n", "can't start: no such model"),
        (f"{ERROR}\nTraceback:\n  line 1\nMemoryError\n", "MemoryError"),
        ('["a list"]', '["a list"]'),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=["empty", "no trouble", "an error", "a crash after it", "other JSON", "JSON without an end"],
)
def test_last_serious_is_the_last_line_that_tells_of_trouble(log: str, said: str) -> None:
    assert last_serious(log) == said
