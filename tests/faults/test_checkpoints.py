"""A checkpoint survives a death at any moment; every damaged or hostile one is detected, without running code."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from rmt_rl.common.files import sha256
from rmt_rl.runs.checkpoints import KEPT, Checkpoints, _dump, _signed


def small(value: float) -> dict:
    return {
        "weights": torch.full((5,), value),
        "nested": [{"bits": torch.arange(3, dtype=torch.uint8)}, value, None, "x"],
    }


@pytest.fixture
def two(tmp_path):
    """Checkpoints 1 and 2 of a run."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, small(step), {})
    yield checkpoints
    checkpoints.close()


def test_a_checkpoint_is_read_as_it_was_written(two) -> None:
    steps, tree, manifest, wrong = two.newest()
    assert (steps, manifest["steps"], wrong) == (2, 2, [])
    assert torch.equal(tree["weights"], torch.full((5,), 2.0))
    assert torch.equal(tree["nested"][0]["bits"], torch.arange(3, dtype=torch.uint8))
    assert tree["nested"][1:] == [2.0, None, "x"]


def test_damaged_checkpoints_do_not_displace_complete_ones(two) -> None:
    """A run that resumes before damaged checkpoints keeps the one that it writes next."""
    two.save(20, small(20), {})
    two.save(30, small(30), {})
    two.save(40, small(40), {})
    for step in (30, 40):
        (two.folder / f"step-{step}/manifest.json").write_text("{}")
    shutil.rmtree(two.folder / "step-30")
    two.save(10, small(10), {})
    assert two.steps() == [10] and two.newest()[0] == 10
    two.save(15, small(15), {})
    assert two.steps() == [10, 15]
    before = (two.folder / "step-15/manifest.json").stat().st_mtime_ns
    two.save(15, small(99), {})  # exists already and is complete
    assert (two.folder / "step-15/manifest.json").stat().st_mtime_ns == before


def test_only_the_newest_are_kept_and_only_exact_names_count(two) -> None:
    two.save(3, small(3), {})
    assert two.steps() == [2, 3] and KEPT == 2
    for name in ("step-4.tmp", "step-", "step-05", "step-6 ", "xstep-7", ".new-8"):
        (two.folder / name).mkdir()
    assert two.steps() == [2, 3] and two.newest()[0] == 3


FILES = ("manifest.json", "state.json", "state.safetensors")


