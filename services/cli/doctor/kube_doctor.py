"""`trivium doctor --kube`: how a release on a cluster stands, and what is wrong with it.

Owns the report and its exit code. `kube_survey` reads, `kube_findings` concludes.
"""

from __future__ import annotations

import json

import typer
from rich.table import Table
from rich.text import Text

from services.cli.console import out
from services.cli.doctor.kube_findings import component_of, findings
from services.cli.doctor.kube_survey import Object, Survey, survey


def run_kube_doctor(*, namespace: str | None, release: str, context: str | None, as_json: bool) -> None:
    """Examines a release.

    Args:
        namespace: Where it is; None for the namespace of the context.
        release: Its name.
        context: A context of KUBECONFIG; None takes the current one.
        as_json: Print one JSON object.

    Raises:
        CliError: The cluster can't be asked.
        typer.Exit: With code 1 if something is wrong.
    """
    seen = survey(namespace, release, context)
    problems = findings(seen)
    if as_json:
        out.print_json(json.dumps(_as_dict(seen, problems)), indent=2)
    else:
        if seen.workloads:
            out.print(_table(seen))
        for problem in problems:
            out.print(Text(f"✗ {problem}", style="red"), soft_wrap=True)
        if not problems:
            out.print("[green]✓ every pod is ready[/]")
    if problems:
        raise typer.Exit(1)


def _table(seen: Survey) -> Table:
    table = Table(title=f"Release {seen.release} in {seen.namespace}", title_justify="left")
    for column in ("component", "ready", "restarts", "image"):
        table.add_column(column, overflow="fold")
    for row in _rows(seen):
        ready = f"{row['ready']} of {row['wanted']}"
        table.add_row(*(Text(str(cell)) for cell in (row["component"], ready, row["restarts"], row["image"])))
    return table


def _rows(seen: Survey) -> list[dict[str, object]]:
    return [
        {
            "component": component_of(workload),
            "ready": workload["status"].get("readyReplicas", 0),
            "wanted": workload["spec"].get("replicas", 1),
            "restarts": sum(_num_restarts(pod) for pod in seen.pods if component_of(pod) == component_of(workload)),
            "image": workload["spec"]["template"]["spec"]["containers"][0]["image"],
        }
        for workload in seen.workloads
    ]


def _num_restarts(pod: Object) -> int:
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


def _as_dict(seen: Survey, problems: list[str]) -> dict[str, object]:
    return {
        "namespace": seen.namespace,
        "release": seen.release,
        "components": _rows(seen),
        "problems": problems,
    }
