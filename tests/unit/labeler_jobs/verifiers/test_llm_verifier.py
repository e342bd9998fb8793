import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from evaluation.reference.pair import WEIGHTS_DIR, load_tokenizer
from labeler_jobs.verifiers.llm_verifier import CONTEXT_CHARS, LlmVerifier, read_verdict, render_prompt
from labeler_jobs.verifiers.local_generator import LocalGenerator
from labeler_jobs.verifiers.verifier import Label, Verdict, VerificationCase, VerifierUnreachable
from services.common.errors import ContextLengthExceeded

UNPARSABLE = Verdict(divergent=True, unparsable=True)


@dataclass
class Scripted:
    answers: list[str]
    prompts: list[str] = field(default_factory=list)

    def generate(self, prompts: Sequence[str]) -> list[str]:
        self.prompts.extend(prompts)
        return self.answers


def case(llm: str, slm: str, context: str = "") -> VerificationCase:
    return VerificationCase(context, llm, slm, "")


@pytest.mark.parametrize(
    ("answer", "divergent"),
    [
        ('{"reason": "same step", "divergent": false}', False),
        ('{"divergent": true}', True),
        ('```json\n{"reason": "other result",\n "divergent": true}\n```', True),
        ('Sure! {"reason": "the set {1, 2} stays", "divergent": false} Anything else?', False),
        ('<think>Is it {"divergent": true}? No.</think>{"divergent": false}', False),
        ('{"divergent": true} Wait, no: {"divergent": false}', False),
        ('{broken {"divergent": false}', False),
    ],
)
def test_read_verdict_json_answer_is_read(answer: str, divergent: bool) -> None:
    assert read_verdict(answer) == Verdict(divergent)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "divergent",
        "{}",
        '{"divergent": "false"}',
        '{"divergent": 0}',
        '{"divergent": null}',
        '{"verdict": {"divergent": false}}',
        '{"reason": "cut off", "diver',
        '<think>I would say {"divergent": false} if',
        '{"a":' * 100_000,
        "[false]",
    ],
)
def test_read_verdict_answer_without_a_verdict_is_unparsable_and_divergent(answer: str) -> None:
    assert read_verdict(answer) == UNPARSABLE


def test_render_prompt_marks_where_the_sentences_part() -> None:
    prompt = render_prompt(case("So 3 plus 4 is 17.", "So 3 plus 4 is 12, then.", "It begins."))
    assert "So 3 plus 4 is [[HERE]]17." in prompt
    assert "So 3 plus 4 is [[HERE]]12, then." in prompt
    assert "<context>\nIt begins.\n</context>" in prompt


@pytest.mark.parametrize(
    ("llm", "slm", "expected"),
    [
        ("Add it.", "Adding it.", "[[HERE]]Adding it."),
        ("We stop.", "We stop. Then", "We stop.[[HERE]] Then"),
        ("one", "two", "[[HERE]]two"),
        (
            "\u7b54\u6848\u662f\u4e00\u3002",
            "\u7b54\u6848\u662f\u4e8c\u3002",
            "\u7b54\u6848\u662f[[HERE]]\u4e8c\u3002",
        ),
        ("", "x", "[[HERE]]x"),
    ],
)
def test_render_prompt_mark_cuts_no_word(llm: str, slm: str, expected: str) -> None:
    assert f"<version_b>\n{expected}\n</version_b>" in render_prompt(case(llm, slm))


def test_render_prompt_text_that_looks_like_a_placeholder_stays() -> None:
    prompt = render_prompt(case("Let $sentence_b be $$5.", "Let ${mark} be {x}.", "$context"))
    assert "Let $[[HERE]]sentence_b be $$5." in prompt
    assert "Let $[[HERE]]{mark} be {x}." in prompt
    assert "\n$context\n" in prompt


def test_render_prompt_long_context_keeps_its_end() -> None:
    prompt = render_prompt(case("a", "b", "0" * CONTEXT_CHARS + "the end"))
    assert "000the end\n" in prompt
    assert len(prompt) < len(render_prompt(case("a", "b"))) + CONTEXT_CHARS + 1


