from __future__ import annotations

from typing import Any

import pytest

from services.cli.doctor import kube_survey
from services.cli.doctor.kube_survey import survey
from tests.unit.labeler_jobs.jobs.api_server import NAMESPACE, api_server


def _named(name: str, release: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {kube_survey.INSTANCE: release}}, "status": {}}


def test_survey_has_what_belongs_to_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_survey._Reader, "storage_classes", lambda reader: None)
    with api_server() as server:
        monkeypatch.setattr(kube_survey, "connect", lambda context: (server.client(), NAMESPACE))
        for release in ("mine", "another"):
            for collection in ("deployments", "pods", "jobs"):
                server.put(collection, _named(f"{release}-{collection}", release))
        seen = survey(None, "mine", None)
    found = {"workloads": seen.workloads, "pods": seen.pods, "jobs": seen.jobs}
    assert {kind: [item["metadata"]["name"] for item in items] for kind, items in found.items()} == {
        "workloads": ["mine-deployments"],
        "pods": ["mine-pods"],
        "jobs": ["mine-jobs"],
    }
