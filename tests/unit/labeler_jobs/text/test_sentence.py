import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeler_jobs.text.sentence import sentence_end, sentence_start

# The first sentence, then what follows it: the split between the two is what has to be found.
ENDS = {
    "plain prose": ("It is seven.", " Then"),
    "number before a capital": ("It is 7.", " Then"),
    "number before a symbol": ("It is 7.", " (Or not"),
    "question": ("Is it so?", " yes"),
    "exclamation": ("We did it!", " Next"),
    "mixed stops": ("Really?!", " No"),
    "stop before a newline": ("It is 7.", "\nThen"),
    "blank before a newline": ("It is 7.", "  \nthen"),
    "newline alone": ("a line\n", "next"),
    "leading newlines belong to what follows": ("\n\nfirst.", " second"),
    "decimal": ("Pi is 3.14 or so.", " Yes"),
    "decimal at the end": ("Pi is 3.14.", " Yes"),
    "decimal with a leading point": ("It is .5 of it.", " Yes"),
    "thousands": ("It costs 1,234.50 in all.", " Yes"),
    "version": ("We use v1.2.3 of it.", " Yes"),
    "e.g.": ("Take a prime, e.g. 7 or e.g. Q itself.", " Then"),
    "i.e.": ("It is even, i.e. Not odd at last.", " Then"),
    "title": ("Dr. Smith and Mrs. Jones agree.", " So"),
    "initials": ("J. R. Smith proved it.", " So"),
    "abbreviated country": ("The U.S. Army has it.", " So"),
    "month": ("It was Jan. 5 of that year.", " So"),
    "figure": ("Fig. 3 and Eq. (4) show it.", " So"),
    "numero": ("No. 5 wins.", " So"),
    "no as an answer": ("No.", " That is wrong"),
    "abbreviation that ends its sentence": ("We have apples, pears, etc.", " Then we"),
    "single letter that ends its sentence": ("It lies on A.", " Then we"),
    "lower-case variable at the end": ("So y equals x.", " Therefore we"),
    "ellipsis inside": ("Well... maybe it is.", " So"),
    "ellipsis before a capital that begins": ("Hmm...", " Then we"),
    "one-character ellipsis inside": ("Well\u2026 maybe it is.", " So"),
    "enumeration at a line's beginning": ("1. Compute the sum.", " Then"),
    "enumeration after a sentence": ("2. Add them up.", " 3. Stop"),
    "list number after a word that takes numbers": ("1. First line.", " 2. Second line. End here"),
    "list number after a step": ("1. Take the next step.", " 2. Then go"),
    "list number after a page": ("Turn the page.", " 3. Stop here"),
    "list number in brackets": ("(1) First item.", " (2) Second item."),
    "list number with a bracket": ("1) First part.", " 2) Second part."),
    "list number after a number": ("1. Add 5.", " 2. Subtract 3."),
    "list number in bold": ("**1.** First line.", " **2.** Second line."),
    "list number after an exclamation": ("2. Second line.", " Really! 3. Third"),
    "list number of a later line": ("\n2. Second line.", "\nEnd here"),
    "list number and nothing else in its line": ("1.", "\nFirst line"),
    "list letter": ("a. First case.", " b. Second case."),
    "Roman list number": ("i. First case.", " ii. Second case."),
    "list line without a stop": ("1. First line\n", "2. Second line"),
    "Chinese list number": ("1. \u7b2c\u4e00\u884c\u3002", "2. \u7b2c\u4e8c\u884c\u3002"),
    "bullet and bracket": ("- (a. Compute it.", " Then"),
    "bold enumeration": ("**1. Sum:** It is 5.", " Then"),
    "labelled step": ("Step 2. Divide by it.", " Then"),
    "quote": ('He said "go."', " Then"),
    "quote inside a sentence": ('"Stop!" she cried at last.', " Then"),
    "typographic quotes": ("\u201cIt is so.\u201d", " Then"),
    "brackets": ("(It is so.)", " Then"),
    "bold": ("**The answer is 5.**", " Then"),
    "inline LaTeX": ("$x = 5.$", " Then"),
    "LaTeX brackets": ("So \\(x = 5.\\)", " Then"),
    "factorial inside": ("Since 5! is 120, n! grows.", " So"),
    "factorial at the end": ("It is 5!", " So"),
    "ternary operator": ("x = a ? b : c;\n", "y = 1"),
    "negation operator": ("if (! ready) wait();\n", "y = 1"),
    "attribute access": ("x = foo.bar(y.z)\n", "y = 1"),
    "float literal": ("x = 1. + 2\n", "y = 1"),
    "file name": ("Look into main.py.", " Then"),
    "code comment": ("x = 1  # e.g. One\n", "y = 1"),
    "import line": ("import os\n", "import sys"),
    "Chinese": ("\u8fd9\u662f\u4e66\u3002", "\u7136\u540e"),
    "Chinese question": ("\u662f\u5417\uff1f", "\u662f"),
    "Chinese with an ASCII mark": ("\u771f\u7684?", "\u597d"),
    "Chinese decimal": ("\u5706\u5468\u7387\u662f3.14\u3002", "\u6240\u4ee5"),
    "Chinese quote": ("\u4ed6\u8bf4\u300c\u884c\u3002\u300d", "\u7136\u540e"),
    "Chinese ellipsis inside": ("\u7b49\u7b49\u2026\u2026\u6211\u4eec\u7b97\u3002", "\u597d"),
    "Japanese": ("\u3053\u308c\u306f\u672c\u3002", "\u6b21"),
    "Chinese enumeration": ("A. \u6211\u4eec\u7b97\u3002", "\u597d"),
}

