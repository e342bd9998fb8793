"""charts/images: what the Dockerfiles promise to the chart. Building them is the cluster tests' work."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.chart.harness.helm import CHART

ROOT = CHART.parents[1]
IMAGES = ROOT / "charts" / "images"
NAMES = ("light", "cpu", "gpu")


def _instructions(name: str) -> list[str]:
    text = (IMAGES / f"Dockerfile.{name}").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()


def _last_stage(name: str) -> list[str]:
    found = _instructions(name)
    return found[max(index for index, line in enumerate(found) if line.startswith("FROM ")) :]


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_requirements", IMAGES / "requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_image_runs_as_the_charts_user_by_number(name: str) -> None:
    user = re.search(r"^user: (\d+)$", (CHART / "values.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    assert user is not None
    assert [line for line in _last_stage(name) if line.startswith("USER")] == [f"USER {user[1]}:{user[1]}"]


@pytest.mark.parametrize("name", NAMES)
def test_image_starts_without_a_shell(name: str) -> None:
    starts = [line for line in _last_stage(name) if line.startswith(("ENTRYPOINT", "CMD"))]
    assert starts == ['ENTRYPOINT ["trivium"]', 'CMD ["--help"]']


@pytest.mark.parametrize("name", NAMES)
def test_image_is_built_in_stages_and_labelled(name: str) -> None:
    assert len([line for line in _instructions(name) if line.startswith("FROM ")]) > 1
    [labels] = [line for line in _last_stage(name) if line.startswith("LABEL ")]
    for label in ("title", "description", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert f'title="trivium-{name}"' in labels


@pytest.mark.parametrize("name", NAMES)
def test_image_holds_the_reference_pair_where_the_chart_looks_for_it(name: str) -> None:
    text = "\n".join(_instructions(name))
    assert "/code/reference" in text if name != "gpu" else "/opt/trivium/reference" in text
    assert (ROOT / "evaluation" / "reference" / "weights" / "slm").is_dir()


def test_gpu_image_starts_from_the_pinned_sglang() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [pin] = [item for item in pyproject["project"]["optional-dependencies"]["sglang"] if item.startswith("sglang==")]
    version = pin.removeprefix("sglang==")
    found = _instructions("gpu")
    assert f"ARG SGLANG_IMAGE=lmsysorg/sglang:v{version}" in found
    assert any(f'm.version("sglang") == "{version}"' in line for line in found)


def test_requirements_of_extras_follow_each_other(requirements: ModuleType) -> None:
    project = {
        "name": "trivium",
        "dependencies": ["grpcio"],
        "optional-dependencies": {"engines": ["torch"], "labeling": ["trivium[engines]", "pyarrow"], "other": ["x"]},
    }
    assert requirements.requirements(project, []) == ["grpcio"]
    assert requirements.requirements(project, ["labeling"]) == ["grpcio", "torch", "pyarrow"]
    with pytest.raises(KeyError, match="nothing"):
        requirements.requirements(project, ["nothing"])


@pytest.mark.parametrize("name", ["light", "cpu"])
def test_requirements_asked_for_are_extras_of_the_package(name: str, requirements: ModuleType) -> None:
    [line] = [line for line in _instructions(name) if "requirements.py" in line and line.startswith("RUN")]
    match = re.search(r"python3 requirements\.py([a-z ]*) >", line)
    assert match is not None
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = requirements.requirements(pyproject["project"], match[1].split())
    assert any(item.startswith("torch") for item in found) == (name != "light")


def test_light_image_holds_what_the_gateway_serves_http_with(requirements: ModuleType) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {re.split(r"[<>=\[]", item)[0] for item in requirements.requirements(pyproject["project"], [])}
    assert {"fastapi", "uvicorn", "httptools"} <= found


def test_build_context_holds_what_the_builds_copy() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).parts[0] for package in packages} <= kept
    assert {"pyproject.toml", pyproject["project"]["readme"], "charts/images/requirements.py"} <= kept