def test_judge_unparsable_answers_are_counted_and_divergent(caplog: pytest.LogCaptureFixture) -> None:
    generator = Scripted(['{"divergent": false}', "no idea", '{"divergent": true}'])
    verifier = LlmVerifier(generator)
    with caplog.at_level(logging.WARNING):
        verdicts = verifier.judge([case("a", "b"), case("secret", "c"), case("a", "d")])
    assert verdicts == [Verdict(False), UNPARSABLE, Verdict(True)]
    assert [verdict.label for verdict in verdicts] == [Label.NEUTRAL, Label.DIVERGENT, Label.DIVERGENT]
    assert (verifier.num_judged, verifier.num_unparsable) == (3, 1)
    assert "1 of 3" in caplog.text
    assert "secret" not in caplog.text


class Alike:
    """Answers every prompt alike, and counts them."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.num_asked = 0

    def generate(self, prompts: Sequence[str]) -> list[str]:
        self.num_asked += len(prompts)
        return [self.answer] * len(prompts)


@pytest.mark.parametrize("answer", ["I'd rather not.", "", "<think>endless", '{"divergent": "yes"}'])
def test_judge_stops_after_a_few_where_no_answer_can_be_read_and_shows_one(answer: str) -> None:
    generator = Alike(answer)
    with pytest.raises(VerifierUnreachable, match="none of the verifier's first 8 verdicts can be read") as error:
        LlmVerifier(generator).judge([case("a", str(number)) for number in range(256)])
    assert repr(answer) in str(error.value)
    assert generator.num_asked == 8


def test_judge_counts_unreadable_answers_over_batches() -> None:
    verifier = LlmVerifier(Alike("no"))
    for _ in range(7):
        assert verifier.judge([case("a", "b")]) == [UNPARSABLE]
    with pytest.raises(VerifierUnreachable, match="first 8 verdicts"):
        verifier.judge([case("a", "b")])


def test_judge_that_was_read_once_goes_on_whatever_comes() -> None:
    generator = Alike('{"divergent": false}')
    verifier = LlmVerifier(generator)
    verifier.judge([case("a", "b")])
    generator.answer = "no idea"
    assert verifier.judge([case("a", "b")] * 50) == [UNPARSABLE] * 50


def test_judge_generator_that_drops_an_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="1 answers to 2 prompts"):
        LlmVerifier(Scripted(['{"divergent": false}'])).judge([case("a", "b"), case("a", "c")])


@dataclass
class RecordingWriter:
    written: list[list[int]]
    prefixes: list[list[int]] = field(default_factory=list)

    def write(self, prefixes: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        self.prefixes = [list(prefix) for prefix in prefixes]
        return [token_ids[:max_new_tokens] for token_ids in self.written]


def test_local_generator_asks_in_the_chat_template_and_leaves_the_end_token_out() -> None:
    tokenizer = load_tokenizer(WEIGHTS_DIR / "llm")
    answer = [*tokenizer.encode("The answer is 5.", add_special_tokens=False), tokenizer.eos_token_id]
    writer = RecordingWriter([answer, answer])
    assert LocalGenerator(writer, tokenizer).generate(["how many", "what"]) == ["The answer is 5."] * 2
    asked = str(tokenizer.decode(writer.prefixes[1]))
    assert asked.startswith("<|im_start|>user\nwhat<|im_end|>")
    assert asked.rstrip().endswith("assistant")


class FullWriter:
    def write(self, prefixes: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        raise ContextLengthExceeded("prefixes: 10 tokens leave no room in a context of 10")


def test_local_generator_prompt_beyond_the_context_names_the_verifier() -> None:
    generator = LocalGenerator(FullWriter(), load_tokenizer(WEIGHTS_DIR / "slm"))
    with pytest.raises(VerifierUnreachable, match=r"verifier's model needs a longer context: .* 10 tokens"):
        generator.generate(["what"])