OPEN = {
    "nothing": "",
    "words": "still going",
    "blank": "   \n ",
    "stop at the very end": "maybe 3.",
    "quote at the very end": 'He said "go."',
    "number before an unknown word": "It is 7. ",
    "number before a lower-case word": "It is 7. then",
    "abbreviation at the very end": "take e.g.",
    "abbreviation before an unknown word": "pears, etc. ",
    "abbreviation before an unfinished word": "pears, etc. The",
    "initial before an unfinished word": "on A. Th",
    "quote before an unknown word": '"Stop!" ',
    "ellipsis at the very end": "well...",
    "factorial": "5! + 3! is",
    "decimal": "x = 1.5",
    "enumeration": "1. Compute",
    "Chinese stop at the very end": "\u8fd9\u662f\u4e66\u3002",
}

LONG_TEXT = st.lists(
    st.sampled_from(
        ["word", "The", "Then", "Name", "x", "A", "e.g", "etc", "No", "Step", "7", "3.14", ".", "...", "!", "?", '"',
         ")", "(", "*", "$", " ", "  ", "\n", ",", "\u3002", "\u4e66", "\u300d", "\u2026", "\u201d", "n"]
    ),
    max_size=25,
).map("".join)  # fmt: skip


@pytest.mark.parametrize(("sentence", "rest"), ENDS.values(), ids=ENDS.keys())
def test_sentence_end_finds_where_the_first_sentence_ends(sentence: str, rest: str) -> None:
    text = sentence + rest + " more"
    end = sentence_end(text)
    assert text[:end] == sentence


@pytest.mark.parametrize("text", OPEN.values(), ids=OPEN.keys())
def test_sentence_end_open_sentence_has_none(text: str) -> None:
    assert sentence_end(text) is None


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("1. First line. 2. Second line. End here", ["1. First line.", " 2. Second line.", " End here"]),
        ("1. First line.\n2. Second line.\nEnd here\n", ["1. First line.", "\n2. Second line.", "\nEnd here\n"]),
        ("1. Stop! 2. Is it? 3. So", ["1. Stop!", " 2. Is it?", " 3. So"]),
        ("1. \u884c\u3002 2. \u597d\u3002 3. \u7684", ["1. \u884c\u3002", " 2. \u597d\u3002", " 3. \u7684"]),
    ],
)
def test_sentence_end_list_numbers_end_nothing_by_themselves(text: str, sentences: list[str]) -> None:
    found, start = [], 0
    while (end := sentence_end(text, start)) is not None:
        found.append(text[start:end])
        start = end
    assert [*found, *([text[start:]] if text[start:] else [])] == sentences


def test_sentence_end_start_within_a_line_sees_what_stands_before_it() -> None:
    assert sentence_end("So it is 5. Then", len("So it is ")) == len("So it is 5.")
    assert sentence_end("Now.\n5. Then go", len("Now.\n")) is None


@settings(deadline=None, max_examples=400)
@given(LONG_TEXT, st.data())
def test_sentence_end_once_told_stays_whatever_follows(text: str, data: st.DataObject) -> None:
    shown = data.draw(st.integers(0, len(text)))
    start = data.draw(st.integers(0, shown))
    end = sentence_end(text[:shown], start)
    if end is not None:
        assert sentence_end(text, start) == end


@settings(deadline=None, max_examples=200)
@given(LONG_TEXT)
def test_sentence_end_sentences_follow_each_other_and_hold_something(text: str) -> None:
    start = 0
    while (end := sentence_end(text, start)) is not None:
        assert start < end <= len(text)
        assert text[start:end].strip()
        assert "\n" not in text[start:end].strip()
        start = end


def test_sentence_start_just_after_a_stop_is_the_next_sentence() -> None:
    text = "One is 1. Two is 2. Three"
    assert sentence_start(text, 9) == 9
    assert sentence_start(text, 8) == 0
    assert sentence_start(text, 15) == 9


@settings(deadline=None, max_examples=400)
@given(LONG_TEXT, st.data())
def test_sentence_start_equals_reading_from_the_beginning(text: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(text)))
    start = 0
    while (end := sentence_end(text, start)) is not None and end <= position:
        start = end
    assert sentence_start(text, position) == start
