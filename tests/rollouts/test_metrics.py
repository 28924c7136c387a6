"""metrics=: numbers that environments report in the last info of an episode, averaged over episodes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import rmt_rl
from rmt_rl.config.resolve import make_config
from rmt_rl.envs.gym.adapter import VectorAdapter
from rmt_rl.envs.tasks.memory_len import MemoryLen
from rmt_rl.envs.wrappers.memory_scope import MemoryScope
from rmt_rl.evaluate import main as evaluate
from rmt_rl.rollouts.collector import Collector
from rmt_rl.rollouts.statistics import Episodes, EpisodeStats
from rmt_rl.runs.plots import learning_curve

SMALL = {"algo.num_envs": 2, "algo.rollout": 8, "algo.minibatches": 1, "algo.epochs": 1, "policy.width": 8}


class Walk(gymnasium.Env[Any, Any]):
    """Episodes of 2 or 3 steps, by the first draw of the row's generator. `distance` is their length."""

    observation_space: Any = spaces.Box(-1, 1, (1,), np.float32)
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t, self.length = 0, int(self.np_random.integers(2, 4))
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(1, np.float32), 1.0, self.t == self.length, False, self.info()

    def info(self) -> dict[str, Any]:
        # whole and real numbers, arrays of one number, a NaN, text, and a number that is a result at the last step only
        late = {"only_long": 7} if self.length == 3 else {}
        distance = np.array([self.t]) if self.t == self.length else -100
        return {"distance": distance, "half": self.t / 2, "nothing": math.nan, "word": "far", "pair": [1, 2], **late}


gymnasium.register("rmt-test/Walk-v0", entry_point=Walk)
ID = {"env.id": "rmt-test/Walk-v0"}


def make(rows: int = 4) -> Any:
    return rmt_rl.make_env("gym", rows, id="rmt-test/Walk-v0")


def test_the_last_info_of_an_episode_is_reported_and_nothing_before_it() -> None:
    env = make()
    env.reset(seed=0)
    seen = 0
    for _ in range(12):
        *_, terminated, _, info = env.step(torch.zeros(4, dtype=torch.int64))
        if bool(terminated.any()):
            assert torch.equal(info["_distance"], terminated) and info["distance"].dtype == torch.float64
            assert not {"word", "pair", "_word"} & info.keys()
            values = info["distance"][terminated]
            assert torch.equal(info["half"][terminated], values / 2) and bool(((values == 2) | (values == 3)).all())
            seen += len(values)
        else:
            assert not {"distance", "_distance"} & info.keys()
    assert seen >= 16


def test_collected_and_evaluated_episodes_have_their_metrics() -> None:
    env = make()
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    collector = Collector(env, policy, metrics=["distance", "only_long"])
    episodes = collector.collect(20)[1]
    assert torch.equal(episodes.metrics["distance"], episodes.lengths.double())
    long = episodes.lengths == 3
    assert bool(episodes.metrics["only_long"][~long].isnan().all()) and bool(
        (episodes.metrics["only_long"][long] == 7).all()
    )
    score = rmt_rl.evaluate(policy, env, episodes=10, metrics="distance,only_long,nothing")
    assert score.metrics == {"distance": pytest.approx(score.mean_length), "only_long": 7.0, "nothing": None}
    found = score.to_json(each=True)
    assert found["metrics"] == score.metrics and found["each_metrics"]["distance"] == score.each.lengths.tolist()
    assert found["each_metrics"]["nothing"] == [None] * 10
    json.dumps(found, allow_nan=False)
    assert rmt_rl.evaluate(policy, env, episodes=4).to_json()["metrics"] == {}


def test_an_episode_that_was_cut_is_not_counted() -> None:
    env = make()
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    score = rmt_rl.evaluate(policy, env, episodes=20, episode_steps=2, metrics="distance")
    assert 0 < score.cut < 20 and score.metrics == {"distance": 2.0}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_vector_environments_report_their_metrics(mode: AutoresetMode) -> None:
    env = VectorAdapter(SyncVectorEnv([Scalars] * 4, autoreset_mode=mode))
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    episodes = Collector(env, policy, metrics=["distance"]).collect(20)[1]
    assert len(episodes.returns) > 10 and torch.equal(episodes.metrics["distance"], episodes.lengths.double())


class Scalars(Walk):
    def info(self) -> dict[str, Any]:
        return {"distance": float(self.t)}


def test_the_metrics_of_trials_are_those_of_their_inner_episodes_in_training() -> None:
    env = MemoryScope(make(), 2)
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    episodes = Collector(env, policy, metrics=["distance"]).collect(20)[1]
    assert torch.equal(episodes.metrics["distance"], episodes.lengths.double())


def test_tensors_of_a_batched_environment_are_metrics() -> None:
    class Counting(MemoryLen):
        def _advance(self, state: Any, action: Any) -> Any:
            changes, reward, terminated, info = super()._advance(state, action)
            return changes, reward, terminated, {**info, "steps_done": state["t"] + 1}

    env = Counting(4, "cpu", length=3)
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    episodes = Collector(env, policy, metrics=["steps_done"]).collect(8)[1]
    assert len(episodes.lengths) and torch.equal(episodes.metrics["steps_done"], episodes.lengths.double())


