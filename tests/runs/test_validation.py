"""Evaluation during training: it changes no bit of the training, keeps the best policy, and can end the run."""

import json
import shutil

import pytest
import torch

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.rng import seed
from rmt_rl.policies.saving import load_policy, make_task, save_policy
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.runs.setup import crossed_multiple

pytestmark = pytest.mark.slow

TINY = {"env": "tmaze", "policy": "rmt", "steps": 900, "evaluate_episodes": 12, "validation_episodes": 10}
TINY |= {"env.length": 3, "policy.width": 16, "algo.num_envs": 8, "algo.rollout": 12, "algo.minibatches": 2}
RATE = {"env": "tmaze-rate", "algo": "rate", "policy": "lstm", "steps": 400, "evaluate_episodes": 12}
RATE |= {"env.length": 4, "policy.width": 8, "algo.batch": 8, "validation_episodes": 10}


def weights(result):
    return result.policy.state_dict()


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


class Record:
    """Notes the hooks that are called, and stops the run after `stop_after` updates."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def on_update(self, run):
        self.calls.append(("update", run.steps, run.row["steps"]))
        if len([call for call in self.calls if call[0] == "update"]) == self.stop_after:
            run.stop("enough")

    def on_evaluate(self, run, score):
        self.calls.append(("evaluate", run.steps, score.episodes))

    def on_end(self, run, result):
        self.calls.append(("end", run.steps, result["steps"]))


@pytest.mark.parametrize("options", [TINY, TINY | {"policy.dropout": 0.2}, RATE], ids=["ppo", "dropout", "rate"])
def test_evaluations_change_no_bit_of_the_training(options, tmp_path):
    without = rmt_rl.train(root=tmp_path, **options)
    with_them = rmt_rl.train(root=tmp_path, **options, evaluate_every=1)
    assert same(weights(without), weights(with_them))
    for name, column in without.metrics.items():
        if name != "wall_s":
            assert column.tolist() == pytest.approx(with_them.metrics[name].tolist(), rel=0, abs=0, nan_ok=True), name
    assert len(with_them.metrics["eval_success"]) == len(without.metrics["steps"]) > 2
    assert without.score == with_them.score


def test_the_best_and_the_last_policy_are_saved_and_scored_on_the_same_new_episodes(tmp_path):
    result = rmt_rl.train(root=tmp_path, **TINY, evaluate_every=200)
    saved = json.loads((result.folder / "result.json").read_text())
    scores = result.metrics["eval_success"]
    assert saved["best"]["steps"] == result.metrics["steps"][scores == scores[scores == scores].max()][0]
    for name, score in (("policy", saved["eval"]), ("best", saved["best"]["eval"])):
        policy = load_policy(result.folder / name)
        played = evaluate(policy, make_task(policy, rows=8), 12)
        assert (played.success, played.mean_length) == (score["success"], score["mean_length"])
        assert len(score["ci95"]) == len(score["return_ci95"]) == 2
    assert result.best.success == saved["best"]["eval"]["success"]


def test_evaluation_during_training_plays_other_episodes_than_the_final_one():
    for run_seed in range(20):
        assert abs(seed(seed(run_seed, "validation"), "evaluate") - seed(run_seed, "evaluate")) > 10_000


def test_evaluations_take_place_at_multiples_and_at_the_last_step(tmp_path):
    record = Record()
    rmt_rl.train(root=tmp_path, **TINY, evaluate_every=300, callbacks=[record])
    assert [steps for hook, steps, _ in record.calls if hook == "evaluate"] == [384, 672, 960]
    assert not crossed_multiple(None, 0, 10)
    assert [crossed_multiple(100, a, b) for a, b in ((0, 99), (0, 100), (99, 101), (100, 199))] == [
        False,
        True,
        True,
        False,
    ]


def test_a_run_stops_when_until_success_is_reached_and_reports_why(tmp_path, capsys):
    """With success 0.1 as the goal, an untrained policy is good enough."""
    options = TINY | {"env.length": 1, "steps": 100_000}
    result = rmt_rl.train(root=tmp_path, **options, evaluate_every=96, **{"until.success": 0.1})
    assert result.summary["stopped"] == "until.success=0.1 reached"
    assert result.summary["steps"] < 5_000 and not result.summary["interrupted"]
    assert result.score is not None and result.best is not None
    assert "stopped: until.success=0.1 reached" in capsys.readouterr().out


def test_until_needs_evaluations_and_a_task_that_reports_success(tmp_path):
    with pytest.raises(
        ConfigError, match=r"until\.success=0\.9: needs evaluations during training; give evaluate_every"
    ):
        rmt_rl.train(root=tmp_path, **TINY, **{"until.success": 0.9})
    options = TINY | {"env": "gym", "env.id": "CartPole-v1", "policy": "lstm", "policy.width": 8}
    del options["env.length"]
    with pytest.raises(ConfigError, match=r"env=gym reported no success in \d+ episodes; use until\.mean_return"):
        rmt_rl.train(root=tmp_path, **options, evaluate_every=96, **{"until.success": 0.9})
    result = rmt_rl.train(root=tmp_path, **options, evaluate_every=96, **{"until.mean_return": 1.0})
    assert result.summary["stopped"] == "until.mean_return=1.0 reached"


class OnEnd:
    def on_end(self, run, result):
        pass


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Record(), "callbacks=.*: expected a list, such as callbacks="),
        (None, "callbacks=null: expected a list"),
        ([Record], "Record.* is a class; expected an object"),
        ([lambda run: None], "has none of on_update, on_evaluate and on_end; expected an object"),
        (["on_update"], "callbacks: on_update has none of"),
    ],
)
def test_callbacks_that_would_not_be_called_are_rejected_before_the_run(callbacks, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        rmt_rl.train(root=tmp_path, **TINY, callbacks=callbacks)
    assert not list(tmp_path.iterdir())


def test_callbacks_may_come_from_a_generator_and_reasons_may_be_anything(tmp_path):
    class Stop:
        def on_update(self, run):
            run.stop({"two\nlines": 2}) if run.steps >= 192 else None

    result = rmt_rl.train(root=tmp_path, **TINY, callbacks=(callback for callback in [Stop()]))
    assert (result.summary["steps"], result.summary["stopped"]) == (192, "{'two\\nlines': 2}")


def test_callbacks_are_called_after_updates_evaluations_and_the_end_in_this_order(tmp_path):
    record = Record()
    rmt_rl.train(root=tmp_path, **TINY | {"steps": 288}, evaluate_every=192, callbacks=[record, OnEnd()])
    assert record.calls == [
        ("update", 96, 96),
        ("evaluate", 192, 10),
        ("update", 192, 192),
        ("evaluate", 288, 10),
        ("update", 288, 288),
        ("end", 288, 288),
    ]


def test_a_callback_can_stop_a_run(tmp_path):
    record = Record(stop_after=2)
    result = rmt_rl.train(root=tmp_path, **TINY, callbacks=[record])
    assert (result.summary["steps"], result.summary["stopped"]) == (192, "enough")
    assert result.score.episodes == 2 and record.calls[-1] == ("end", 192, 192)
    assert (result.folder / "policy" / "model.safetensors").is_file()


class Killed(Exception):
    pass


class KillAt:
    """Ends the process, so to say, after the update that reaches `steps`."""

    def __init__(self, steps):
        self.steps = steps

    def on_update(self, run):
        if run.steps >= self.steps:
            raise Killed


@pytest.mark.parametrize("options", [TINY | {"policy": "lstm"}, TINY], ids=["lstm", "rmt"])
def test_a_resumed_run_keeps_the_best_score_and_ends_in_the_same_bits(options, tmp_path):
    options = options | {"checkpoint_steps": 192, "evaluate_every": 96}
    whole = rmt_rl.train(root=tmp_path, run="whole", **options)
    with pytest.raises(Killed):
        rmt_rl.train(root=tmp_path, run="killed", **options, callbacks=[KillAt(500)])
    resumed = rmt_rl.train(resume=tmp_path / "killed")
    assert same(weights(whole), weights(resumed))
    for name in ("best", "eval", "steps"):
        assert whole.summary[name] == resumed.summary[name], name
    ours, theirs = (load_policy(result.folder / "best").state_dict() for result in (whole, resumed))
    assert same(ours, theirs)
    assert whole.metrics["eval_return"].tolist() == resumed.metrics["eval_return"].tolist()


@pytest.mark.parametrize("change", ["deleted", "damaged", "other"])
def test_a_run_whose_best_policy_is_gone_chooses_it_anew(change, tmp_path, capsys):
    """Otherwise the run would end with an error after its last step, however often it is resumed."""
    options = TINY | {"policy": "lstm", "checkpoint_steps": 96, "steps": 400}

    with pytest.raises(Killed):
        rmt_rl.train(root=tmp_path, run="a", **options | {"evaluate_every": 300}, callbacks=[KillAt(400)])
    best = tmp_path / "a" / "best"
    if change == "deleted":
        shutil.rmtree(best)
    elif change == "damaged":
        (best / "config.json").write_text("{}")
    else:
        rmt_rl.save_policy(rmt_rl.make_policy(rmt_rl.make_env("tmaze", 2), "gru", width=8), best)
    config = (tmp_path / "a" / "config.yaml").read_text()
    (tmp_path / "a" / "config.yaml").write_text(config.replace("evaluate_every: 300", "evaluate_every: null"))
    result = rmt_rl.train(resume=tmp_path / "a")
    assert result.best is None and result.summary["best"] is None and result.score.episodes == 2
    assert "the best policy is chosen anew from here on" in capsys.readouterr().out


def test_a_full_disk_does_not_end_a_run_at_an_evaluation(tmp_path, monkeypatch, capsys):
    from rmt_rl.runs import setup

    def full(policy, folder):
        if folder.name == "best":
            raise OSError(28, "No space left on device")
        save_policy(policy, folder)

    monkeypatch.setattr(setup, "save_policy", full)
    result = rmt_rl.train(root=tmp_path, **TINY | {"steps": 200}, evaluate_every=96)
    assert result.best is None and result.score.episodes == 2
    assert "best was not written: No space left on device; the run continues without it" in capsys.readouterr().out


def test_a_resumed_run_does_not_replace_a_better_policy_from_before(tmp_path):
    """A best score that cannot be exceeded is written into the checkpoint of the killed run."""
    from rmt_rl.runs.setup import Evaluator

    options = TINY | {"checkpoint_steps": 192, "evaluate_every": 96}

    class Perfect(KillAt):
        def on_evaluate(self, run, score):
            self.evaluator.best |= {"success": 1.0, "mean_return": 2.0}

    perfect, make = Perfect(500), Evaluator.__init__

    def note(self, parts):
        make(self, parts)
        perfect.evaluator = self

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Evaluator, "__init__", note)
        rmt_rl.train(root=tmp_path, run="killed", **options, callbacks=[perfect])
    resumed = rmt_rl.train(resume=tmp_path / "killed")
    assert resumed.summary["best"]["steps"] == 96
