"""What `trivium rules check` does: runs the suite of rules, with a bar for each check."""

from __future__ import annotations

from rich.progress import TaskID

from services.cli.console import note
from services.cli.errors import CliError
from services.common.progress import progress_bar
from services.rule_suite import RuleBroken, check_rule
from services.rules.registry import Rules
from services.rules.rule import RuleError


def run_check(name: str, max_examples: int) -> None:
    """Holds an installed rule to what every rule must keep.

    Raises:
        CliError: It isn't installed, can't be used, or breaks something; the message names it.
    """
    try:
        rule = Rules.installed().named(name)
    except RuleError as error:
        raise CliError(str(error)) from error
    tasks: dict[str, TaskID] = {}
    try:
        with progress_bar() as bar:

            def on_example(check: str) -> None:
                if check not in tasks:
                    tasks[check] = bar.add_task(check, total=max_examples)
                # What is made smaller after a failure counts for nothing.
                elif not bar.tasks[tasks[check]].finished:
                    bar.advance(tasks[check])

            passed = check_rule(rule, max_examples=max_examples, on_example=on_example)
            for task in tasks.values():
                bar.update(task, completed=max_examples)
    except RuleBroken as error:
        raise CliError(" ".join(str(error).split())) from error
    note(f"rule {rule.name} {rule.version} keeps what every rule must: {', '.join(passed)}")
