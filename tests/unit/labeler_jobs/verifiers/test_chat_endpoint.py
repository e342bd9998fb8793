import logging
import time
from typing import Any

import pytest
from pydantic import ValidationError

from labeler_jobs.verifiers.chat_endpoint import (
    ChatEndpoint,
    EndpointSettings,
    endpoint_settings,
)
from labeler_jobs.verifiers.llm_verifier import LlmVerifier
from labeler_jobs.verifiers.names import VerifierChoiceError
from labeler_jobs.verifiers.verifier import Verdict, VerificationCase, VerifierUnreachable
from tests.ports import free_port
from tests.unit.labeler_jobs.verifiers.misbehaving_server import Reply, answered, serve

KEY = "sk-very-secret"


def endpoint(base_url: str, **changed: Any) -> ChatEndpoint:
    fields: dict[str, Any] = {
        "base_url": base_url, "model": "judge", "api_key": KEY, "timeout_s": 5, "max_attempts": 3,
        "first_delay_s": 0.02, "max_delay_s": 0.1, "concurrency": 4,
    }  # fmt: skip
    return ChatEndpoint(EndpointSettings(**fields | changed))


def test_generate_many_prompts_are_answered_in_order_within_the_concurrency() -> None:
    with serve(lambda number, prompt: Reply(delay_s=0.02, body=answered(f"re {prompt}").body)) as server:
        prompts = [f"p{number}" for number in range(20)]
        assert endpoint(server.base_url).generate(prompts) == [f"re {prompt}" for prompt in prompts]
    assert 1 < server.max_open <= 4
    assert set(server.paths) == {"/v1/chat/completions"}
    assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert {payload["model"] for payload in server.payloads} == {"judge"}
    assert {payload["temperature"] for payload in server.payloads} == {0}


def test_generate_without_a_key_sends_no_authorization() -> None:
    with serve(lambda number, prompt: answered("yes")) as server:
        endpoint(server.base_url, api_key=None).generate(["p"])
    assert "authorization" not in server.headers[0]


def test_generate_nothing_asks_nothing() -> None:
    assert endpoint(f"http://127.0.0.1:{free_port()}/v1").generate([]) == []


@pytest.mark.parametrize(
    "fault",
    [
        Reply(500, b"oops"),
        Reply(503),
        Reply(429, headers={"Retry-After": "0"}),
        Reply(hang_up=True),
        Reply(body=b"<html>not json</html>"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b"[1]"),
        Reply(body=b"\x1f\x8bgarbage", headers={"Content-Encoding": "gzip"}),
        Reply(delay_s=0.5),
        Reply(body=b"x" * 200, drip_s=0.05),
    ],
    ids=["500", "503", "429", "hangs up", "html", "no choice", "list", "bad gzip", "slow", "drips"],
)
def test_generate_fault_that_passes_is_survived(fault: Reply) -> None:
    with serve(lambda number, prompt: fault if number == 0 else answered("yes")) as server:
        assert endpoint(server.base_url, timeout_s=0.25).generate(["p"]) == ["yes"]
    assert len(server.payloads) == 2


def test_generate_server_that_keeps_failing_is_unreachable_without_its_key() -> None:
    reply = Reply(500, f"bad key {KEY}".encode())
    with serve(lambda number, prompt: reply) as server, pytest.raises(VerifierUnreachable) as error:
        endpoint(server.base_url).generate(["the prompt"])
    message = str(error.value)
    assert "in 3 attempts" in message
    assert "HTTP 500 bad key" in message
    assert KEY not in message
    assert "the prompt" not in message
    assert len(server.payloads) == 3


def test_generate_nobody_listens_is_unreachable_after_all_attempts() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(VerifierUnreachable, match=rf"{url}/.* gave no answer in 3 attempts.*ConnectError"):
        endpoint(url).generate(["p"])


def test_generate_server_that_starts_late_is_waited_for() -> None:
    with serve(lambda number, prompt: Reply(503) if number < 4 else answered("yes")) as server:
        assert endpoint(server.base_url, max_attempts=5).generate(["p"]) == ["yes"]


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_generate_refusal_is_not_repeated(status: int) -> None:
    reply = Reply(status, f"no such model, key {KEY}".encode())
    with serve(lambda number, prompt: reply) as server, pytest.raises(VerifierUnreachable) as error:
        endpoint(server.base_url).generate(["p"])
    assert f"refused the request: HTTP {status} no such model" in str(error.value)
    assert len(server.payloads) == 1
    assert KEY not in str(error.value)


def test_generate_one_failure_cancels_the_rest() -> None:
    with serve(lambda number, prompt: Reply(400) if prompt == "p0" else Reply(delay_s=0.2, status=500)) as server:
        started = time.monotonic()
        with pytest.raises(VerifierUnreachable):
            endpoint(server.base_url, max_attempts=50).generate([f"p{number}" for number in range(40)])
        assert time.monotonic() - started < 5


