"""Files of every bad kind: what breaks or attacks a reader goes to the real child process, the rest to its code."""

import io
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from router_service.published import reading, unpickle
from router_service.published.reading import PublishedRouterError, ReadingLimits, read_published_file
from tests.unit.router_service.published.made_files import made_content, made_state

STATE = made_state(8)
FEW = {"weight": torch.arange(6.0).reshape(2, 3)}


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def saved(folder: Path, content: Any) -> Path:
    path = folder / "router.pt"
    torch.save(content, path)
    return path


def refusal(path: Path, limits: ReadingLimits | None = None) -> str:
    with pytest.raises(PublishedRouterError) as raised:
        read_published_file(path, limits)
    told = str(raised.value)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return told


def test_file_in_the_published_layout_is_read_whole(tmp_path: Path) -> None:
    content = made_content(STATE)
    file = read_published_file(saved(tmp_path, content))
    assert file.tensors.keys() == STATE.keys()
    assert all(torch.equal(file.tensors[name], value) for name, value in STATE.items())
    assert file.fields == {name: content[name] for name in ("model_type", "common_args", "model_specific_args")} | {
        "init_args": content["init_args"] | {"dtype": "torch.float32"}
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_of_every_floating_type_come_as_they_are(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(4, 4).to(dtype).T, "none": torch.zeros(0, 2)}
    read = read_published_file(saved(tmp_path, {"state_dict": tensors})).tensors
    assert all(torch.equal(read[name], value) for name, value in tensors.items())
    assert read["a"].dtype == dtype


def test_parameters_in_an_ordered_dict_are_read(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict(keep_vars=True)
    assert read_published_file(saved(tmp_path, {"state_dict": state})).tensors.keys() == {"weight", "bias"}


def test_pickle_with_a_reducer_does_nothing_and_is_refused_by_what_it_names(tmp_path: Path) -> None:
    target = tmp_path / "made"
    content = made_content(STATE, init_args__pretrained_model_name=Hostile(target))
    assert "names 'posix.mkdir', which a router's weights have no use for" in refusal(saved(tmp_path, content))
    assert not target.exists()


def test_bare_pickle_with_a_reducer_does_nothing_and_is_refused(tmp_path: Path) -> None:
    target, path = tmp_path / "made", tmp_path / "router.pt"
    path.write_bytes(pickle.dumps(Hostile(target)))
    assert "isn't a whole file of torch.save" in refusal(path)
    assert not target.exists()


@pytest.mark.parametrize("kept", [0, 100, 0.9, -1])
def test_cut_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path, made_content(STATE))
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    assert "isn't a whole file of torch.save" in refusal(path)


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "router.pt"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 225\n")
    assert "isn't a whole file of torch.save" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not the dict of a published router"),
        (torch.zeros(3), "holds a Tensor, not the dict"),
        ({"model_type": "x"}, "state_dict: is missing"),
        ({"state_dict": [torch.zeros(1)]}, "state_dict: is missing"),
        ({"state_dict": FEW, "init_args": {"a": {"b": [[[[]]]]}}}, "nested deeper than anything of a router"),
        ({"state_dict": FEW, "init_args": {"n": list(range(5000))}}, "init_args.n: holds a list"),
        ({"state_dict": FEW, "init_args": {"name": "x" * 5000}}, "init_args.name: holds a str"),
        ({"state_dict": FEW, "init_args": {"n": 2**70}}, "init_args.n: holds a int"),
        ({"state_dict": FEW, "init_args": {1: 2}}, "init_args: holds a dict"),
        ({"state_dict": FEW, "init_args": {"weight": torch.zeros(1)}}, "init_args.weight: holds a Tensor"),
        ({"state_dict": FEW, "init_args": {"a": {1, 2}}}, "init_args.a: holds a set"),
        ({"state_dict": {"weight": 1.0}}, "state_dict.weight: is a float, not a tensor"),
        ({"state_dict": {3: torch.zeros(1)}}, "a key that is no tensor's name"),
        ({"state_dict": {"weight": torch.arange(3)}}, "state_dict.weight: is a torch.int64"),
        (
            {"state_dict": {"weight": torch.eye(3).to_sparse()}},
            "state_dict.weight: is a torch.float32 torch.sparse_coo",
        ),
        ({"state_dict": {"weight": torch.zeros(2, 3, device="meta")}}, "on meta, not dense floats"),
        ({"state_dict": {"weight": torch.zeros(1).expand(10**6, 10**6)}}, "and fewer values are stored"),
        ({"state_dict": dict.fromkeys(map(str, range(999)), torch.zeros(10**4))}, "its tensors come to"),
        ({"state_dict": {str(n): torch.zeros(1) for n in range(1100)}}, "holds 1100 tensors"),
        ({"state_dict": FEW, "init_args": "x" * 2**21}, "data.pkl has"),
    ],
)
def test_content_that_no_router_has_is_refused_by_name(content: Any, message: str) -> None:
    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(unpickle.Refused) as raised:
        unpickle.read(file, file.tell())
    assert message in str(raised.value)


