"""What the chart's tests render with."""

from __future__ import annotations

import shutil

import pytest

from tests.unit.chart.harness.helm import Helm


@pytest.fixture(scope="session")
def helm(request: pytest.FixtureRequest) -> Helm:
    """Helm, from --helm or from PATH."""
    given: str | None = request.config.getoption("--helm")
    binary = given or shutil.which("helm")
    if binary is None:
        pytest.skip("helm isn't on PATH: the chart's templates are not tested (--helm names it)")
    return Helm(binary)
