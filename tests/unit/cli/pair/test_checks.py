import importlib.util
import json
import socket
from pathlib import Path

import pytest

from router_service.checkpoint_files import CHECKPOINT_FILES, DESCRIPTION_FILE, WEIGHTS_FILE
from services.cli.errors import CliError
from services.cli.pair.checks import check_before_start, check_redis_url, check_state_dir
from services.cli.pairs import find_pair
from services.common.pair import EngineSection, RouterSection, load_pair
from services.common.rule_spec import RuleSpec

PAIR = load_pair(find_pair("reference"))


def test_check_shipped_pair_is_fine() -> None:
    check_before_start(PAIR, 0, "redis://:secret@127.0.0.1:6379/0")


def test_check_port_in_use_names_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=rf"can't listen on 127\.0\.0\.1:{port}: .*--port"):
            check_before_start(PAIR, port, None)


def test_check_http_port_in_use_or_given_twice_names_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=rf"can't listen on 127\.0\.0\.1:{port}: .*--http-port"):
            check_before_start(PAIR, 0, None, port)
    with pytest.raises(CliError, match=rf"--http-port: {port} is the orchestrator's"):
        check_before_start(PAIR, port, None, port)


def test_check_router_files_are_those_of_a_checkpoint() -> None:
    assert CHECKPOINT_FILES == (DESCRIPTION_FILE, WEIGHTS_FILE) == ("router.json", "router.safetensors")


@pytest.mark.parametrize(("is_there", "what"), [(False, "is no folder"), (True, r"holds no router\.json")])
def test_check_router_that_is_none_names_the_flag(is_there: bool, what: str, tmp_path: Path) -> None:
    folder = tmp_path / "router"
    if is_there:
        folder.mkdir()
    pair = PAIR.model_copy(update={"router": RouterSection(checkpoint=str(folder))})
    with pytest.raises(CliError, match=rf"--router-checkpoint: {folder} {what}"):
        check_before_start(pair, 0, None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (None, r"rule: router needs a router, and this pair has none; it can be served with entropy, "),
        ("router", r"rule: router needs a router, and this pair has none"),
        ("entrophy", r"rule: no rule 'entrophy' is installed; there are entropy, "),
        ("entropy:threshold=-1", r"rule\.parameters\.threshold: must be finite, at least 0, got -1"),
        ("entropy:threshold=nan", r"rule\.parameters\.threshold: must be finite"),
        ("entropy:treshold=1", r"rule\.parameters\.treshold: entropy has no such parameter; it has threshold"),
    ],
)
def test_check_rule_that_a_pair_without_a_router_can_not_have_is_named(rule: str | None, message: str) -> None:
    pair = PAIR.model_copy(update={"router": None, "rule": rule and RuleSpec.parse(rule)})
    with pytest.raises(CliError, match=f"^pair reference: {message}"):
        check_before_start(pair, 0, None)


def test_check_pair_without_a_router_is_fine_with_a_rule_that_asks_none() -> None:
    check_before_start(PAIR.model_copy(update={"router": None, "rule": RuleSpec("margin")}), 0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "router"}, r"rule_sweeps: \S+sweep\.json is of rule router, which takes none"),
        ({"rule": "entrophy"}, r"rule: no rule 'entrophy' is installed"),
        ({"version": "0"}, r"rule_sweeps: \S+sweep\.json is of version 0 of entropy, installed is 1"),
        ({"rows": []}, r"rule_sweeps: \S+sweep\.json: rows: "),
        ({}, r"rule_sweeps: \S+entropy\.json and \S+sweep\.json are both of rule entropy"),
    ],
)
def test_check_sweep_that_can_not_be_used_is_named(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    [entropy, _] = PAIR.rule_sweeps
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(json.loads(Path(entropy).read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(CliError, match=f"^pair reference: {message}"):
        check_before_start(PAIR.model_copy(update={"rule_sweeps": (entropy, str(path))}), 0, None)


def test_check_model_folder_without_a_model_names_pair_and_key(tmp_path: Path) -> None:
    pair = PAIR.model_copy(update={"llm": PAIR.llm.model_copy(update={"model": str(tmp_path)})})
    with pytest.raises(CliError, match=r"--pair: reference: llm\.model: .* holds no config\.json"):
        check_before_start(pair, 0, None)


def test_check_engine_that_is_not_installed_names_the_flag_and_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sglang" else name)
    slm = PAIR.slm.model_copy(update={"engine": EngineSection(name="sglang")})
    with pytest.raises(CliError, match=r"--engine: sglang \(slm\.engine\.name\) .*trivium\[sglang\]"):
        check_before_start(PAIR.model_copy(update={"slm": slm}), 0, None)


def test_check_state_dir_that_can_not_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CliError, match=r"--state-dir: .*/file/state can't be made"):
        check_state_dir(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    "url", ["redis://h:6379/0", "rediss://user:secret@h:1", "redis://h", "unix:///run/r.sock?db=1"]
)
def test_check_redis_url_that_is_one_passes(url: str) -> None:
    check_redis_url(url)


@pytest.mark.parametrize(
    "url", ["", "h:6379", "http://:secret@h:1", "redis://", "redis://:secret@h:port", "redis://[:secret@h", "unix://"]
)
def test_check_redis_url_that_is_none_names_the_flag_and_keeps_the_password(url: str) -> None:
    with pytest.raises(CliError, match="--redis-url: expected") as refused:
        check_redis_url(url)
    assert "secret" not in str(refused.value)
