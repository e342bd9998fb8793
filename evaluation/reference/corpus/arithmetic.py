"""The running value that every domain of the suite is built on: a start and a few steps, all within 0 to 39."""

import random
from dataclasses import dataclass
from typing import Literal

MAX_VALUE = 39
"""Largest number of the suite; every number up to it is a single token."""

Operator = Literal["plus", "minus", "times"]


@dataclass(frozen=True)
class Step:
    """One operation on the running value.

    Attributes:
        operator: What is done to the value.
        operand: By how much; 2 when the operator is "times".
        before: Value before the step.
        after: Value after it.
    """

    operator: Operator
    operand: int
    before: int
    after: int

    @property
    def equation(self) -> str:
        """The step's left-hand side in words and digits, such as "7 plus 4"."""
        return f"{self.before} {self.operator} {self.operand}"


def draw_start(rng: random.Random) -> int:
    """Draws the value that a query starts from, in [4, 24]."""
    return rng.randint(4, 24)


def draw_step(rng: random.Random, before: int) -> Step:
    """Draws a step whose result stays within [1, MAX_VALUE]."""
    while True:
        operator: Operator = rng.choices(("plus", "minus", "times"), weights=(5, 5, 2))[0]
        operand = 2 if operator == "times" else rng.randint(2, 9)
        after = {"plus": before + operand, "minus": before - operand, "times": before * operand}[operator]
        if 1 <= after <= MAX_VALUE:
            return Step(operator, operand, before, after)


def draw_num_steps(rng: random.Random) -> int:
    """Draws how many steps a query has: 3, 4 or 5."""
    return rng.randint(3, 5)
