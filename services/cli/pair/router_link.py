"""The link by which a local router finds its checkpoint: led elsewhere, the router that runs serves another one.

Owns where the link is, and that it never leads nowhere.
"""

from __future__ import annotations

import os
from pathlib import Path

_NAME = "router"


def router_link(state_dir: Path) -> Path:
    """Where the link of a pair is that runs with this state folder."""
    return state_dir.resolve() / _NAME


def lead_to(link: Path, checkpoint: Path) -> None:
    """Leads the link to a checkpoint. If it was there, it leads to the old or the new one at every moment.

    Raises:
        OSError: It can't be written, or what is in its place isn't a link.
    """
    aside = link.with_name(f"{link.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(checkpoint.resolve())
    aside.replace(link)
