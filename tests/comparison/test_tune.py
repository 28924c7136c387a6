"""`python -m rmt_rl.tune`: what is searched, how, and what comes out."""

from __future__ import annotations

import csv
import dataclasses
import errno
import re
import shlex
import sys
import time
from pathlib import Path

import pytest
import yaml
from commands import Command
from forked_workers import FORKED

import rmt_rl
from rmt_rl.common import files
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.comparison import executors
from rmt_rl.comparison import search as search_module
from rmt_rl.comparison import space as space_module
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.request import parse_compare
from rmt_rl.comparison.search import Search
from rmt_rl.comparison.space import check_same, parse_tune, tune_from_python
from rmt_rl.comparison.worker import run_cell
from rmt_rl.config.cli import parse
from rmt_rl.config.comparison import SlurmConfig, TuneConfig
from rmt_rl.config.help import help_text
from rmt_rl.envs.tmaze.passive import TMaze
from rmt_rl.tune import command, write_best
from rmt_rl.tune import main as tune_main

BASE = ("env=tmaze", "policy=rmt,lstm", "algo.learning_rate=1e-4..1e-2")


# --------------------------------------------------------------------------------------------------------------- the space


def test_ranges_and_lists_are_tuned_and_single_values_are_not():
    config, space, _ = parse_tune([*BASE, "policy.segment=4,8", "algo.epochs=2..5", "steps=4000", "trials=7"])
    assert (config.trials, config.seeds, space.matrix.seeds) == (7, "1", (0,))
    assert space.tuned("tmaze", "rmt") == {
        "algo.learning_rate": (1e-4, 1e-2),
        "policy.segment": (4, 8),
        "algo.epochs": (2, 5),
    }
    assert [*space.tuned("tmaze", "lstm")] == ["algo.learning_rate", "algo.epochs"]  # an LSTM has no segments
    assert space.log == {"algo.learning_rate": True, "algo.epochs": False}
    assert space.matrix.options == {"steps": 4000}