def test_the_means_are_over_the_latest_episodes_that_report_a_number() -> None:
    def some(values: list[float]) -> Episodes:
        n = len(values)
        x = torch.tensor(values, dtype=torch.float64)
        return Episodes(torch.zeros(n).double(), torch.ones(n), torch.full((n,), math.nan).double(), {"distance": x})

    stats = EpisodeStats(10**6, ["distance"])
    assert stats.means()["metrics/distance"] is None
    stats.add(some([1.0, math.nan, 4.0]))
    assert stats.means()["metrics/distance"] == 2.5
    again = EpisodeStats(10**6, ["distance"])
    again.load_state_dict(stats.state_dict())
    assert again.means() == stats.means()
    with pytest.raises(ValueError, match="episodes has shape"):
        EpisodeStats(10**6).load_state_dict(stats.state_dict())
    endless = {"episodes": torch.tensor([[0.0, 1.0, 2.0, math.inf]], dtype=torch.float64)}
    with pytest.raises(ValueError, match="episodes has metrics that are infinite"):
        again.load_state_dict(endless)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("distanc", "finite number distanc in its last info; they report distance, half, .*; did you mean distance"),
        ("word", "finite number word in its last info; they report distance"),
        ("nothing", "finite number nothing in its last info; they report .*nothing[^;]*$"),
    ],
)
def test_a_name_that_no_first_episode_reports_is_one_sentence(name: str, sentence: str) -> None:
    env = make()
    policy = rmt_rl.make_policy(env, "mlp", width=8)
    with pytest.raises(rmt_rl.RunError, match=rf"^metrics={name}: none of the first \d+ episodes reports a {sentence}"):
        Collector(env, policy, metrics=[name]).collect(8)


def test_a_number_that_the_first_episodes_reported_may_be_missing_later() -> None:
    env = make()
    collector = Collector(env, rmt_rl.make_policy(env, "mlp", width=8), metrics=["distance"])
    nothing = Episodes(*torch.zeros(3, 2).double(), {"distance": torch.full((2,), math.nan).double()})
    assert len(collector.collect(4)[1].returns)
    collector._require_metrics(nothing, ["half"])
    resumed = Collector(env, collector.policy, metrics=["distance"])
    resumed.load_state_dict(collector.state_dict())
    resumed._require_metrics(nothing, ["half"])
    with pytest.raises(rmt_rl.RunError, match=r"^metrics=distance: none of the first 2 episodes"):
        Collector(env, collector.policy, metrics=["distance"])._require_metrics(nothing, ["half"])


@pytest.mark.parametrize(
    "metrics, sentence",
    [
        ("return", "metrics=return: return is measured anyway; leave it out"),
        ("a,b,a", "metrics=a,b,a: has a name twice"),
        ("[a]", r"metrics=\[a\]: expected names of numbers, separated by commas"),
        ("a,,b", "metrics=a,,b: expected names of numbers"),
        ("a, b", "metrics=a, b: expected names of numbers, separated by commas without spaces"),
    ],
)
def test_names_that_cannot_be_meant_are_one_sentence(metrics: str, sentence: str) -> None:
    with pytest.raises(rmt_rl.ConfigError, match=f"^{sentence}"):
        make_config(env="tmaze", metrics=metrics)
    with pytest.raises(rmt_rl.ConfigError, match=f"^{sentence}"):
        rmt_rl.evaluate("nowhere", metrics=metrics)


@pytest.mark.slow
def test_a_run_logs_draws_and_scores_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    how: dict[str, Any] = {"policy": "mlp", "evaluate_episodes": 6, "evaluate_every": 16, "validation_episodes": 4}
    how |= {"run": "walk", "device": "cpu", "metrics": "distance,only_long", **SMALL}
    result = rmt_rl.train(env=Walk, steps=32, **how)
    assert result.score is not None and 2 <= result.score.metrics["distance"] <= 3  # type: ignore[operator]
    assert result.summary["eval"]["metrics"] == result.score.metrics
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(row["metrics/distance"] == pytest.approx(row["length"]) for row in rows)
    assert all(2 <= row["eval_metrics/distance"] <= 3 for row in rows)
    again = rmt_rl.train(resume=result.folder, env=Walk, steps=48)
    assert len(again.metrics["metrics/only_long"]) == 3
    assert "distance 2." in capsys.readouterr().out
    drawn: list[str] = []
    import matplotlib.axes

    real = matplotlib.axes.Axes.set_ylabel
    monkeypatch.setattr(
        matplotlib.axes.Axes, "set_ylabel", lambda self, text, **more: (drawn.append(text), real(self, text, **more))
    )
    assert learning_curve(result.folder, None, None) is not None and drawn == ["return", "distance", "only long"]
    command = [
        f"policy={result.folder}",
        "env=gym",
        "env.id=rmt-test/Walk-v0",
        "episodes=4",
        "metrics=distance,nothing",
    ]
    assert evaluate(command) == 0
    printed = capsys.readouterr().out
    assert "  nothing not reported" in printed and '"metrics": {"distance": 2' in printed
