from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from services.cli.doctor import kube_doctor
from services.cli.doctor.kube_survey import Survey

LABELS = {"app.kubernetes.io/component": "llm"}


def _release(num_ready: int) -> Survey:
    workload = {
        "metadata": {"name": "trivium-llm", "labels": LABELS},
        "spec": {"replicas": 1, "template": {"spec": {"containers": [{"image": "reg/trivium-cpu:9"}]}}},
        "status": {"readyReplicas": num_ready},
    }
    waiting = {"reason": "ErrImagePull"}
    pod: dict[str, Any] = {
        "metadata": {"name": "trivium-llm-1", "labels": LABELS},
        "spec": {"containers": [{}]},
        "status": {
            "conditions": [{"type": "Ready", "status": str(bool(num_ready))}],
            "containerStatuses": [{"restartCount": 2, "image": "i", "state": {"waiting": waiting}}],
        },
    }
    return Survey("ml", "trivium", workloads=[workload], pods=[pod])


def _run(monkeypatch: pytest.MonkeyPatch, seen: Survey, *, as_json: bool = False) -> int:
    monkeypatch.setattr(kube_doctor, "survey", lambda *asked: seen)
    try:
        kube_doctor.run_kube_doctor(namespace="ml", release="trivium", context=None, as_json=as_json)
    except typer.Exit as ended:
        return ended.exit_code
    return 0


def test_doctor_of_a_whole_release_shows_it_and_exits_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, _release(1)) == 0
    written = capsys.readouterr().out
    assert "1 of 1" in written
    assert "every pod is ready" in written


def test_doctor_of_a_broken_release_exits_1_and_tells_the_same_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, _release(0)) == 1
    assert "can't be pulled" in capsys.readouterr().out
    assert _run(monkeypatch, _release(0), as_json=True) == 1
    told = json.loads(capsys.readouterr().out)
    [component] = told["components"]
    assert component == {"component": "llm", "ready": 0, "wanted": 1, "restarts": 2, "image": "reg/trivium-cpu:9"}
    [problem] = told["problems"]
    assert problem.startswith("llm: the image i can't be pulled")
