"""A comparison from its start to its end: stopped, killed, continued, extended, in hostile folders."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from commands import Command

import rmt_rl
from rmt_rl.common import files
from rmt_rl.common.errors import ConfigError
from rmt_rl.compare import main
from rmt_rl.comparison import executors, store
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.request import parse_compare
from rmt_rl.comparison.scores import check_tests
from rmt_rl.comparison.store import append_cell, locked, read_cells
from rmt_rl.comparison.worker import run_cell

SMALL = ["steps=2000", "env.length=3", "policy.width=16", "algo.num_envs=16", "algo.rollout=16", "algo.epochs=1"]
SMALL += ["validation_episodes=8", "evaluate_every=500"]
TINY = [*SMALL[1:], "steps=1", "evaluate_episodes=8"]


class Inside:
    """A worker that runs its cell in this process. deaths: for a cell's key, the statuses with which it ends without a row."""

    deaths: dict[str, list[int]] = {}  # noqa: RUF012

    def __init__(self, folder, matrix, cell):
        self.process, left = self, self.deaths.get(cell.key, [])
        self.started.append(cell.key)
        self.status = left.pop(0) if left else 0
        if self.status == 0:
            run_cell(folder, matrix, cell)

    def poll(self):
        return self.status

    wait = poll

    def stop(self):
        pass

    @property
    def returncode(self):
        return self.status

    ending = executors.Worker.ending


