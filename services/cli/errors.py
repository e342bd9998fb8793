"""What a command ends with when it can't do its work."""

from __future__ import annotations


class CliError(Exception):
    """Shown as one line, without a traceback; the command exits with code 1."""
