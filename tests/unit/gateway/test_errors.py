import grpc
import pytest

from services.client import CallFailed
from services.gateway.errors import BY_CODE, ApiError, invalid, of_call

CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (CODE.INVALID_ARGUMENT, 400), (CODE.FAILED_PRECONDITION, 400), (CODE.OUT_OF_RANGE, 400),
        (CODE.UNAUTHENTICATED, 401), (CODE.PERMISSION_DENIED, 403), (CODE.NOT_FOUND, 404), (CODE.ABORTED, 409),
        (CODE.ALREADY_EXISTS, 409), (CODE.RESOURCE_EXHAUSTED, 429), (CODE.CANCELLED, 499), (CODE.INTERNAL, 500),
        (CODE.UNKNOWN, 500), (CODE.DATA_LOSS, 500), (CODE.UNIMPLEMENTED, 501), (CODE.UNAVAILABLE, 503),
        (CODE.DEADLINE_EXCEEDED, 504),
    ],
)  # fmt: skip
def test_code_has_its_status(code: grpc.StatusCode, status: int) -> None:
    error = of_call(CallFailed(code, "why"), "messages")
    assert error.kind.status == status
    assert error.message == ("internal error" if status == 500 else "why")
    assert set(error.body()["error"]) == {"message", "type", "param", "code"}  # type: ignore[call-overload]


def test_table_leaves_no_code_out() -> None:
    assert set(CODE) - set(BY_CODE) == {CODE.OK, CODE.UNKNOWN, CODE.INTERNAL, CODE.DATA_LOSS}


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("chat.messages[3].role: bad", "messages[3].role"),
        ("chat.messages[3].tool_calls_json: bad", "messages[3].tool_calls"),
        ("chat.messages: bad", "messages"),
        ("chat: bad", "messages"),
        ("chat.tools_json: bad", "tools"),
        ("chat.template_kwargs_json: bad", "chat_template_kwargs"),
        ("chat.continue_final_message: bad", "continue_final_message"),
        ("sampling.top_p: bad", "top_p"),
        ("stop[0]: bad", "stop[0]"),
        ("max_new_tokens: bad", "max_tokens"),
        ("text: bad", "prompt[2]"),
        ("token_ids: bad", "prompt[2]"),
        ("target_llm_usage: bad", "target_llm_usage"),
        ("resume_from: bad", "Last-Event-ID"),
    ],
)
def test_path_of_an_orchestrator_becomes_the_field_of_the_request(message: str, param: str) -> None:
    error = of_call(CallFailed(CODE.INVALID_ARGUMENT, message), "prompt[2]")
    assert (error.param, error.message) == (param, f"{param}: bad")


def test_message_without_a_path_names_no_field() -> None:
    assert of_call(CallFailed(CODE.INVALID_ARGUMENT, "Whatever: this is"), "prompt").param is None
    assert of_call(CallFailed(CODE.UNAVAILABLE, "slm: there is none"), "prompt").param is None


def test_context_that_is_too_short_has_its_code_and_both_numbers() -> None:
    text = "chat: a prompt of 2000 tokens leaves no room in the context of 1024"
    error = of_call(CallFailed(CODE.OUT_OF_RANGE, text), "messages")
    assert (error.kind.code, error.param) == ("context_length_exceeded", "messages")
    assert "2000" in error.message
    assert "1024" in error.message


def test_addresses_of_orchestrators_are_not_told() -> None:
    error = of_call(CallFailed(CODE.UNAVAILABLE, "nobody listens at 10.0.0.1:5", kind="Unreachable"), "prompt")
    assert "10.0.0.1" not in error.message


@pytest.mark.parametrize(("told", "header"), [(None, "1"), (0.2, "1"), (7.4, "7")])
def test_too_many_requests_tells_when_to_come_again(told: float | None, header: str) -> None:
    error = of_call(CallFailed(CODE.RESOURCE_EXHAUSTED, "full", retry_after_s=told), "prompt")
    assert error.response().headers["Retry-After"] == header


def test_refusal_of_a_field_has_no_pause() -> None:
    assert isinstance(invalid("n", "bad"), ApiError)
    assert "Retry-After" not in invalid("n", "bad").response().headers


def test_failure_that_callers_are_not_told_of_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    of_call(CallFailed(CODE.INTERNAL, "the answer has gaps"), "messages")
    assert [(record.levelname, "the answer has gaps" in record.getMessage()) for record in caplog.records] == [
        ("ERROR", True)
    ]
    of_call(CallFailed(CODE.UNAVAILABLE, "why"), "messages")
    assert len(caplog.records) == 1
