from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from services.engines.base import EngineOptions
from services.engines.factory import EngineUnavailable, create_llm_engine, create_slm_engine

CREATE = pytest.mark.parametrize("create", [create_slm_engine, create_llm_engine])
Create = Callable[[str, EngineOptions], object]


@CREATE
def test_unknown_engine_names_those_that_exist(create: Create) -> None:
    with pytest.raises(ValueError, match="engine: 'vllm' is not one of transformers, sglang"):
        create("vllm", EngineOptions(model="m"))


@CREATE
def test_engine_without_its_package_names_the_extra(create: Create, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("services.engines.sglang")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'trivium\[sglang\]'"):
        create("sglang", EngineOptions(model="m"))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (EngineOptions(model="m", tp_size=2), "tp_size"),
        (EngineOptions(model="m", kv_cache_tokens=8), "kv_cache_tokens"),
        (EngineOptions(model="m", max_batch_size=0), "max_batch_size"),
        (EngineOptions(model="m", prefill_chunk_len=0), "prefill_chunk_len"),
    ],
)
def test_option_out_of_range_is_named(options: EngineOptions, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        create_slm_engine("transformers", options)
