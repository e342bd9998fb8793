"""Which code runs, for whoever reads its results later."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def code_commit() -> str:
    """The git commit of this code, with "+" behind it where tracked files differ; empty outside of a checkout."""
    if not (_ROOT / ".git").exists() or shutil.which("git") is None:
        return ""
    head = _git("rev-parse", "HEAD")
    return f"{head}+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def _git(*arguments: str) -> str:
    ended = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else ""