@pytest.mark.parametrize(
    ("text", "log"),
    [("1e-4..1e-2", True), ("1e-4..9e-3", False), ("1e-4..9e-3:log", True), ("1e-4..1:linear", False), ("0..1", False)],
)
def test_the_scale_of_a_range_follows_its_ratio_unless_it_is_named(text, log):
    assert parse_tune(["env=tmaze", "policy=rmt", f"algo.entropy_coef={text}"])[1].log == {"algo.entropy_coef": log}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["env=tmaze", "policy=rmt"], "nothing is tuned; expected options with a range or several values"),
        ([*BASE[:2], "policy.segment=4,8"], "policy=lstm: policy.segment is no option of it with env=tmaze"),
        ([*BASE, "algo.gamma=0.9..2"], "algo.gamma=2: expected"),
        ([*BASE, "algo.gamma=0.99..0.9"], "algo.gamma=0.99..0.9: the range has no values; expected the lower"),
        ([*BASE, "algo.entropy_coef=0..1:log"], "algo.entropy_coef=0..1:log: a logarithmic scale begins above 0"),
        ([*BASE, "policy.widht=8,16"], "policy.widht: no cell .*did you mean policy.width"),
        ([*BASE, "env.length=4..x"], "env.length=4..x: expected a whole number"),
        ([*BASE, "test.env.length=5"], "test.env.length: has no effect on a search"),
        ([*BASE, "budget.cpu_s=5"], "budget.cpu_s: has no effect on a search"),
        ([*BASE, "evaluate_every=null"], "evaluate_every=null: a trial is scored by evaluations during training"),
        ([*BASE, "evaluate_episodes=8"], "evaluate_episodes: has no effect on a search"),
        ([*BASE, "validation_episodes=4,8"], "validation_episodes=4,8: changes how a trial runs or is measured, and not what"),
        ([*BASE, "threads=1..2"], "threads=1,2: changes how a trial runs"),
        ([*BASE, "seed=1"], "seed=1: expected seeds="),
        ([*BASE, "trials=0"], "trials=0: expected a whole number, at least 1"),
        (["env=tmaze", "policy=rmt", "policy.width=15,17"], "policy.heads=2"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_before_anything_is_trained(given, message):
    with pytest.raises(ConfigError, match=message) as found:
        parse_tune(given)
    assert "\n" not in str(found.value)


def test_another_search_and_a_comparison_in_the_same_folder_are_refused(tmp_path):
    check_same(tmp_path, parse_tune([*BASE])[1])
    check_same(tmp_path, parse_tune([*BASE, "trials=50"])[1])  # more trials continue a search
    with pytest.raises(
        ConfigError, match="holds a search with other axes, log; give the same options, or another out="
    ):
        check_same(tmp_path, parse_tune([*BASE[:2], "algo.learning_rate=1e-4..1e-3"])[1])
    (tmp_path / "comparison.yaml").touch()
    with pytest.raises(ConfigError, match="holds a comparison; choose another out="):
        check_same(tmp_path, parse_tune([*BASE])[1])


def test_a_comparison_in_the_folder_of_a_search_is_refused(tmp_path):
    check_same(tmp_path, parse_tune([*BASE])[1])
    with pytest.raises(ConfigError, match="holds a search for settings; choose another out="):
        rmt_rl.compare(env="tmaze", policy="rmt", out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tune.yaml"]


def test_without_optuna_nothing_is_written_and_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"optuna is not installed; pip install 'rmt_rl\[tune\]'"):
        command([*BASE])
    assert list(tmp_path.iterdir()) == []


def test_the_help_fits_a_screen_and_its_examples_are_accepted():
    lines = help_text(TuneConfig).splitlines()
    assert len(lines) <= 50 and all(len(line) <= 120 for line in lines if "python" not in line)
    examples = [line.split("rmt_rl.tune")[1] for line in lines if line.startswith("  ") and "rmt_rl.tune env=" in line]
    assert len(examples) == 2 and all(parse_tune(shlex.split(example)) for example in examples)


def test_python_asks_for_the_same_search_as_the_shell():
    given = {"algo.learning_rate": "1e-4..1e-2", "policy.segment": [4, 8], "algo.gamma": 0.9}
    words = [*BASE, "policy.segment=4,8", "algo.gamma=0.9", "trials=7", "seeds=[3,4]", "params=none"]
    found = tune_from_python(
        {"env": "tmaze", "policy": ["rmt", "lstm"], **given, "trials": 7, "seeds": [3, 4], "params": None}
    )
    assert found == parse_tune(words)
    with pytest.raises(ConfigError, match="nothing is tuned"):
        rmt_rl.tune(env="tmaze", policy="rmt")
    with pytest.raises(ConfigError, match=r"policy\.segment=\[\]: has no value"):
        rmt_rl.tune(env="tmaze", policy="rmt", **{"policy.segment": []})


def test_a_search_on_a_cluster_needs_a_number_of_trials_at_a_time_and_has_the_options_of_jobs():
    words = [*BASE, "executor=slurm", "slurm.cluster=local"]
    assert parse_tune([*words, "workers=4"])[2] == SlurmConfig(cluster="local")
    with pytest.raises(
        ConfigError, match=r"executor=slurm: workers= is missing; expected the number of trials at a time"
    ):
        parse_tune(words)
    with pytest.raises(ConfigError, match=r"slurm\.cluster=local: has no effect with executor=local"):
        parse_tune([*BASE, "slurm.cluster=local"])


# -------------------------------------------------------------------------------------------------------------- the search

#: At a step size of 1e-9 the policy stays at the floor.
RATES = [1e-2, 2e-2, 5e-3, 1.5e-2, 1e-9, 8e-3]
TOY = [
    "env=memory-len",
    "env.length=2",
    "policy=gru",
    "policy.width=16",
    "steps=5120",
    "algo.num_envs=32",
    "algo.epochs=2",
]
TOY += ["algo.rollout=16", "validation_episodes=32", "evaluate_every=512", "algo.learning_rate=1e-9..3e-2"]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A folder with six trials of two workers that was killed in between, and what the second command printed."""
    optuna = pytest.importorskip("optuna")
    from optuna.storages.journal import JournalFileBackend

    root = tmp_path_factory.mktemp("tuned")
    folder = root / "x"
    folder.mkdir()
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    study = optuna.create_study(storage=storage, study_name="memory-len-gru", direction="maximize")
    for rate in RATES:
        study.enqueue_trial({"algo.learning_rate": rate})
    words = ["-c", FORKED, *TOY, "trials=6", "workers=2", "out=x"]
    first = Command(*words, cwd=root)
    end = time.monotonic() + 200
    while "trial 2:" not in first.output():
        assert first.poll() is None and time.monotonic() < end, first.communicate()
        time.sleep(0.02)
    first.kill()
    second = Command(*words, cwd=root)
    second.wait(200)
    assert second.returncode == 0, second.communicate()
    with open(folder / "trials.csv") as file:
        return folder, [*csv.DictReader(file)], first.output(), second.communicate()[0]


def test_a_line_that_a_killed_command_left_unfinished_and_its_lock_are_removed(tmp_path):
    pytest.importorskip("optuna")
    space = parse_tune([*BASE])[1]
    search = Search(tmp_path, space, "tmaze", "rmt", True)
    search.study.enqueue_trial({})
    journal = tmp_path / "optuna.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    (tmp_path / "optuna.log.lock").symlink_to("x/optuna.log")
    again = Search(tmp_path, space, "tmaze", "rmt", True)
    assert len(again.study.trials) == 1 and journal.read_bytes().startswith(whole + b'{"op_code":0')
    again.study.enqueue_trial({})
    assert len(Search(tmp_path, space, "tmaze", "rmt", True).study.trials) == 2


def test_a_trial_whose_command_was_killed_before_all_its_settings_were_chosen_gets_the_others(tmp_path):
    pytest.importorskip("optuna")
    space = parse_tune([*BASE, "policy.segment=4,8"])[1]
    search = Search(tmp_path, space, "tmaze", "rmt", True)
    search.study.ask().suggest_categorical("policy.segment", (4, 8))
    (trial,) = [one.trial for one in [Search(tmp_path, space, "tmaze", "rmt", True)._next(1, print)] if one]
    assert trial.number == 0 and {*trial.params} == {"policy.segment", "algo.learning_rate"}


@pytest.mark.parametrize("widths", ["16,15", "15,16"])
def test_a_search_needs_settings_that_fit_but_not_first_ones(widths):
    space = parse_tune(["env=tmaze", "policy=rmt", f"policy.width={widths}"])[1]
    assert space.example("tmaze", "rmt").config.policy.width == 16


def test_settings_that_do_not_fit_each_other_make_a_failed_trial_with_the_sentence(tmp_path):
    pytest.importorskip("optuna")
    space = parse_tune(["env=tmaze", "policy=rmt", "policy.width=16,15"])[1]
    search = Search(tmp_path, space, "tmaze", "rmt", True)
    search.study.enqueue_trial({"policy.width": 15})
    said = []
    assert search.run(1, 1, said.append) is None
    assert (
        len(said) == 1 and "trial 0: policy.width=15: failed: cell tmaze-rmt" in said[0] and "policy.heads=2" in said[0]
    )
    with pytest.raises(RunError, match=r"tmaze rmt: no trial was completed; the last error: cell .*policy\.heads=2"):
        write_best(tmp_path, space, search)


class Inside:
    """Stands for a worker and for a job: it runs its cell in this process."""

    started: list[str] = []  # noqa: RUF012

    def __init__(self, folder, matrix, cell, scored):
        assert not scored  # the evaluations during training are enough
        self.started.append(cell.key)
        run_cell(folder, matrix, dataclasses.replace(cell, tests={}))

    def poll(self):
        return 0

    wait = stop = poll


@pytest.fixture
def inside(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "Worker", Inside)
    monkeypatch.setattr(search_module, "INTERVAL", 0.0)
    monkeypatch.setattr(Inside, "started", [])


WORDS = ["env.length=3", "policy.width=16,15", "steps=1", "algo.num_envs=16", "validation_episodes=8"]
#: Widths of which 15 fits no network with two heads, and trials of one update.
WIDTHS = {"env.length": 3, "policy.width": [16, 15], "steps": 1, "algo.num_envs": 16, "validation_episodes": 8}


def test_the_options_of_the_best_are_those_of_train_and_of_its_file(inside, capsys):
    pytest.importorskip("optuna")
    found = rmt_rl.tune(env="tmaze", policy="mlp", out="x y", trials=2, workers=1, **WIDTHS)
    (best,) = found.best
    assert (found.folder, found.failed, found.signal) == (Path("x y"), [], None)
    assert (best.task, best.policy, best.trials, best.file) == ("tmaze", "mlp", 2, Path("x y/best-tmaze-mlp.yaml"))
    assert rmt_rl.make_config(**best.options) == parse([f"config={best.file}"])
    shown = capsys.readouterr().out
    assert f"best of 2 trials: {best.score:.3f}, trial {best.trial}" in shown
    (line,) = re.findall(r"-m rmt_rl\.compare (.*)", shown)
    assert parse_compare(shlex.split(line))[0].out == "x y-check-tmaze-mlp"
    # the same call repeats nothing, and more trials continue
    before = [*Inside.started]
    assert rmt_rl.tune(env="tmaze", policy="mlp", out="x y", trials=2, workers=1, **WIDTHS) == found
    assert Inside.started == before


def test_a_class_of_a_module_is_tuned_and_its_commands_give_the_class_to_python(inside, capsys):
    pytest.importorskip("optuna")
    given = {name: value for name, value in WIDTHS.items() if not name.startswith("env.")}
    (best,) = rmt_rl.tune(env=TMaze, policy="mlp", out="x", trials=1, workers=1, **given).best
    assert best.options["env"] == best.task == "rmt_rl.envs.tmaze.passive:TMaze"
    train, compare = re.findall(r"^  (python -c .*)", capsys.readouterr().out, re.MULTILINE)
    assert "rmt_rl.train(env=rmt_rl.envs.tmaze.passive.TMaze, policy=" in train
    assert "rmt_rl.compare(env=[rmt_rl.envs.tmaze.passive.TMaze], policy=" in compare and 'out="x-check-' in compare


def test_every_search_is_reported_although_one_has_no_completed_trial(inside, capsys):
    pytest.importorskip("optuna")
    words = ["env=tmaze", "policy=rmt,mlp", *WORDS, "trials=1", "workers=1", "out=x"]
    Path("x").mkdir()
    for policy in ("rmt", "mlp"):
        Search(Path("x"), parse_tune(words)[1], "tmaze", policy, True).study.enqueue_trial({"policy.width": 15})
    assert command(words) == 1
    shown = capsys.readouterr().out
    assert "failed: tmaze rmt: no trial was completed; the last error: cell" in shown
    assert Path("x/best-tmaze-mlp.yaml").is_file() and not Path("x/best-tmaze-rmt.yaml").exists()
    found = [row["state"] for row in csv.DictReader(Path("x/trials.csv").read_text().splitlines())]
    assert found == ["fail", "complete"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tune.yaml", "trials.csv", "best-tmaze-mlp.yaml", "optuna.log"])
def test_a_full_disk_is_one_sentence_and_the_same_command_continues_a_search(inside, capsys, monkeypatch, name):
    optuna = pytest.importorskip("optuna")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["env=tmaze", "policy=mlp", *WORDS[:1], "policy.width=8,16", *WORDS[2:], "trials=1", "workers=1", "out=x"]
    with monkeypatch.context() as patch:
        if name == "optuna.log":
            patch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
        else:
            write = files.write_file
            for module in (files, space_module):
                patch.setattr(
                    module, "write_file", lambda path, data: (full if path.name == name else write)(path, data)
                )
        assert tune_main(words) == (2 if name == "optuna.log" else 1)
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.startswith("error: ") and error.count("\n") == 1
    assert tune_main(words) == 0


def test_jobs_run_the_trials_of_a_search_on_a_cluster(inside, tmp_path):
    pytest.importorskip("optuna")

    class FakeJobs:
        def start(self, matrix, cell, scored):
            return Inside(tmp_path, matrix, cell, scored)

    space = parse_tune(["env=tmaze", "policy=mlp", *WORDS])[1]
    search = Search(tmp_path, space, "tmaze", "mlp", True, FakeJobs().start, far=True)
    search._interval = 0.0
    assert search.run(1, 1, print) is None and len(search.finished()) == len(Inside.started) == 1


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "{\n{\n", "[" * 10**5 + "\n", "9" * 5000 + "\n", "\0\n"])
def test_a_journal_that_is_none_is_one_sentence(tmp_path, text):
    pytest.importorskip("optuna")
    (tmp_path / "optuna.log").write_text(text)
    with pytest.raises(ConfigError, match=r"optuna\.log: is not a journal of this search .*; choose another out="):
        Search(tmp_path, parse_tune([*BASE])[1], "tmaze", "rmt", True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"directions":[2]', '"directions":[1]'),
        ('"directions":[2]', '"directions":[2,2]'),
        ('"param_name":"algo.gamma"', '"param_name":"policy.encoder"'),  # which could name code of a plugin
        ('"param_name":"algo.gamma"', '"param_name":null'),
        ("0.99,", "0.999,"),
        ('"param_value_internal":0.95', '"param_value_internal":0.5'),
        ('"param_value_internal":1,', '"param_value_internal":5,'),
        ("[16, 32]", "[16, 64]"),
        ('"values":[0.5]', '"values":null'),
        ('"values":[0.5]', '"values":[NaN]'),
        ('"values":[0.5]', '"values":["much"]'),
        ('"values":[0.5]', f'"values":[{10**400}]'),
        ('"intermediate_value":0.25', '"intermediate_value":"much"'),
    ],
)
def test_a_journal_with_other_contents_than_this_search_writes_is_one_sentence(tmp_path, old, new):
    pytest.importorskip("optuna")
    space = parse_tune(["env=tmaze", "policy=mlp", "policy.width=16,32", "algo.gamma=0.9..0.99"])[1]
    search = Search(tmp_path, space, "tmaze", "mlp", True)
    search.study.enqueue_trial({"policy.width": 32, "algo.gamma": 0.95})
    trial = search.study.ask(search._distributions())
    trial.report(0.25, 1)
    search.study.tell(trial, 0.5)
    journal = tmp_path / "optuna.log"
    text = journal.read_text()
    assert old in text and len(Search(tmp_path, space, "tmaze", "mlp", True).finished()) == 1
    journal.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=r"optuna\.log: is not a journal of this search") as found:
        Search(tmp_path, space, "tmaze", "mlp", True)
    assert "\n" not in str(found.value) and len(str(found.value)) < 500


def test_a_device_that_the_machine_lacks_is_an_error_before_the_first_trial(tmp_path, capsys):
    pytest.importorskip("optuna")
    given = ["env=tmaze", "policy=mlp", "algo.gamma=0.9..0.99", f"out={tmp_path / 'x'}", "trials=1"]
    assert tune_main([*given, "device=cuda:99"]) == 2
    assert "device=cuda:99: this machine has" in capsys.readouterr().err
    assert not list((tmp_path / "x").glob("*.yaml")) and not list((tmp_path / "x").glob("optuna*"))


@pytest.mark.slow
def test_a_search_finds_a_rate_that_works_and_prunes_one_that_stays_at_the_floor(tuned):
    _, trials, _, _ = tuned
    assert [float(trial["algo.learning_rate"]) for trial in trials] == RATES
    assert [trial["state"] for trial in trials if trial["algo.learning_rate"] == "1e-09"] == ["pruned"]
    values = {trial["algo.learning_rate"]: float(trial["value"]) for trial in trials}
    assert max(values.values()) == 1.0 and values["1e-09"] < 0.7


@pytest.mark.slow
def test_a_killed_search_continues_without_repeating_a_finished_trial(tuned):
    folder, trials, first, second = tuned
    finished = set(re.findall(r"trial (\d): algo", first))
    again = set(re.findall(r"trial (\d): algo", second))
    # the kill can fall between a trial's record and the line about it: such a trial is shown by neither command
    unseen = {trial["trial"] for trial in trials} - finished - again
    assert len(finished) >= 1 and finished.isdisjoint(again) and len(unseen) <= 2 and len(trials) == 6
    for number in finished | unseen:
        (log,) = folder.glob(f"logs/*={float(trials[int(number)]['algo.learning_rate'])}-s0.log")
        assert log.read_text().count(" training  ppo") == 1


@pytest.mark.slow
def test_the_best_settings_are_a_file_for_train_and_a_command_with_fresh_seeds(tuned):
    folder, trials, _, shown = tuned
    best = max((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: float(trial["value"]))
    file = folder / "best-memory-len-gru.yaml"
    config = parse([f"config={file}"])
    assert config.algo.learning_rate == float(best["algo.learning_rate"])
    assert (config.env.name, config.policy.name, config.policy.width, config.steps) == ("memory-len", "gru", 16, 5120)
    assert yaml.safe_load(file.read_text())["evaluate_every"] == 512
    assert "is optimistic" in shown and "config=x/best-memory-len-gru.yaml" in shown
    (line,) = re.findall(r"-m rmt_rl\.compare (.*)", shown)
    cells = expand(parse_compare(shlex.split(line))[1])
    assert [cell.seed for cell in cells] == [1, 2, 3, 4, 5]
    assert all(
        (cell.config.algo, cell.config.policy, cell.config.env) == (config.algo, config.policy, config.env)
        for cell in cells
    )
