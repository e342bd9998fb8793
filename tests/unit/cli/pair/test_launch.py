from itertools import pairwise

import pytest

from services.cli.errors import CliError
from services.cli.pair.launch import backend_commands, gateway_command, orchestrator_command, with_choices
from services.common.pair import EngineSection, ModelSection, Pair, RouterSection
from services.common.rule_spec import RuleSpec

PAIR = Pair(
    name="mine",
    description="Two models.",
    slm=ModelSection(model="/models/slm"),
    llm=ModelSection(model="Qwen/Qwen3-8B", revision="main", engine=EngineSection(name="sglang", tp_size=2)),
    router=RouterSection(checkpoint="/models/router"),
)
ENTROPY = RuleSpec("entropy", {"threshold": 0.7})


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
    for pair in (PAIR, PAIR.model_copy(update={"router": None})):
        assert with_choices(pair, router_checkpoint="/other").router == RouterSection(checkpoint="/other")


def test_other_slm_is_allowed_to_router_and_orchestrator_where_a_person_insists() -> None:
    addresses = {"slm": "h:1", "router": "h:2", "llm": "h:3"}
    for pair, expected in ((PAIR, []), (with_choices(PAIR, allow_other_slm=True), ["router", "orchestrator"])):
        commands = [*backend_commands(pair), orchestrator_command(pair, addresses, "redis://h:4/0")]
        assert [command.name for command in commands if "--allow-other-slm" in command.arguments] == expected


def test_with_choices_no_router_tells_the_flag_and_where_one_is_published() -> None:
    bare = PAIR.model_copy(update={"router": RouterSection(published="https://example.org/router")})
    with pytest.raises(CliError, match=r"--router-checkpoint.*https://example\.org/router"):
        with_choices(bare)


@pytest.mark.parametrize("router", [None, RouterSection(published="https://example.org/router")])
def test_with_choices_pair_whose_rule_asks_no_router_is_served_without_one(router: RouterSection | None) -> None:
    bare = PAIR.model_copy(update={"router": router})
    for pair in (
        with_choices(bare, rule=ENTROPY),
        with_choices(bare.model_copy(update={"rule": ENTROPY}), allow_other_slm=True),
    ):
        assert pair.router is None
        assert [command.name for command in backend_commands(pair)] == ["slm", "llm"]
        arguments = orchestrator_command(pair, {"slm": "h:1", "llm": "h:3"}, "redis://h:4/0").arguments
        assert "--router" not in arguments
        assert "--allow-other-slm" not in arguments
        assert arguments[arguments.index("--rule") + 1] == "entropy:threshold=0.7"


def test_with_choices_router_that_is_there_stays_beside_a_rule_that_asks_none() -> None:
    pair = with_choices(PAIR, rule=ENTROPY)
    assert pair.router == PAIR.router
    assert pair.rule == ENTROPY


def test_with_choices_rule_of_the_command_line_wins() -> None:
    assert with_choices(PAIR.model_copy(update={"rule": RuleSpec("margin")}), rule=ENTROPY).rule == ENTROPY


def test_with_choices_neither_router_nor_rule_names_the_key() -> None:
    with pytest.raises(CliError, match=r"^pair mine: rule: it has no router, so it needs a rule .*--rule entropy$"):
        with_choices(PAIR.model_copy(update={"router": None}))


def test_with_choices_rule_that_is_not_installed_is_named_before_the_missing_router() -> None:
    bare = PAIR.model_copy(update={"router": RouterSection()})
    with pytest.raises(CliError, match=r"^pair mine: rule: no rule 'entrophy' is installed; there are entropy, "):
        with_choices(bare, rule=RuleSpec("entrophy"))


def test_orchestrator_command_sweeps_of_rules_are_passed_on() -> None:
    pair = PAIR.model_copy(update={"rule_sweeps": ("/a/entropy.json", "/a/margin.json")})
    arguments = orchestrator_command(pair, {"slm": "h:1", "router": "h:2", "llm": "h:3"}, "redis://h:4/0").arguments
    given = [value for flag, value in pairwise(arguments) if flag == "--rule-sweeps"]
    assert given == list(pair.rule_sweeps)
    assert "--rule" not in arguments


def test_gateway_command_names_the_orchestrator_and_the_pair() -> None:
    arguments = gateway_command(PAIR, "h:1").arguments
    assert arguments[:4] == ["--orchestrator", "h:1", "--model-name", PAIR.name]
