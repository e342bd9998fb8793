from __future__ import annotations

import pytest

pytest.importorskip("services.engines.sglang", exc_type=ModuleNotFoundError)
from fastapi import HTTPException

from services.common.errors import CapacityExceeded, InvalidRequest, TriviumError
from services.engines.sglang.troubles import Trouble, error_for, trouble_of_exception


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (ValueError("Input length exceeds the context"), Trouble.REFUSED),
        (HTTPException(503, "The encoder did not answer"), Trouble.PASSES),
        (HTTPException(400, "bad"), Trouble.REFUSED),
        (RuntimeError("CUDA error"), Trouble.FAULT),
        (KeyError("meta_info"), Trouble.FAULT),
    ],
)
def test_exceptions_of_sglang_mean(error: Exception, trouble: Trouble) -> None:
    assert trouble_of_exception(error) is trouble


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(Trouble.PASSES, CapacityExceeded), (Trouble.REFUSED, InvalidRequest), (Trouble.FAULT, TriviumError)],
)
def test_only_what_passes_becomes_an_error_that_callers_try_again(trouble: Trouble, kind: type[TriviumError]) -> None:
    error = error_for(trouble, "because")
    assert type(error) is kind
    assert str(error).endswith("because")
