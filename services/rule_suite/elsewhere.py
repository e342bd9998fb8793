"""A rule decides alike later, and in another process: replicas share neither memory, nor hash seed, nor start.

Owns the fixed sequences that are decided in both places, and the other process.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import subprocess
import sys

import numpy as np

from services.rule_suite.decisions import Decided, Step
from services.rule_suite.scores import rows_of
from services.rules.chosen import ChosenRule
from services.rules.rule import Evidence, Parameter, Rule

_NUM_SEQUENCES, _NUM_STEPS = 20, 20
_CANNOT_LOAD = 3
_PROGRAM = "from services.rule_suite.elsewhere import main; main()"


def transcript(rule: Rule) -> list[str]:
    """What a rule decides about some fixed sequences, a line each draft."""
    chosen = ChosenRule.of(rule, {name: _value(parameter) for name, parameter in rule.parameters.items()})
    lines: list[str] = []
    for seed in range(_NUM_SEQUENCES):
        rng = random.Random(seed)
        sequence = Decided(chosen.decider(), prompt_len=1 + seed)
        for _ in range(_NUM_STEPS):
            sequence.decide(Step(rng.randrange(100), _score(rule, rng), rng.randrange(100), has_llm=True))
        lines += [f"{draft} gets {verdict.name}" for draft, verdict, _ in sequence.seen]
    return lines


def transcript_elsewhere(rule: Rule) -> list[str] | None:
    """The transcript of another process; None where the rule can't be sent or imported there.

    Raises:
        RuntimeError: The rule raises there.
    """
    try:
        message = pickle.dumps(rule)
    # What pickle raises for an object that it can't write depends on the object.
    except Exception:  # noqa: BLE001
        return None
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1",
    }
    command = [sys.executable, "-c", _PROGRAM]
    ended = subprocess.run(command, input=message, env=environ, capture_output=True, check=False)
    if ended.returncode == _CANNOT_LOAD:
        return None
    if ended.returncode != 0:
        raise RuntimeError(f"in another process: {ended.stderr.decode(errors='replace').strip().splitlines()[-1:]}")
    lines: list[str] = json.loads(ended.stdout)
    return lines


def main() -> None:
    """Is the other process: reads a rule from stdin, and writes its transcript to stdout."""
    # What a rule prints is no part of it.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            rule: Rule = pickle.load(sys.stdin.buffer)
        # Its module may not be importable by name.
        except Exception:  # noqa: BLE001
            sys.exit(_CANNOT_LOAD)
        lines = transcript(rule)
    json.dump(lines, sys.stdout)


def _value(parameter: Parameter) -> float:
    if parameter.default is not None:
        return parameter.default
    return parameter.least if parameter.whole else min(parameter.least + 0.5, parameter.most)


def _score(rule: Rule, rng: random.Random) -> float:
    match rule.evidence:
        case Evidence.NONE:
            return 0.0
        case Evidence.ROUTER:
            return float(np.float32(rng.random()))
    return float(rule.scores(rows_of([rng.getrandbits(16)]))[0])
