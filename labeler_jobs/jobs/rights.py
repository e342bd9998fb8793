"""What a submitter has to be allowed to do: the rules of the chart's Role, as the code needs them."""

from __future__ import annotations

from typing import NamedTuple


class Right(NamedTuple):
    """One verb on one resource of a namespace.

    Attributes:
        group: API group; empty for the core one.
        resource: Resource, with its subresource after a slash.
        verb: Verb.
    """

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        """As in "create jobs.batch"."""
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


KUEUE = "kueue.x-k8s.io"
# What says why no pod comes up: events, where nothing else does.
ALWAYS = (
    *(Right("batch", "jobs", verb) for verb in ("create", "list", "watch", "delete")),
    *(Right("", "pods", verb) for verb in ("list", "watch")),
    Right("", "pods/log", "get"),
    Right("", "podtemplates", "get"),
    Right("", "events", "list"),
)
WITH_QUEUE = (Right(KUEUE, "localqueues", "get"), Right(KUEUE, "workloads", "list"))
