from __future__ import annotations

import os

import pytest

from services.engines.base import EngineOptions

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from services.engines.sglang.server_args import make_environment, make_server_args


def test_cpu_chooses_the_plugged_in_attention_and_its_environment() -> None:
    options = EngineOptions(model="m", num_threads=3)
    assert make_server_args(options, 1024, has_features=True)["attention_backend"] == "trivium_cpu"
    environment = make_environment(options)
    assert environment["SGLANG_USE_CPU_ENGINE"] == "1"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in environment


def test_gpu_leaves_attention_and_scheduling_to_sglang() -> None:
    options = EngineOptions(model="m", device="cuda", dtype="bfloat16", tp_size=2, num_threads=0)
    arguments = make_server_args(options, 32768, has_features=False)
    assert arguments.keys().isdisjoint(
        {"attention_backend", "disable_cuda_graph", "disable_overlap_schedule", "return_hidden_states_mode"}
    )
    assert (arguments["tp_size"], arguments["dtype"], arguments["revision"]) == (2, "bfloat16", None)
    assert make_environment(options).keys().isdisjoint({"SGLANG_USE_CPU_ENGINE", "OMP_NUM_THREADS"})


@pytest.mark.parametrize(("tp_size", "expected"), [(2, "0,2|1,3"), (3, "0,3|1|2"), (6, "0|1|2|3|0|1")])
def test_ranks_on_a_cpu_get_cores_of_their_own_as_far_as_they_go(
    monkeypatch: pytest.MonkeyPatch, tp_size: int, expected: str
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    environment = make_environment(EngineOptions(model="m", tp_size=tp_size))
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"] == expected
