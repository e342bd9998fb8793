from pathlib import Path

import pytest

from evaluation.reference.pair import WEIGHTS_DIR
from labeler_jobs.models.identity import IdentityError, identify_pair
from services.common.pair import ModelSection, Pair
from tests.unit.labeler_jobs.tiny import make_model, make_tokenizer
from tests.unit.router_service.made import identify_model


def pair_of(slm: Path | str, llm: Path | str) -> Pair:
    return Pair(name="made", description="made", slm=ModelSection(model=str(slm)), llm=ModelSection(model=str(llm)))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    make_model(seed=1).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_pair_of_folders_is_identified_by_its_weights() -> None:
    models = identify_pair(pair_of(WEIGHTS_DIR / "slm", WEIGHTS_DIR / "llm"))
    assert models.slm == identify_model(WEIGHTS_DIR / "slm", "trivium-made-slm")
    assert models.llm == identify_model(WEIGHTS_DIR / "llm", "trivium-made-llm")
    assert models.context_len == 1024


def test_models_of_different_vocabularies_are_refused(tiny: Path) -> None:
    with pytest.raises(IdentityError, match=r"pair made: tokenizer_sha256: the SLM's is .*, the LLM's is "):
        identify_pair(pair_of(WEIGHTS_DIR / "slm", tiny))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_folder_that_lacks_a_file_is_named(tiny: Path, file: str) -> None:
    (tiny / file).unlink()
    with pytest.raises(IdentityError, match=f"model '{tiny}'"):
        identify_pair(pair_of(tiny, tiny))
