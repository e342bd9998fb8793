"""Code queries: a short program of labelled lines, traced line by line, with a conditional now and then."""

import random

from evaluation.reference.corpus.arithmetic import Step, draw_num_steps, draw_start, draw_step
from evaluation.reference.corpus.phrasing import choose
from evaluation.reference.corpus.wording import assemble, double_check, state_result

VARIABLES = ("x", "y", "z", "n", "m", "k")
LABELS = ("A", "B", "C", "D", "E", "F")
SYMBOLS = {"plus": "+", "minus": "-", "times": "*"}
BOUNDS = (5, 10, 15, 20, 25, 30)
CONDITIONAL_SHARE = 0.25
EFFECTS = {
    "plus": ("adds {1} to {0}", "raises {0} by {1}"),
    "minus": ("takes {1} from {0}", "lowers {0} by {1}"),
    "times": ("doubles {0}", "makes {0} twice as large"),
}
QUESTIONS = ("What does this program print?", "Trace this program. What is printed?")


def draw_query(rng: random.Random) -> tuple[str, str, int]:
    """Draws one code query.

    Args:
        rng: Source of all randomness.

    Returns:
        Query text, a full response text, and the answer.
    """
    variable, value = rng.choice(VARIABLES), draw_start(rng)
    program = [f"line A: {variable} = {value}"]
    start = choose(
        rng, "code start", ("Line A sets {0} to {1}.", "Line A starts {0} at {1}."), variable, str(value % 3)
    )
    thoughts = [start.format(variable, value)]
    for label in LABELS[1 : draw_num_steps(rng) + 1]:
        step = draw_step(rng, value)
        assignment = f"{variable} = {variable} {SYMBOLS[step.operator]} {step.operand}"
        if rng.random() < CONDITIONAL_SHARE:
            bound = rng.choice(BOUNDS)
            program.append(f"line {label}: if {variable} > {bound}: {assignment}")
            thoughts.append(_trace_conditional(rng, step, label, variable, bound))
            value = step.after if value > bound else value
        else:
            program.append(f"line {label}: {assignment}")
            thoughts.append(_trace(rng, step, label, variable))
            value = step.after
    if value == step.after:
        thoughts += double_check(rng, step, label, variable)
    reply = choose(rng, "code reply", ("The program prints {0}.", "So it prints {0}."), variable, label).format(value)
    query = "\n".join([rng.choice(QUESTIONS), *program, f"print({variable})"])
    return query, assemble(thoughts, reply, value), value


def _trace(rng: random.Random, step: Step, label: str, variable: str) -> str:
    effect = choose(rng, "code effect", EFFECTS[step.operator], label, variable).format(variable, step.operand)
    return f"Line {label} {effect}, {state_result(rng, step, label, variable)}."


def _trace_conditional(rng: random.Random, step: Step, label: str, variable: str, bound: int) -> str:
    check = choose(rng, "code check", ("checks", "tests"), label, variable)
    condition = f"Line {label} {check} if {step.before} > {bound}, which is"
    if step.before > bound:
        return f"{condition} true, {state_result(rng, step, label, variable)}."
    outcome = choose(rng, "code skip", ("so {0} stays {1}.", "so {0} is still {1}."), variable, label)
    return f"{condition} false, {outcome.format(variable, step.before)}"
