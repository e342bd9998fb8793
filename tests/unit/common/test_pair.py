from pathlib import Path

import pytest

from services.common.pair import PairError, RouterSection, load_pair
from services.common.rule_spec import RuleSpec

GOOD = """
name: mine
description: Two models of mine.
slm: {model: ./slm}
llm: {model: Qwen/Qwen3-8B, revision: main, engine: {tp_size: 2}}
router: {checkpoint: ./router}
"""


@pytest.fixture
def write(tmp_path: Path) -> "WritePair":
    return WritePair(tmp_path)


class WritePair:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("slm", "router"):
            (directory / name).mkdir()

    def __call__(self, text: str) -> Path:
        path = self.directory / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path


def test_load_pair_relative_directory_is_taken_from_the_file(write: WritePair) -> None:
    pair = load_pair(write(GOOD))
    assert pair.slm.model == str(write.directory / "slm")
    assert pair.router == RouterSection(checkpoint=str(write.directory / "router"))


def test_load_pair_hugging_face_id_is_kept(write: WritePair) -> None:
    assert load_pair(write(GOOD)).llm.model == "Qwen/Qwen3-8B"


def test_load_pair_package_location_is_a_directory_of_the_package(write: WritePair) -> None:
    import services

    pair = load_pair(write(GOOD.replace("./slm", "package:services/cli/pairs")))
    assert pair.slm.model == str(Path(services.__file__).parent / "cli" / "pairs")


def test_load_pair_without_a_router_has_a_rule_and_sweeps_beside_the_file(write: WritePair) -> None:
    sweep = write.directory / "rules" / "entropy.json"
    sweep.parent.mkdir()
    sweep.touch()
    text = GOOD.replace("router: {checkpoint: ./router}", "rule: entropy:threshold=0.7")
    pair = load_pair(write(f"{text}rule_sweeps: [rules/entropy.json]\n"))
    assert pair.router is None
    assert pair.rule == RuleSpec("entropy", {"threshold": 0.7})
    assert pair.rule_sweeps == (str(sweep),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (GOOD.replace("description:", "desciption:"), "unknown key 'desciption': did you mean 'description'?"),
        (GOOD.replace("tp_size", "tp_sise"), "unknown key 'llm.engine.tp_sise': did you mean 'tp_size'?"),
        (GOOD.replace("{checkpoint: ./router}", "{chekpoint: ./router}"), "did you mean 'checkpoint'?"),
        (GOOD + "zzzzzz: 1\n", "unknown key 'zzzzzz': known keys: name, description, slm, llm, router, rule"),
        (GOOD + "rule: 'entropy:threshold'\n", "rule: expected NAME or NAME:PARAMETER=NUMBER,…, got 'entropy:thresh"),
        (GOOD + "rule: ''\n", "rule: expected NAME or NAME:PARAMETER=NUMBER,…, got ''"),
        (GOOD + "rule: {name: entropy}\n", "rule: expected NAME or NAME:PARAMETER=NUMBER,…, got {'name'"),
        (GOOD + "rule_sweeps: entropy.json\n", "rule_sweeps: Input should be a valid tuple, got 'entropy.json'"),
        (GOOD + "rule_sweeps: [rules/entropy.json]\n", "rule_sweeps: no file "),
        (GOOD + "rule_sweeps: ['package:nowhere/a.json']\n", "rule_sweeps: no package 'nowhere' is installed"),
        (GOOD.replace("tp_size: 2", "tp_size: 0"), "llm.engine.tp_size: Input should be greater than or equal to 1"),
        (GOOD.replace("slm: {model: ./slm}\n", ""), "slm: Field required"),
        (GOOD.replace("./slm", "./nowhere"), "slm.model: no directory"),
        (GOOD.replace("./slm", "package:nowhere/slm"), "slm.model: no package 'nowhere' is installed"),
        ("- a\n- b\n", "expected the keys name, description, slm, llm, router, rule, rule_sweeps, found list"),
        ("name: [", "not YAML"),
    ],
)
def test_load_pair_mistake_names_file_and_key(write: WritePair, wrong: str, message: str) -> None:
    path = write(wrong)
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_load_pair_two_mistakes_are_both_told(write: WritePair) -> None:
    path = write(GOOD.replace("tp_size", "tp_sise").replace("description:", "desciption:"))
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert "tp_sise" in str(caught.value)
    assert "desciption" in str(caught.value)


def test_load_pair_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"absent\.yaml: can't be read"):
        load_pair(tmp_path / "absent.yaml")
