import pytest

from services.cli.errors import CliError
from services.cli.pair.launch import backend_commands, gateway_command, orchestrator_command, with_choices
from services.common.pair import EngineSection, ModelSection, Pair, RouterSection

PAIR = Pair(
    name="mine",
    description="Two models.",
    slm=ModelSection(model="/models/slm"),
    llm=ModelSection(model="Qwen/Qwen3-8B", revision="main", engine=EngineSection(name="sglang", tp_size=2)),
    router=RouterSection(checkpoint="/models/router"),
)


def test_backend_commands_engine_fields_become_flags() -> None:
    commands = {command.name: command for command in backend_commands(PAIR)}
    llm = commands["llm"]
    assert llm.module == "services.llm"
    assert llm.arguments[:8] == [
        *("--model", "Qwen/Qwen3-8B"),
        *("--revision", "main"),
        *("--engine", "sglang"),
        *("--tp-size", "2"),
    ]
    assert "--engine" not in commands["slm"].arguments


def test_orchestrator_command_names_every_peer() -> None:
    addresses = {"slm": "h:1", "router": "h:2", "llm": "h:3"}
    arguments = orchestrator_command(PAIR, addresses, "redis://h:4/0").arguments
    flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert flags.items() >= {"--slm": "h:1", "--router": "h:2", "--llm": "h:3", "--tokenizer": "/models/slm"}.items()


def test_orchestrator_command_redis_password_stays_off_the_command_line() -> None:
    command = orchestrator_command(PAIR, {"slm": "h:1", "router": "h:2", "llm": "h:3"}, "redis://:secret@h:4/0")
    assert not any("secret" in argument for argument in command.arguments)
    assert command.secrets == {"TRIVIUM_ORCHESTRATOR_REDIS_URL": "redis://:secret@h:4/0"}


def test_with_choices_engine_replaces_both_models_engines() -> None:
    pair = with_choices(PAIR, engine="transformers")
    assert (pair.slm.engine.name, pair.llm.engine.name) == ("transformers", "transformers")
    assert pair.llm.engine.tp_size == 2


def test_with_choices_router_of_the_command_line_wins() -> None:
    assert with_choices(PAIR, router_checkpoint="/other").router.checkpoint == "/other"


def test_other_slm_is_allowed_to_router_and_orchestrator_where_a_person_insists() -> None:
    addresses = {"slm": "h:1", "router": "h:2", "llm": "h:3"}
    for pair, expected in ((PAIR, []), (with_choices(PAIR, allow_other_slm=True), ["router", "orchestrator"])):
        commands = [*backend_commands(pair), orchestrator_command(pair, addresses, "redis://h:4/0")]
        assert [command.name for command in commands if "--allow-other-slm" in command.arguments] == expected


def test_with_choices_no_router_tells_the_flag_and_where_one_is_published() -> None:
    bare = PAIR.model_copy(update={"router": RouterSection(published="https://example.org/router")})
    with pytest.raises(CliError, match=r"--router-checkpoint.*https://example\.org/router"):
        with_choices(bare)


def test_gateway_command_names_the_orchestrator_and_the_pair() -> None:
    arguments = gateway_command(PAIR, "h:1").arguments
    assert arguments[:4] == ["--orchestrator", "h:1", "--model-name", PAIR.name]
