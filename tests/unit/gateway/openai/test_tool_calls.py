import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.openai.tool_calls import CLOSE, OPEN, ToolCall, ToolCallParser

CALL = f'{OPEN}\n{{"name": "add", "arguments": {{"a": 1}}}}\n{CLOSE}'
ADD = ToolCall("add", '{"a": 1}')
PIECES = st.sampled_from([CALL, OPEN, CLOSE, "<", "<tool", " ", "\n", "text", "}", "{", "é"])
UNTAGGED = st.text().filter(lambda text: CLOSE not in text)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


def parsed(text: str, cuts: list[int]) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser()
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    found = [parser.feed(text[start:end]) for start, end in itertools.pairwise(borders)]
    found.append(parser.finish())
    return "".join(each.text for each in found), [call for each in found for call in each.calls]


@given(TEXTS, st.lists(st.integers(0, 400), max_size=8))
def test_result_does_not_depend_on_how_the_text_is_cut(text: str, cuts: list[int]) -> None:
    assert parsed(text, cuts) == parsed(text, [])


@given(st.text().filter(lambda text: OPEN not in text), st.lists(st.integers(0, 200), max_size=4))
def test_text_without_a_call_stays_as_it_is(text: str, cuts: list[int]) -> None:
    assert parsed(text, cuts) == (text, [])


@given(
    UNTAGGED.filter(bool),
    st.dictionaries(UNTAGGED, st.integers() | UNTAGGED),
)
def test_call_that_was_written_out_is_read(name: str, arguments: dict[str, object]) -> None:
    written = json.dumps({"name": name, "arguments": arguments})
    _, [call] = parsed(f"{OPEN}{written}{CLOSE}", [])
    assert call.name == name
    assert json.loads(call.arguments) == arguments


@pytest.mark.parametrize(
    ("text", "said", "calls"),
    [
        (CALL, "", [ADD]),
        (f"I'll look.\n{CALL}\n", "I'll look.", [ADD]),
        (f"{CALL}\n{CALL}", "", [ADD, ADD]),
        (f"{OPEN}not json{CLOSE}", f"{OPEN}not json{CLOSE}", []),
        (f"{OPEN}{{}}{CLOSE} ", f"{OPEN}{{}}{CLOSE} ", []),
        (f'{OPEN}{{"name": "f"}}', "", [ToolCall("f", "{}")]),
        (f'{OPEN}{{"name": "f", "arguments": "{{\\"x\\": 2}}"}}{CLOSE}', "", [ToolCall("f", '{"x": 2}')]),
        (f'{OPEN}{{"name": "f", "arguments": [1]}}{CLOSE}', f'{OPEN}{{"name": "f", "arguments": [1]}}{CLOSE}', []),
        (f'{OPEN}{{"name": "\\ud800"}}{CLOSE}', f'{OPEN}{{"name": "\\ud800"}}{CLOSE}', []),
        (f'{OPEN}{{"name": "f", "argum', f'{OPEN}{{"name": "f", "argum', []),
        (f"{OPEN}{'[' * 100_000}{CLOSE}", f"{OPEN}{'[' * 100_000}{CLOSE}", []),
    ],
)
def test_form_of_a_call(text: str, said: str, calls: list[ToolCall]) -> None:
    assert parsed(text, list(range(0, min(len(text), 300), 2))) == (said, calls)
