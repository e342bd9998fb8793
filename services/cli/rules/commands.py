"""`trivium rules`.

Owns the command line alone; what runs is imported when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from services.cli import options as opt

rules_app = typer.Typer(
    name="rules",
    help="Tells which routing rules are installed, and holds them to what every rule must keep. A package adds one "
    "by an entry point of the group `trivium.rules`.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="An installed rule, as `trivium rules list` names it.")]
MaxExamples = Annotated[
    int, typer.Option("--max-examples", min=1, max=opt.MAX_COUNT, help="Most examples of each check.")
]


@rules_app.command("list")
def list_rules(as_json: opt.Json = False) -> None:
    """Tells what is installed: each rule's version, what its scores are computed from, and its parameters.

    Those that can't be used are named as well, with the reason. A request names a rule with `--rule`, or with `rule`
    over HTTP; a server's own is set with its --rule.

    Example:  trivium rules list
    """
    from services.cli.rules.list import run_list

    run_list(as_json=as_json)


@rules_app.command()
def check(name: Name, max_examples: MaxExamples = 200) -> None:
    """Holds a rule to what every rule must keep, on the same examples each time.

    A token may depend on the prefix and the draft alone. So scores are the same in any batch, verdicts the same
    whenever they are asked for, state is rebuilt from accepted tokens alone, and all tokens are those of the rule's
    own reference decoding, whatever is late, lost or repeated. What breaks that is refused with what it breaks and a
    small example, and the exit code 1. In a package's own tests: services.rule_suite.check_rule(rule).

    Example:  trivium rules check entropy
    """
    from services.cli.rules.check import run_check

    run_check(name, max_examples)


def add_commands(app: typer.Typer) -> None:
    """Adds this family's commands."""
    app.add_typer(rules_app)
