"""QA queries: a chain of facts given in the query, each comparing one person or thing with the one before."""

import random
from dataclasses import dataclass
from itertools import pairwise

from evaluation.reference.corpus.arithmetic import Step, draw_num_steps, draw_start, draw_step
from evaluation.reference.corpus.math_domain import PRONOUNS
from evaluation.reference.corpus.phrasing import choose
from evaluation.reference.corpus.wording import assemble, double_check, state_result


@dataclass(frozen=True)
class Topic:
    """The words of one measurable quantity.

    Attributes:
        subjects: Who or what has it.
        fact: States a subject {0} and its value {1}.
        comparisons: For each operator, the words that follow the compared subject; {0} is the operand.
        question: Asks for the value of the subject {0}.
    """

    subjects: tuple[str, ...]
    fact: str
    comparisons: dict[str, str]
    question: str


TOPICS = {
    "age": Topic(
        tuple(PRONOUNS),
        "{0} is {1} years old",
        {"plus": "is {0} years older", "minus": "is {0} years younger", "times": "is twice as old"},
        "How old is {0}?",
    ),
    "points": Topic(
        tuple(PRONOUNS),
        "{0} has {1} points",
        {"plus": "has {0} points more", "minus": "has {0} points fewer", "times": "has twice as many"},
        "How many points does {0} have?",
    ),
    "price": Topic(
        ("the lamp", "the chair", "the clock", "the vase", "the rug", "the bowl", "the mug", "the desk"),
        "{0} costs {1} dollars",
        {"plus": "costs {0} dollars more", "minus": "costs {0} dollars less", "times": "costs twice as much"},
        "How many dollars does {0} cost?",
    ),
}


def draw_query(rng: random.Random) -> tuple[str, str, int]:
    """Draws one QA query.

    Args:
        rng: Source of all randomness.

    Returns:
        Query text, a full response text, and the answer.
    """
    topic = TOPICS[rng.choice(list(TOPICS))]
    subjects = rng.sample(topic.subjects, draw_num_steps(rng) + 1)
    value = draw_start(rng)
    facts = [_capitalise(topic.fact.format(subjects[0], value))]
    opener = choose(rng, "qa start", ("", "The facts say that ", "To begin, "), subjects[0])
    thoughts = [_capitalise(opener + topic.fact.format(subjects[0], value)) + "."]
    for base, subject in pairwise(subjects):
        step = draw_step(rng, value)
        comparison = topic.comparisons[step.operator].format(step.operand)
        facts.append(f"Compared to {base}, {subject} {comparison}")
        thoughts.append(_reason(rng, step, base, subject, comparison))
        value = step.after
    thoughts += double_check(rng, step, subject)
    reply = choose(rng, "qa reply", ("So {0}.", "In the end, {0}."), subject)
    query = ". ".join(facts) + ". " + topic.question.format(subject)
    return query, assemble(thoughts, reply.format(topic.fact.format(subject, value)), value), value


def _reason(rng: random.Random, step: Step, base: str, subject: str, comparison: str) -> str:
    order = choose(rng, "qa order", ("Compared to {0}, {1} {2}", "Next to {0}, {1} {2}"), base)
    claim = order.format(base, subject, comparison)
    return f"{_capitalise(claim)}, {state_result(rng, step, subject)}."


def _capitalise(text: str) -> str:
    return text[0].upper() + text[1:]