def test_generate_retry_after_is_waited_for_up_to_the_longest_delay() -> None:
    limited = Reply(429, headers={"Retry-After": "3600"})
    with serve(lambda number, prompt: limited if number == 0 else answered("yes")) as server:
        started = time.monotonic()
        endpoint(server.base_url, first_delay_s=0, max_delay_s=0.3).generate(["p"])
        assert 0.3 <= time.monotonic() - started < 3


def test_generate_null_content_is_an_empty_answer() -> None:
    with serve(lambda number, prompt: answered(None)) as server:
        assert endpoint(server.base_url).generate(["p"]) == [""]


def test_generate_key_and_prompts_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serve(lambda number, prompt: Reply(500, KEY.encode()) if number == 0 else answered("yes")) as server:
        settings = EndpointSettings(base_url=server.base_url, model="m", api_key=KEY, first_delay_s=0)  # type: ignore[arg-type]
        ChatEndpoint(settings).generate(["a private prompt"])
    assert "attempt 1 failed" in caplog.text
    assert KEY not in caplog.text + repr(settings)
    assert "private prompt" not in caplog.text


def test_judge_over_http_gives_verdicts_in_order() -> None:
    def reply(number: int, prompt: str) -> Reply:
        said = prompt.rpartition("<version_b>")[2].partition("</version_b>")[0]
        return answered("hm" if "maybe" in said else f'{{"divergent": {str("HERE]]15" in said).lower()}}}')

    cases = [VerificationCase("", "It is 12.", slm, "") for slm in ("It is 15.", "It is twelve.", "maybe.")]
    with serve(reply) as server:
        verifier = LlmVerifier(endpoint(server.base_url))
        assert verifier.judge(cases) == [Verdict(True), Verdict(False), Verdict(True, unparsable=True)]
    assert verifier.num_unparsable == 1


@pytest.mark.parametrize(
    "changed",
    [{"base_url": "ftp://host"}, {"base_url": "nothing"}, {"model": ""}, {"concurrency": 0}, {"modle": "m"}],
)
def test_settings_wrong_field_is_named(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(changed))):
        endpoint(**{"base_url": "http://127.0.0.1:1/v1"} | changed)


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIVIUM_VERIFIER_API_KEY", KEY)
    settings = EndpointSettings(base_url="http://127.0.0.1:1/v1", model="m")  # type: ignore[arg-type]
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == KEY


@pytest.mark.parametrize("reply", [answered("yes"), answered(None), Reply(429), Reply(503)])
def test_check_server_that_answers_or_is_busy_is_there(reply: Reply) -> None:
    with serve(lambda number, prompt: reply) as server:
        endpoint(server.base_url).check()
    assert len(server.payloads) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401, b"who?"), "refused the request: HTTP 401 who?"),
        (Reply(404, b"no such model"), "refused the request: HTTP 404 no such model"),
        (Reply(body=b"<html>"), "can't be reached: the response is no chat completion"),
        (Reply(hang_up=True), "can't be reached: RemoteProtocolError"),
        (Reply(delay_s=1.0), r"can't be reached: .*(Timeout|no answer)"),
    ],
    ids=["key", "model", "html", "hangs up", "slow"],
)
def test_check_wrong_endpoint_is_found_at_once_and_in_one_line(reply: Reply, message: str) -> None:
    with serve(lambda number, prompt: reply) as server, pytest.raises(VerifierUnreachable, match=message) as error:
        endpoint(server.base_url, timeout_s=0.25).check()
    assert len(server.payloads) == 1
    assert "\n" not in str(error.value)


def test_check_nobody_listens_is_found_at_once() -> None:
    with pytest.raises(VerifierUnreachable, match="can't be reached: ConnectError"):
        endpoint(f"http://127.0.0.1:{free_port()}/v1", max_attempts=50).check()


@pytest.mark.parametrize(
    ("url", "environment", "told"),
    [
        ("http://x/v1", {}, "TRIVIUM_VERIFIER_MODEL: Field required"),
        ("http://x/v1", {"MODEL": ""}, "TRIVIUM_VERIFIER_MODEL: String should have at least 1 character"),
        ("http://", {"MODEL": "m"}, "--verifier: Input should be a valid URL, empty host"),
        ("http://x/v1", {"MODEL": "m", "CONCURRENCY": "0"}, "TRIVIUM_VERIFIER_CONCURRENCY: Input should be greater"),
        ("http://x/v1", {"MODEL": "m", "API_KEY": "sk-\u00fc"}, "TRIVIUM_VERIFIER_API_KEY: .* no key has"),
        ("http://x/v1", {"CONCURRENCY": "x"}, "TRIVIUM_VERIFIER_MODEL: Field required; TRIVIUM_VERIFIER_CONCURR"),
    ],
)
def test_endpoint_settings_missing_or_wrong_are_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], told: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"TRIVIUM_VERIFIER_{name}", value)
    with pytest.raises(VerifierChoiceError, match=told) as error:
        endpoint_settings(url)
    assert "\n" not in str(error.value)
    assert "sk-" not in str(error.value)


def test_endpoint_key_from_a_file_may_end_with_a_line_break() -> None:
    with serve(lambda number, prompt: answered("yes")) as server:
        endpoint(server.base_url, api_key=f"{KEY}\n").check()
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