def test_refusal_that_repeats_the_file_stays_one_line(tmp_path: Path) -> None:
    content = {"state_dict": FEW, "init_args": {"a\nb": [2**70]}}
    assert refusal(saved(tmp_path, content)).endswith(": init_args.a b[0]: holds a int that no router has there")


@pytest.mark.parametrize("depth", [50, 500_000])
def test_pickle_that_is_nested_deep_is_refused(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "router.pt"
    lists = pickle.EMPTY_LIST * depth + pickle.APPEND * (depth - 1)
    head, tail = pickle.dumps({"state_dict": {}, "init_args": 7}, 2).split(b"K\x07")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("router/data.pkl", head + lists + tail)
        archive.writestr("router/version", "3\n")
    assert "nested deeper than anything of a router" in refusal(path)


def test_compressed_archive_that_would_unpack_to_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "router.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("router/data.pkl", bytes(2**26))
    assert path.stat().st_size < 2**17
    assert "part 'router/data.pkl' is compressed" in refusal(path)


def test_archive_whose_parts_claim_more_than_the_file_has_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {"weight": torch.zeros(100)}})
    content = bytearray(path.read_bytes())
    # The size in the last entry of the central directory.
    at = content.rindex(b"PK\x01\x02") + 24
    content[at : at + 4] = (2**30).to_bytes(4, "little")
    path.write_bytes(content)
    assert "its parts claim 10" in refusal(path)


@pytest.mark.parametrize("names", [[], ["a/data.pkl", "b/data.pkl"], ["data.pkl/x"]])
def test_archive_of_something_else_is_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "router.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
        for name in names:
            archive.writestr(name, pickle.dumps({}))
    assert "isn't a file of torch.save: it has" in refusal(path)


def test_archive_of_many_parts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "router.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5000):
            archive.writestr(str(number), "")
    assert "holds 5000 parts" in refusal(path)


def test_torchscript_program_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "router.pt"))
    assert "is a TorchScript program" in refusal(tmp_path / "router.pt")


def test_missing_file_folder_and_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "can't be opened: No such file" in refusal(tmp_path / "none")
    assert "is no file" in refusal(tmp_path)
    assert "is no file" in refusal(tmp_path / "pipe")


def test_file_beyond_the_limit_isnt_opened_by_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "router.pt"
    with path.open("wb") as file:
        file.truncate(2**40)
    monkeypatch.setattr(reading, "_convert", lambda *_: pytest.fail("the reader was started"))
    assert "has 1099511627776 bytes; a router's file has at most" in refusal(path)


def test_reader_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = saved(tmp_path, made_content(STATE))
    began = time.monotonic()
    assert "took more than 0.05 s to read" in refusal(path, ReadingLimits(wall_s=0.05))
    assert time.monotonic() - began < 60


def test_reader_that_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": {"weight": torch.zeros(2**24)}})
    told = refusal(path, ReadingLimits(spare_memory_bytes=-(2**27) + 2**20))
    assert "memory" in told.lower()


def test_reader_is_without_files_sockets_and_environment(tmp_path: Path) -> None:
    limits = {"memory_bytes": 2**28, "cpu_s": 60, "output_bytes": 2**20}
    script = f"""
import os, resource, runpy, socket
reader = runpy.run_path({unpickle.__file__!r}, run_name="reader")
network = os.readlink("/proc/self/ns/net")
reader["leave_network"]()
is_away = os.readlink("/proc/self/ns/net") != network
reader["confine"]({limits})
for attempt in (lambda: socket.socket(), lambda: open("/etc/hostname"), lambda: os.pipe()):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
except (OSError, ValueError):
    print("limits stay")
print("is away" if is_away else "kernel gives no namespace")
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    told = done.stdout.splitlines()
    # EMFILE
    assert told[:3] == ["24", "24", "24"]
    if os.geteuid() != 0 or told[-1] == "is away":
        assert told[3] == "limits stay"
