import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.process_list import without_passwords

PASSWORD = st.text(st.sampled_from("abzAZ019-_.~!$&'()*+,;=:%"), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        ("redis://:secret@h:6379/0", "redis://:******@h:6379/0"),
        ("rediss://user:secret@h", "rediss://user:******@h"),
        ("unix://user:secret@/run/redis.sock?db=0", "unix://user:******@/run/redis.sock?db=0"),
        ("redis://h:6379/0?password=secret&db=1", "redis://h:6379/0?password=******&db=1"),
        ("--redis-url=redis://:secret@h", "--redis-url=redis://:******@h"),
        ("https://user:secret@verifier.example/v1", "https://user:******@verifier.example/v1"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("http://h:8000/a:b@c", "http://h:8000/a:b@c"),
        ("user:secret@h", "user:secret@h"),
        ("What is 1:2@3?", "What is 1:2@3?"),
    ],
)
def test_without_passwords_covers_the_password_alone(seen: str, left: str) -> None:
    assert without_passwords(seen.encode()).decode() == left


@given(PASSWORD, st.lists(st.text(st.characters(blacklist_characters="\0", codec="utf-8"), max_size=20), max_size=4))
def test_without_passwords_keeps_length_and_places_of_all_arguments(password: str, others: list[str]) -> None:
    seen = "\0".join([*others, f"redis://user:{password}@host:6379/0", ""]).encode()
    covered = without_passwords(seen)
    assert [len(argument) for argument in covered.split(b"\0")] == [len(argument) for argument in seen.split(b"\0")]
    assert covered.split(b"\0")[-2] == b"redis://user:" + b"*" * len(password) + b"@host:6379/0"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc here")
def test_hide_passwords_covers_it_for_other_processes_and_keeps_it_for_this_one() -> None:
    script = (
        "import sys; from services.cli.process_list import hide_passwords; hide_passwords(); "
        "print(sys.argv[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "redis://:secret@h"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "redis://:secret@h\n"
        assert Path(f"/proc/{process.pid}/cmdline").read_text().endswith("\0redis://:******@h\0")
        process.communicate()