@pytest.mark.parametrize("file", FILES)
def test_every_flipped_bit_is_detected(two, file) -> None:
    path = two.folder / "step-2" / file
    whole = path.read_bytes()
    bits = 8 * len(whole)
    for bit in range(0, bits, 1 if "RMT_RL_FAULTS" in os.environ else bits // 200):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        steps, _, _, (wrong,) = two.newest()
        assert steps == 1 and wrong.startswith("checkpoints/step-2: ") and (file in wrong or "format" in wrong), bit
    path.write_bytes(whole)
    assert two.newest()[0] == 2


@pytest.mark.parametrize("file", FILES)
def test_every_truncated_exchanged_or_missing_file_is_detected(two, file) -> None:
    path = two.folder / "step-2" / file
    whole = path.read_bytes()
    other = (two.folder / "step-1" / file).read_bytes()
    cuts = sorted({len(whole) * i // 20 for i in range(20)})
    for data in [*(whole[:cut] for cut in cuts), whole + b"\n", whole + b"\0", other]:
        path.write_bytes(data)
        assert two.newest()[0] == 1 and file in two.newest()[3][0]
    path.unlink()
    assert two.newest()[3] == [f"checkpoints/step-2: {file} is missing"]
    path.symlink_to(two.folder / "step-1" / file)
    assert two.newest()[3] == [f"checkpoints/step-2: {file} is no file"]
    path.unlink()
    os.mkfifo(path)
    assert two.newest()[3] == [f"checkpoints/step-2: {file} is no file"]


def test_a_newer_format_is_reported(two) -> None:
    path = two.folder / "step-2" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    assert "is of format 2, written by a newer rmt_rl; this one reads up to 1" in two.newest()[3][0]


def test_a_manifest_that_is_too_large_is_not_read(two) -> None:
    """Sizes are checked before anything is read, because the checksums of an untrusted file prove nothing."""
    path = two.folder / "step-2" / "manifest.json"
    with path.open("ab") as file:
        file.truncate(2**33)  # sparse: takes no disk space
    start = time.monotonic()
    assert two.newest()[0] == 1 and "manifest.json has 8,589,934,592 bytes" in two.newest()[3][0]
    assert time.monotonic() - start < 2


def forge(place: Path, name: str, data: bytes) -> None:
    """Replace a file and adapt the manifest, as the author of an untrusted checkpoint can."""
    (place / name).write_bytes(data)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": len(data), "sha256": sha256(data)}
    (place / "manifest.json").write_bytes(_dump(_signed(manifest)))


def header(text: str) -> bytes:
    """A safetensors file with this header and 16 bytes of numbers."""
    return len(text).to_bytes(8, "little") + text.encode() + bytes(16)


ENTRY = '"/weights":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
HOSTILE = {
    "state.json": [
        b"",
        b"[" * 10**6,
        b"\xff",
        b'{"a": {"<tensor>": "/nowhere"}}',
        b'{"a": {"<tensor>": {}}}',
        b"\x80\x04.",
    ],
    "state.safetensors": [
        b"",
        (10**12).to_bytes(8, "little"),
        header("{" + ENTRY.replace("[4]", "[9223372036854775807,9]") + "}"),
        header("{" + ENTRY.replace("[0,16]", "[16,0]") + "}"),
        header("{" + ENTRY.replace("[0,16]", "[0,17]") + "}"),
        header("{" + ENTRY.replace("F32", "PICKLE") + "}"),
        header("{" + ENTRY + "," + ENTRY.replace("weights", "other") + "}"),
        header(" " * 120_000_000),
        b"\x80\x04cos\nsystem\n(S'touch hacked'\ntR.",
    ],
}


@pytest.mark.parametrize("file", HOSTILE)
def test_a_hostile_file_with_a_valid_checksum_is_rejected_quickly_and_runs_no_code(two, file, tmp_path) -> None:
    for data in HOSTILE[file]:
        forge(two.folder / "step-2", file, data)
        start = time.monotonic()
        steps, _, _, (wrong,) = two.newest()
        assert steps == 1 and "cannot be read" in wrong, data[:60]
        assert time.monotonic() - start < 2
    assert not (tmp_path / "hacked").exists() and not Path("hacked").exists()


CALLS = ("mkdir", "open", "write", "fsync", "close", "rename", "unlink", "rmdir", "listdir", "lstat")


def run_in_a_child(work) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(call: int, before: bool) -> None:
    """This process dies at its `call`-th system call."""
    count = itertools.count()
    for name in CALLS:
        original = getattr(os, name)

        def patched(*arguments, original=original, **options):
            mine = next(count) == call
            if mine and before:
                os._exit(9)
            result = original(*arguments, **options)
            if mine:
                os._exit(9)
            return result

        setattr(os, name, patched)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_death_at_any_system_call_of_save_loses_no_checkpoint(two, before) -> None:
    survived = []
    for call in itertools.count():

        def save(call=call) -> None:
            dying_at(call, before)
            two.save(3, small(3), {})

        ended = run_in_a_child(save)
        steps, tree, _, wrong = two.newest()
        assert wrong == [] and torch.equal(tree["weights"], torch.full((5,), float(steps)))
        assert len(two.steps()) >= KEPT or steps == 3
        survived.append(steps)
        two.save(4, small(4), {})  # the next save removes temporary folders
        assert sorted(os.listdir(two.folder)) == sorted(f"step-{step}" for step in two.steps())
        shutil.rmtree(two.folder)
        for step in (1, 2):
            two.save(step, small(step), {})
        if ended == 0:
            break
    assert len(survived) > 25 and set(survived) == {2, 3}
    assert survived == sorted(survived)  # once the new one exists, it stays
