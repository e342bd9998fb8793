"""Math queries: somebody's running total over a few days."""

import random

from evaluation.reference.corpus.arithmetic import Step, draw_num_steps, draw_start, draw_step
from evaluation.reference.corpus.phrasing import choose
from evaluation.reference.corpus.wording import assemble, double_check, state_result

PRONOUNS = {
    "Mia": "she", "Leo": "he", "Zoe": "she", "Sam": "he", "Ann": "she", "Ben": "he",
    "Eva": "she", "Max": "he", "Ivy": "she", "Tom": "he", "Amy": "she", "Dan": "he",
}  # fmt: skip
OBJECTS = ("shells", "coins", "cards", "books", "apples", "stones", "pens", "stamps")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
QUERY_VERBS = {"plus": ("finds", "buys", "wins"), "minus": ("loses", "sells", "drops")}
RESPONSE_VERBS = {"plus": ("gets", "gains", "adds"), "minus": ("loses", "gives up", "is short")}
OPENERS = ("On {day},", "Then on {day},", "Next, on {day},")


def draw_query(rng: random.Random) -> tuple[str, str, int]:
    """Draws one math query.

    Args:
        rng: Source of all randomness.

    Returns:
        Query text, a full response text, and the answer.
    """
    name, thing = rng.choice(list(PRONOUNS)), rng.choice(OBJECTS)
    value = draw_start(rng)
    sentences = [rng.choice(("{0} has {1} {2}.", "{0} starts with {1} {2}.")).format(name, value, thing)]
    thoughts = [choose(rng, "math start", ("{0} starts with {1} {2}.", "At first, {0} has {1} {2}."), name, thing)
                .format(name, value, thing)]  # fmt: skip
    for day in DAYS[: draw_num_steps(rng)]:
        step = draw_step(rng, value)
        verb = "" if step.operator == "times" else rng.choice(QUERY_VERBS[step.operator])
        sentences.append(_ask(step, day, PRONOUNS[name], verb, thing))
        thoughts.append(_solve(rng, step, day, name, verb, thing))
        value = step.after
    thoughts += double_check(rng, step, name, thing)
    question = rng.choice(("How many {1} does {0} have now?", "How many {1} does {0} have in the end?"))
    reply = choose(rng, "math reply", ("{0} now has {1} {2}.", "In the end, {0} has {1} {2}."), thing, name)
    query = " ".join([*sentences, question.format(name, thing)])
    return query, assemble(thoughts, reply.format(name, value, thing), value), value


def _ask(step: Step, day: str, pronoun: str, verb: str, thing: str) -> str:
    if step.operator == "times":
        return f"On {day} the number of {thing} doubles."
    return f"On {day} {pronoun} {verb} {step.operand} {thing}."


def _solve(rng: random.Random, step: Step, day: str, name: str, verb: str, thing: str) -> str:
    opener = choose(rng, "math opener", OPENERS, day, thing, verb).format(day=day)
    result = state_result(rng, step, day, name)
    if step.operator == "times":
        event = choose(rng, "math double", ("the number doubles", "the count doubles"), day, thing)
    else:
        said = choose(rng, "math verb", RESPONSE_VERBS[step.operator], verb, thing)
        event = f"{PRONOUNS[name]} {said} {step.operand}"
    return f"{opener} {event}, {result}."
