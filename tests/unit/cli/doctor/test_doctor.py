import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import typer
from trivium.v1 import (
    common_pb2,
    llm_pb2_grpc,
    orchestrator_pb2,
    orchestrator_pb2_grpc,
    router_pb2_grpc,
    slm_pb2_grpc,
)

from services.cli.doctor.doctor import run_doctor
from services.cli.pair.state import LocalProcess, RunningPair, save_state
from tests.unit.cli.fakes import (
    LLM,
    ROUTER,
    SLM,
    FakeLlm,
    FakeOrchestrator,
    FakeRouter,
    FakeSlm,
    serving,
    serving_orchestrator,
)


def register_slm(server: grpc.Server) -> None:
    slm_pb2_grpc.add_SlmServiceServicer_to_server(FakeSlm(SLM), server)


def register_llm(server: grpc.Server) -> None:
    llm_pb2_grpc.add_LlmServiceServicer_to_server(FakeLlm(LLM), server)


def register_router(server: grpc.Server) -> None:
    router_pb2_grpc.add_RouterServiceServicer_to_server(FakeRouter(ROUTER), server)


def register_orchestrator(server: grpc.Server) -> None:
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(FakeOrchestrator(), server)


@pytest.fixture
def addresses() -> Iterator[dict[str, str]]:
    registers = {
        "slm": register_slm,
        "router": register_router,
        "llm": register_llm,
        "orchestrator": register_orchestrator,
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(register)) for name, register in registers.items()}


def problems(given: dict[str, str], state_dir: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Runs the doctor; checks that the exit code says the same as the report."""
    code = 0
    try:
        run_doctor(given, state_dir=state_dir, as_json=True)
    except typer.Exit as ending:
        code = ending.exit_code
    found: list[str] = json.loads(capsys.readouterr().out)["problems"]
    assert code == (1 if found else 0)
    return found


def test_doctor_whole_pair_is_healthy(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert problems(addresses, tmp_path, capsys) == []


def test_doctor_table_tells_what_is_served(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_doctor(addresses, state_dir=tmp_path, as_json=False)
    printed = capsys.readouterr().out
    assert "slm (98K" in printed
    assert "everything fits" in printed


def test_doctor_service_down_is_named_with_address_and_remedy(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [problem] = problems({**addresses, "llm": "127.0.0.1:1"}, tmp_path, capsys)
    assert problem.startswith("llm at 127.0.0.1:1 doesn't answer (UNAVAILABLE")
    assert "trivium up" in problem


def test_doctor_unhealthy_service_is_named(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(register_slm, healthy=False) as address:
        [problem] = problems({**addresses, "slm": address}, tmp_path, capsys)
    assert problem.startswith(f"slm at {address} answers, but isn't serving")


def test_doctor_port_of_another_service_is_named(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [problem] = problems({**addresses, "router": addresses["llm"]}, tmp_path, capsys)
    assert problem.startswith(f"router at {addresses['llm']} serves, but doesn't say what it is (UNIMPLEMENTED")


def test_doctor_redis_that_refuses_the_password_is_named(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeOrchestrator(load=orchestrator_pb2.OrchestratorLoad(prefix_index_problem="wrong password"))
    with serving_orchestrator(fake) as address:
        [problem] = problems({**addresses, "orchestrator": address}, tmp_path, capsys)
    assert problem.startswith("the orchestrator's Redis: wrong password: answers go on")


def test_doctor_small_kv_budget_is_advice_and_no_problem(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeOrchestrator(load=orchestrator_pb2.OrchestratorLoad(max_active_requests=256))
    slm = FakeSlm(SLM, common_pb2.EngineLoad(num_kv_tokens_capacity=512))
    with (
        serving_orchestrator(fake) as orchestrator,
        serving(lambda server: slm_pb2_grpc.add_SlmServiceServicer_to_server(slm, server)) as small,
    ):
        given = {**addresses, "orchestrator": orchestrator, "slm": small}
        run_doctor(given, state_dir=tmp_path, as_json=True)
        report = json.loads(capsys.readouterr().out)
        run_doctor(given, state_dir=tmp_path, as_json=False)
    assert report["problems"] == []
    [advice] = report["advice"]
    assert advice.startswith("slm: 512 tokens of KV hold 2 sequences of 256 tokens; 256 may run")
    assert f"! {advice}" in capsys.readouterr().out


def test_doctor_router_of_another_slm_is_named(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = common_pb2.ModelInfo()
    other.CopyFrom(SLM)
    other.hidden_size = 64
    with serving(lambda server: slm_pb2_grpc.add_SlmServiceServicer_to_server(FakeSlm(other), server)) as address:
        found = problems({**addresses, "slm": address}, tmp_path, capsys)
    assert any("hidden_size 48 against 64" in problem for problem in found)


def test_doctor_finds_the_pair_that_runs_here(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = LocalProcess.of(os.getpid())
    save_state(tmp_path, RunningPair(pair="reference", owner=owner, addresses=addresses, ready=True))
    assert problems({}, tmp_path, capsys) == []


def test_doctor_service_that_does_not_listen_yet_is_named(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del addresses["router"]
    save_state(tmp_path, RunningPair(pair="reference", owner=LocalProcess.of(os.getpid()), addresses=addresses))
    [problem] = problems({}, tmp_path, capsys)
    assert problem.startswith("router: started, but doesn't listen yet")


def test_doctor_pair_without_a_router_is_healthy_and_has_no_row_of_one(
    addresses: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    services = ("slm", "llm", "orchestrator")
    others = {name: addresses[name] for name in ("slm", "llm")}
    with serving_orchestrator(FakeOrchestrator(router=None)) as orchestrator:
        state = RunningPair(
            pair="bare",
            owner=LocalProcess.of(os.getpid()),
            services=services,
            addresses={**others, "orchestrator": orchestrator},
        )
        save_state(tmp_path, state)
        run_doctor({}, state_dir=tmp_path, as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["problems"] == []
    assert sorted(item["service"] for item in report["services"]) == sorted(services)