@pytest.fixture
def inside(monkeypatch, tmp_path):
    """Cells run in this process and folder; the keys of those that were started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "Worker", Inside)
    monkeypatch.setattr(executors, "INTERVAL", 0.0)
    monkeypatch.setattr(Inside, "deaths", {})
    monkeypatch.setattr(Inside, "started", [], raising=False)
    return Inside


def without_cost(folder):
    return {row["key"]: {name: value for name, value in row.items() if name != "cost"} for row in read_cells(folder)}


def error_of(capsys):
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def test_the_table_has_the_floors_of_all_variants_of_a_task(inside, capsys):
    given = ["env=tmaze-endless", "policy=mlp", "seeds=1", "env.corridors=1,3", "params=none", "out=x"]
    assert main([*given, *(x for x in TINY if "length" not in x)]) == 0
    *_, floor = (line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["floor"])
    assert " ".join(floor) == "floor 0.125 to 0.500"


def test_finished_cells_whose_options_are_no_longer_the_defaults_are_named(inside, capsys):
    """As after a change of a recipe: the command is the same, the run would not be."""
    own_width = [option for option in TINY if "width" not in option]
    given = ["env=tmaze", "policy=rmt", "seeds=2", "policy.params=3000", *own_width, "out=x"]
    assert main(given) == 0
    path = Path("x/cells.jsonl")
    first, *others = path.read_text().splitlines()
    row = json.loads(first)
    assert row["options"]["policy.write_cost"] == 1.0
    row["options"] |= {"policy.write_cost": 0.3}
    row["options"].pop("policy.sharpness")  # an option that did not exist then
    others = [json.dumps(json.loads(line) | {"options": None}) for line in others]  # as other programs may write it
    path.write_text("\n".join([json.dumps(row), *others, ""]))
    capsys.readouterr()
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "0 to run" in shown
    assert "no longer the defaults: 1," in shown and f"{row['key']} with policy.write_cost=0.3 instead of 1.0" in shown


@pytest.mark.slow
def test_a_comparison_is_continued_extended_and_reported(inside, capsys):
    given = ["env=tmaze", "policy=mlp", "seeds=1", *TINY, "test.env.length=3,5"]
    assert main([*given, "out=x"]) == 0
    shown = capsys.readouterr().out
    assert "tmaze" in shown and "floor" in shown and "report: x" in shown
    before = Path("x/cells.jsonl").read_bytes()
    # nothing is repeated, by the same command and by the folder alone
    assert main([*given, "out=x"]) == main(["out=x"]) == 0
    assert inside.started == ["tmaze-mlp-s0"] and Path("x/cells.jsonl").read_bytes() == before
    assert "no longer the defaults" not in capsys.readouterr().out
    # more policies and seeds are added, and the finished cells stay
    given[1:3] = ["policy=mlp,gru", "seeds=2"]
    assert main([*given, "out=x"]) == 0
    assert inside.started[1:] == ["tmaze-gru-s0", "tmaze-mlp-s1", "tmaze-gru-s1"]
    assert Path("x/cells.jsonl").read_bytes().startswith(before)
    (row, *_) = read_cells(Path("x"))
    assert row["final"]["env.length=5"] | {"value": 0, "per_episode": 0} == {
        "measure": "success",
        "value": 0,
        "per_episode": 0,
        "episodes": row["final"]["env.length=5"]["episodes"],
        "distinct": 2,
        "exact": True,
        "floor": 0.5,
        "ceiling": 1.0,
        "mean_steps": 6.0,
        "cut": 0,
    }
    assert row["best"].keys() == row["final"].keys() == {"training", "env.length=3", "env.length=5"}


REFUSED = {
    "policy.width=32": "policy.width=32: out=x has policy.width=16 in its cell tmaze-mlp-s0",
    "policy.width=16,32": "out=x: its cell tmaze-mlp-s0 \\(no variants\\) is none of this comparison",
    "env=copy": "env=copy: leaves out tmaze of the comparison in out=x",
    "seeds=[5]": "seeds=5: leaves out 0 of the comparison",
    "policy=gru": "policy=gru: leaves out mlp",
    "test.env.length=5": "test: env.length=5 is tested in one of",
    "budget.cpu_s=5": "budget.cpu_s=5.0: out=x has budget.cpu_s=null",
    "evaluate_episodes=9": "evaluate_episodes=9: out=x has evaluate_episodes=8",
}


@pytest.mark.slow
def test_another_comparison_in_the_same_folder_is_refused(inside, capsys):
    given = dict(word.split("=", 1) for word in ["env=tmaze", "policy=mlp", "seeds=1", *TINY])
    assert main([*(f"{key}={value}" for key, value in given.items()), "out=x"]) == 0
    before = {path: path.read_bytes() for path in Path("x").rglob("*") if path.is_file()}
    capsys.readouterr()
    for change, expected in REFUSED.items():
        changed = given | dict([change.split("=", 1)])
        with pytest.raises(ConfigError, match=expected):
            rmt_rl.compare.command([*(f"{key}={value}" for key, value in changed.items()), "out=x"])
    assert before == {path: path.read_bytes() for path in Path("x").rglob("*") if path.is_file()}
    with locked(Path("x")):
        assert main(["out=x"]) == 2
    assert "another command is running there" in error_of(capsys)


@pytest.mark.slow
def test_a_failed_cell_is_reported_and_the_rest_goes_on(inside, capsys):
    # no network is that small, which only shows when it is built
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *TINY[:1], *TINY[2:], "policy.params=1,5000", "out=x"]) == 1
    rows = {row["key"]: row for row in read_cells(Path("x"))}
    failed, finished = rows["tmaze-mlp-policy.params=1-s0"], rows["tmaze-mlp-policy.params=5000-s0"]
    assert failed["status"] == "failed" and failed["error"].startswith("policy.params=1: no width")
    assert finished["status"] == "finished" and "policy.params=1: no width" in capsys.readouterr().out
    # failed cells are repeated on request only
    assert main(["out=x"]) == 1 and len(inside.started) == 2
    assert main(["out=x", "retry=true"]) == 1 and len(inside.started) == 3
    assert [row["status"] for row in read_cells(Path("x"))] == ["finished", "failed"]


def test_a_comparison_starts_from_no_policy(inside, capsys):
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *SMALL, "init=runs/x", "out=x"]) == 2
    assert "init=runs/x: a comparison trains new policies; leave it out" in error_of(capsys)


def test_a_test_without_what_only_the_critic_sees_is_no_other_task():
    critic = {"policy.critic": "separate", "policy.critic_only": "state"}
    check_tests(rmt_rl.make_config(env="tmaze", policy="gru", **critic), {"test": {"env.distractors": True}})


def test_a_test_that_cannot_be_made_is_named():
    options = rmt_rl.make_config(env="gym", policy="gru", **{"env.id": "CartPole-v1"})
    with pytest.raises(ConfigError, match=r"test odd: .*Nowhere-v0"):
        check_tests(options, {"odd": {"env.id": "Nowhere-v0"}})


def test_a_test_with_other_observations_fails_the_cell_before_it_is_trained(inside):
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *SMALL, "test.env.distractors=true", "out=x"]) == 1
    (row,) = read_cells(Path("x"))
    assert row["error"].startswith(
        "test env.distractors=true: its observations or actions differ from those of the task"
    )
    assert not Path("x/runs/tmaze-mlp-s0").exists()


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_twice(inside, capsys):
    inside.deaths = {"tmaze-mlp-s0": [-9, 1], "tmaze-mlp-s1": [-9, -9, -9]}
    assert main(["env=tmaze", "policy=mlp", "seeds=2", *TINY, "out=x", "workers=1"]) == 1
    rows = {row["key"]: row for row in read_cells(Path("x"))}
    assert rows["tmaze-mlp-s0"]["status"] == "finished" and inside.started.count("tmaze-mlp-s0") == 3
    assert rows["tmaze-mlp-s1"]["error"].startswith("its process was ended by signal 9 (SIGKILL), 3 times")
    assert "it continues from its checkpoint" in capsys.readouterr().out


def test_a_cell_stops_after_its_cpu_seconds(inside):
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *SMALL, "budget.cpu_s=0.001", "out=x"]) == 0
    (row,) = read_cells(Path("x"))
    assert row["steps"] == 256 and row["stopped"] == "budget.cpu_s=0.001 is used"


def test_python_gets_what_the_folder_holds(inside):
    found = rmt_rl.compare(env="tmaze", policy=["mlp"], seeds=1, out="x", **dict(word.split("=") for word in TINY))
    assert found.rows == read_cells(Path("x")) and not found.failed and found.report.is_file()
    assert str(found).startswith("tmaze")


@pytest.mark.slow
def test_an_unfinished_line_is_removed_and_its_cell_is_run_again(inside, capsys):
    given = ["env=tmaze", "policy=mlp", "seeds=2", *TINY, "out=x"]
    assert main(given) == 0
    before, file = without_cost(Path("x")), Path("x/cells.jsonl")
    file.write_bytes(file.read_bytes()[:-9])
    assert len(read_cells(Path("x"))) == 1
    assert main(given) == 0
    assert "the last line was not complete and was removed" in capsys.readouterr().out
    assert without_cost(Path("x")) == before
    # a worker repairs it, too
    file.write_bytes(file.read_bytes() + b'{"key": "tm')
    append_cell(Path("x"), read_cells(Path("x"))[0] | {"key": "other"})
    assert len(read_cells(Path("x"))) == 3


HOSTILE = {
    "a line that is no row": (lambda x: (x / "cells.jsonl").write_text("[1, 2]\n"), "line 1 is a list; expected a run"),
    "a row without a key": (lambda x: (x / "cells.jsonl").write_text('{"status": "failed"}\n'), "line 1: key is None"),
    "deep brackets": (lambda x: (x / "cells.jsonl").write_text("[" * 10**5 + "\n"), "line 1 is not JSON"),
    "rows through a link": (lambda x: (x / "cells.jsonl").symlink_to(x.parent / "mine"), "is a link"),
    "rows in a folder": (lambda x: (x / "cells.jsonl").mkdir(), "is not a regular file"),
    "runs through a link": (lambda x: (x / "runs").symlink_to(x.parent), "links are not followed"),
    "a lock through a link": (lambda x: (x / ".lock").symlink_to(x.parent / "mine"), "is a link"),
    "no request": (
        lambda x: (x / "comparison.yaml").write_text("format: 1\ntasks: 5\n"),
        "is not what a comparison writes",
    ),
    "a later format": (lambda x: (x / "comparison.yaml").write_text("format: 2\n"), "reads format 1"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_is_one_sentence_and_nothing_outside_changes(inside, capsys, what):
    make, expected = HOSTILE[what]
    Path("mine").write_text("mine")
    Path("x").mkdir()
    make(Path("x").absolute())
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *TINY, "out=x"]) == 2
    assert re.search(expected, error_of(capsys))
    assert Path("mine").read_text() == "mine" and sorted(os.listdir()) == ["mine", "x"] and inside.started == []


@pytest.mark.slow
def test_a_cell_whose_folder_is_a_link_or_another_run_fails(inside):
    given = ["env=tmaze", "policy=mlp", "seeds=2", *TINY, "out=x"]
    assert main([*given[:2], "seeds=1", *given[3:]]) == 0
    run = Path("x/runs/tmaze-mlp-s0")
    os.rename(run, "elsewhere")
    run.symlink_to(Path("elsewhere").absolute())
    Path("x/runs/tmaze-mlp-s1").mkdir()
    text = Path("elsewhere/config.yaml").read_text().replace("mlp-s0", "mlp-s1").replace("seed: 0", "seed: 7")
    Path("x/runs/tmaze-mlp-s1/config.yaml").write_text(text)
    Path("x/runs/tmaze-mlp-s1/checkpoints/step-0").mkdir(parents=True)
    Path("x/cells.jsonl").write_text("")
    assert main(given) == 1
    errors = [row["error"] for row in read_cells(Path("x"))]
    assert "is no folder of its own" in errors[0] and "config.yaml: seed is not that of this cell" in errors[1]


def test_a_folder_names_no_module_unless_the_user_trusts_it(inside, capsys, tmp_path):
    Path("x").mkdir()
    (tmp_path / "evil_module.py").write_text("open('ran', 'w').close()")
    assert main(["env=tmaze", "policy=mlp", "seeds=1", *TINY, "out=x"]) == 0
    capsys.readouterr()
    file = Path("x/comparison.yaml")
    for text in ("plugins: [evil_module]", "tasks: ['evil_module:Env']"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith(text.partition(":")[0])]
        changed = "\n".join(line for line in lines if line != "- tmaze") + f"\n{text}\n"
        Path("x/comparison.yaml").write_text(changed)
        assert main(["out=x"]) == 2
        error_of(capsys)
        assert not Path("ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cells.jsonl", ".comparison.yaml"])
def test_a_full_disk_is_one_sentence_and_the_same_command_continues(inside, capsys, monkeypatch, name):
    """At both files that the command itself writes."""
    open_before = files.open_file

    def full(path, flags=os.O_RDONLY, **options):
        if Path(path).name == name and flags & os.O_WRONLY:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return open_before(path, flags, **options)

    given = ["env=tmaze", "policy=mlp", "seeds=1", *TINY, "out=x"]
    inside.deaths["tmaze-mlp-s0"] = [1, 1, 1]  # so that the command writes the row
    with monkeypatch.context() as patch:
        for module in (files, store):
            patch.setattr(module, "open_file", full)
        assert main(given) == 1
    assert f"x/{name}: " in (text := error_of(capsys)) and "No space left on device" in text
    inside.deaths.clear()
    assert main(given) == 0


@pytest.mark.parametrize(
    "change",
    [{"tasks": []}, {"policies": []}, {"seeds": []}, {"axes": {"env.length": []}}, {"axes": {"env.length": "345"}}]
    + [{"tests": {"env.length": []}}, {"tests": {"env.length": {3: 4}}}],
)
def test_a_comparison_of_nothing_is_one_sentence(inside, capsys, change):
    content = {"format": 1, **store.to_dict(parse_compare(["env=tmaze", "policy=mlp", "seeds=1"])[1]), **change}
    Path("x").mkdir()
    Path("x/comparison.yaml").write_text(yaml.safe_dump(content))
    assert main(["out=x"]) == 2
    assert "x/comparison.yaml: is not what a comparison writes (TypeError: expected" in error_of(capsys)
    assert [path.name for path in Path("x").iterdir()] == ["comparison.yaml"]


def test_out_alone_needs_a_comparison(inside, capsys):
    assert main(["out=x"]) == 2
    assert "there is no comparison to continue" in error_of(capsys) and not Path("x").exists()


class Stops:
    def on_update(self, run):
        if run.steps >= 1024:
            raise RuntimeError("stopped here")


@pytest.mark.slow
def test_a_stopped_cell_continues_from_its_checkpoint_to_the_same_row(tmp_path, capsys):
    matrix = parse_compare(["env=tmaze", "policy=gru", "seeds=1", *SMALL])[1]
    (cell,) = expand(matrix)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    assert run_cell(tmp_path / "whole", matrix, cell)
    with pytest.raises(RuntimeError, match="stopped here"):
        rmt_rl.train(cell.config, root=tmp_path / "parts/runs", callbacks=[Stops()])
    capsys.readouterr()
    assert run_cell(tmp_path / "parts", matrix, cell)
    assert "continuing from checkpoints/step-768" in capsys.readouterr().out
    assert without_cost(tmp_path / "parts") == without_cost(tmp_path / "whole")
    # trained, but not evaluated: nothing is trained again
    (tmp_path / "parts/cells.jsonl").unlink()
    assert run_cell(tmp_path / "parts", matrix, cell)
    assert "steps" not in capsys.readouterr().out
    assert without_cost(tmp_path / "parts") == without_cost(tmp_path / "whole")


def children(pid):
    """The process ids of the workers of a process."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_device_that_the_machine_lacks_is_an_error_before_the_first_cell(inside, capsys):
    """The folder is then free for another device, and what was finished on another machine is reported here."""
    given = ["env=tmaze", "policy=mlp", "seeds=1", *TINY, "out=x"]
    assert main([*given, "device=cuda:99"]) == 2
    assert "device=cuda:99: this machine has" in error_of(capsys)
    assert inside.started == []
    assert main([*given, "device=cpu"]) == 0
    text = Path("x/comparison.yaml").read_text()
    assert text.count("device: cpu") == 1
    Path("x/comparison.yaml").write_text(text.replace("device: cpu", "device: cuda:99"))
    assert main(["out=x"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("every", [1_000, 2_000])
def test_a_best_policy_that_is_the_final_one_is_not_played_again(tmp_path, capsys, every):
    given = ["env=tmaze", "policy=mlp", "seeds=1", *SMALL[:-1], f"evaluate_every={every}", "out=x"]
    matrix = parse_compare(given)[1]
    (cell,) = expand(matrix)
    assert run_cell(tmp_path, matrix, cell)
    (row,) = read_cells(tmp_path)
    played = capsys.readouterr().out.count("evaluating the best policy")
    assert played == (0 if row["best_steps"] == row["steps"] else 1)
    if every == 2_000:  # the only evaluation is that of the last step
        assert played == 0 and row["best"] == row["final"]


@pytest.mark.slow
def test_a_comparison_that_was_killed_and_continued_has_the_same_rows(tmp_path, inside):
    """A worker is killed, then the parent, at random moments; then it is continued, interrupted by nobody."""
    given = ["env=tmaze", "policy=mlp,gru", "seeds=1", *SMALL, "checkpoint_steps=500", "test.env.length=5"]
    matrix = parse_compare(given)[1]
    for cell in expand(matrix):
        (tmp_path / "undisturbed").mkdir(exist_ok=True)
        assert run_cell(tmp_path / "undisturbed", matrix, cell)
    parent = Command("-m", "rmt_rl.compare", *given, "out=x", "workers=2", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("x/runs/*/checkpoints/step-0")))
    time.sleep(random.uniform(0, 0.5))
    victim, *_ = workers = children(parent.pid)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: parent.poll() is not None or victim not in children(parent.pid))
    time.sleep(random.uniform(0, 0.5))
    orphans = children(parent.pid)
    parent.kill()
    parent.communicate()
    assert workers
    # orphans stop by themselves
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
    assert main([*given, "out=x"]) == 0
    assert without_cost(tmp_path / "x") == without_cost(tmp_path / "undisturbed")
    assert len(read_cells(tmp_path / "x")) == 2
    assert json.loads((tmp_path / "x/cells.jsonl").read_text().splitlines()[0])["cost"]["cpu_s"] > 0
