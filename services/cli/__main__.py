"""The `trivium` command.

Owns which families of commands there are. A family is a folder: `commands.py` has its command lines, `options.py`
their options, and what a command does is `run_…` in a file named after the command. That file is imported when the
command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys

# Ctrl-C may come while all this is read.
try:
    from services.cli import ending
except KeyboardInterrupt:
    sys.exit(130)
with ending.interrupts_end_at_once():
    import typer

    from services.cli.ask import commands as ask
    from services.cli.doctor import commands as doctor
    from services.cli.errors import CliError
    from services.cli.evaluate import commands as evaluate
    from services.cli.keys import commands as keys
    from services.cli.label import commands as label
    from services.cli.pair import commands as pair
    from services.cli.process_list import hide_passwords
    from services.cli.rules import commands as rules
    from services.cli.train import commands as train

app = typer.Typer(
    name="trivium",
    help="Serves a small and a large language model as one: a router decides, token by token, who writes.",
    epilog="Services with TLS are reached with TRIVIUM_TLS_CA_FILE, TRIVIUM_TLS_SERVER_NAME, TRIVIUM_TLS_CERT_FILE "
    "and TRIVIUM_TLS_KEY_FILE; an orchestrator with keys, with TRIVIUM_API_KEY.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for family in (pair, ask, doctor, keys, label, train, evaluate, rules):
    family.add_commands(app)

EXTRAS = {
    "torch": "engines",
    **dict.fromkeys(
        ("pyarrow", "fsspec", "nltk", "httpx", "matplotlib", "math_verify", "datasets", "regex"), "learning"
    ),
    "kubernetes": "kubernetes",
    "hypothesis": "rules-testing",
}
"""The extra that brings a package, by the package's import name."""


def main() -> None:
    """Runs the command line of this process."""
    ending.leave(ending.exit_code(_run))


def _run() -> None:
    hide_passwords()
    ending.check_arguments(sys.argv[1:])
    try:
        app()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise CliError(f"this command needs {package!r}: pip install 'trivium[{EXTRAS[package]}]'") from error


if __name__ == "__main__":
    main()
