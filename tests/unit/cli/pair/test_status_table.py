import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from trivium.v1 import orchestrator_pb2, slm_pb2

from services.cli.pair.probe import Probe
from services.cli.pair.redis_server import RedisServer
from services.cli.pair.status_table import serves, status_table
from services.cli.pair.supervisor import Supervised
from tests.unit.cli.fakes import LLM, SLM
from tests.unit.cli.pair.test_supervisor import FakeChild


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def orchestrator(**load: object) -> Probe:
    info = orchestrator_pb2.OrchestratorServiceGetServerInfoResponse()
    for name, value in load.items():
        setattr(info.load, name, value)
    return Probe("orchestrator", "127.0.0.1:9", "SERVING", 1.0, info)


def row(text: str, name: str) -> str:
    [found] = [line for line in text.splitlines() if f"│ {name} " in line]
    return " ".join(found.replace("│", " ").split())


def test_status_table_child_that_was_started_again_tells_how_often_and_why(tmp_path: Path) -> None:
    child = FakeChild(tmp_path / "slm.log")
    supervised = Supervised(child)
    supervised.start_if_due(0.0)
    child.die()
    supervised.has_ended(1.0)
    supervised.start_if_due(2.0)
    probes = [Probe("slm", "127.0.0.1:7", "SERVING", 1.0, slm_pb2.SlmServiceGetServerInfoResponse(model=SLM))]
    text = shown(status_table([supervised], probes, "the footer"))
    assert row(text, "slm").startswith("slm 1002 7 SERVING 1 slm")
    assert "slm: was killed by SIGKILL" in text
    assert "the footer" in text


def test_status_table_child_that_is_down_has_no_pid(tmp_path: Path) -> None:
    child = FakeChild(tmp_path / "slm.log")
    supervised = Supervised(child)
    supervised.start_if_due(0.0)
    child.die()
    supervised.has_ended(1.0)
    text = shown(status_table([supervised], [Probe("slm", "127.0.0.1:7", "UNREACHABLE")], ""))
    assert row(text, "slm") == "slm 7 UNREACHABLE"


def test_status_table_own_redis_has_a_row(tmp_path: Path) -> None:
    redis = Supervised(RedisServer(tmp_path, tmp_path / "redis.log"))
    assert row(shown(status_table([redis], [], "")), "redis") == "redis socket starting prefix index"


def test_serves_orchestrator_names_its_default_rule() -> None:
    info = orchestrator_pb2.OrchestratorServiceGetServerInfoResponse(slm=SLM, llm=LLM)
    info.rules.add(name="entropy", is_default=True)
    info.rules.add(name="margin")
    assert serves(info) == "slm + llm, by entropy"


def test_status_table_redis_of_others_is_as_the_orchestrator_sees_it() -> None:
    assert row(shown(status_table([], [], "")), "redis") == "redis starting prefix index (--redis-url)"
    found = orchestrator(prefix_index_available=True)
    assert row(shown(status_table([], [found], "")), "redis") == "redis SERVING prefix index (--redis-url)"
    found = orchestrator(prefix_index_problem="wrong password")
    text = shown(status_table([], [found], ""))
    assert row(text, "redis") == "redis UNREACHABLE prefix index (--redis-url)"
    assert "redis: wrong password: answers go on" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
@pytest.mark.parametrize("has_restarted", [False, True])
def test_status_table_narrow_screen_shows_each_service_and_its_health_in_one_line(
    width: int, has_restarted: bool, tmp_path: Path
) -> None:
    supervised = Supervised(FakeChild(tmp_path / "slm.log"))
    supervised.start_if_due(0.0)
    if has_restarted:
        assert isinstance(supervised.child, FakeChild)
        supervised.child.die()
        supervised.has_ended(1.0)
        supervised.start_if_due(2.0)
    probes = [Probe("slm", "127.0.0.1:45001", "NOT_SERVING", 1.0, slm_pb2.SlmServiceGetServerInfoResponse(model=SLM))]
    console = Console(file=io.StringIO(), width=width)
    console.print(status_table([supervised], probes, "the footer", width))
    assert isinstance(console.file, io.StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if "│" in line]
    assert [line.split("│")[1].strip() for line in lines] == ["redis", "slm"]
    assert "NOT_SERVING" in lines[1]
    assert "45001" in lines[1]
    assert max(map(len, lines)) <= width
    assert ("sequences" in lines[1]) is (width >= 80 + 20 * has_restarted)
