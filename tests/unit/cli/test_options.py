import math
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from services.cli.__main__ import app

GIVEN_TO_THE_SERVER = {"threshold", "target_llm_usage", "target_avg_params_b", "temperature"}
"""Numbers of any size that requests can carry; the orchestrator says what it takes."""


def numbers(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every option of a command and of those below it that is a number."""
    for option in command.params:
        if option.type_descriptor.annotation in (int, float):
            yield f"{path} {option.opts[0]}", option
    for name, inner in getattr(command, "commands", {}).items():
        yield from numbers(inner, f"{path} {name}".strip())


NUMBERS = dict(numbers(typer.main.get_command(app)))


def test_numbers_are_found_in_all_families() -> None:
    assert {name.split()[0] for name in NUMBERS} >= {"generate", "chat", "up", "label", "train", "evaluate", "fit"}
    assert len(NUMBERS) > 50


@pytest.mark.parametrize("option", NUMBERS.values(), ids=NUMBERS.keys())
def test_number_has_a_least_and_a_most_that_everything_behind_it_can_carry(option: Any) -> None:
    if option.name in GIVEN_TO_THE_SERVER:
        return
    assert option.min is not None
    assert option.max is not None
    assert math.isfinite(option.max)
    assert option.max < 2**64
