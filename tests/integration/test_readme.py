"""Holds that what the README tells a reader to type exists, parses and, where that is cheap, runs."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from trivium.v1 import llm_pb2, orchestrator_pb2, router_pb2, slm_pb2

from services.cli.__main__ import app
from services.cli.pair.checks import check_before_start
from services.cli.pair.launch import with_choices
from services.common.pair import load_pair
from services.gateway.openai.chat import ChatRequest, plan_chat
from services.gateway.openai.completions import CompletionRequest
from services.gateway.openai.plan import Limits

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRACTS = (slm_pb2, router_pb2, llm_pb2, orchestrator_pb2)


def commands() -> list[list[str]]:
    """Every command of the README's bash and console blocks, split as a shell does."""
    found = []
    for language, block in re.findall(r"^```(bash|console)\n(.*?)^```", README, re.MULTILINE | re.DOTALL):
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        found += [shlex.split(line, comments=True) for line in lines]
    return [command for command in found if command]


COMMANDS = commands()


def of(program: str) -> list[list[str]]:
    return [command[1:] for command in COMMANDS if command[0] == program]


def test_readme_leads_with_a_pair_and_two_clients_then_runs_the_demo_and_the_tests() -> None:
    assert [command[0] for command in COMMANDS[:3]] == ["trivium", "curl", "python"]
    assert COMMANDS[3:5] == [["make", "demo"], ["make", "test"]]


def test_readme_first_clients_send_what_can_be_answered() -> None:
    _, curl, python = COMMANDS[:3]
    plan_chat(json.loads(curl[curl.index("-d") + 1]), "request", Limits(16, 256, 1.0))
    compile(python[python.index("-c") + 1], "README.md", "exec")


def test_readme_fields_of_http_are_those_of_the_gateway() -> None:
    table = README[README.index("| field |") : README.index("`usage` also has")]
    named = set(re.findall(r"`([a-z_]+)`", table))
    left_out = {"model", "stream", "add_generation_prompt", "parallel_tool_calls"}
    assert set(ChatRequest.model_fields) | set(CompletionRequest.model_fields) <= named | left_out


def test_readme_programs_are_all_checked_here() -> None:
    assert {command[0] for command in COMMANDS} == {"make", "trivium", "grpcurl", "pip", "curl", "python"}


@pytest.mark.parametrize("arguments", of("make"), ids=" ".join)
def test_readme_make_verb_exists(arguments: list[str]) -> None:
    ended = subprocess.run(["make", "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("arguments", of("trivium"), ids=" ".join)
def test_readme_trivium_command_parses(arguments: list[str]) -> None:
    command, name, context = typer.main.get_command(app), "trivium", None
    while isinstance(command, typer.core.TyperGroup):
        context = command.make_context(name, list(arguments), parent=context)
        found, inner, arguments = command.resolve_command(context, arguments)
        assert found is not None
        assert inner is not None
        command, name = inner, found
    command.make_context(name, arguments, parent=context).close()


def test_readme_grpcurl_names_a_method_of_the_contracts() -> None:
    services = {
        f"{service.full_name}/{method.name}"
        for contract in CONTRACTS
        for service in contract.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    [arguments] = of("grpcurl")
    assert arguments[-1] in services


def test_readme_pip_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {extra for _, package in of("pip") for extra in re.findall(r"\[(.*)\]", package)}
    assert wanted
    assert wanted <= set(project["optional-dependencies"])


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`python -m ([\w.]+)", README))))
def test_readme_module_can_be_started(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert f"python -m {module}" in ended.stdout


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_readme_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("arguments", [found for found in of("trivium") if found[0] == "rules"], ids=" ".join)
def test_readme_command_about_rules_runs(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "services.cli", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "entropy" in ended.stdout + ended.stderr


def test_readme_pair_of_two_names_is_served_without_a_router(tmp_path: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    [block] = [text for text in blocks if "slm:" in text]
    path = tmp_path / "my-pair.yaml"
    path.write_text(block, encoding="utf-8")
    pair = with_choices(load_pair(path))
    check_before_start(pair, 0, None)
    assert pair.router is None


def test_readme_doctor_runs_and_names_what_is_down(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.cli", "doctor", "--state-dir", str(tmp_path), "--address", "127.0.0.1:1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "127.0.0.1:1 doesn't answer" in ended.stdout
