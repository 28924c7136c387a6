"""Every check finds a planted bug of its kind and reports what it found."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from commands import run

from rmt_rl.envs import check as command
from rmt_rl.envs.check import check, main, maker
from rmt_rl.envs.checks import vector_env
from rmt_rl.envs.checks.runner import Result, run_check
from rmt_rl.envs.checks.vector_env import CHECKS
from rmt_rl.envs.tmaze.passive import TMaze

LENGTH = 4


class Sound(TMaze):
    def __init__(self, num_envs: int, device: str = "cpu") -> None:
        super().__init__(num_envs, device, length=LENGTH)


class WrongDtype(Sound):
    def step(self, action_B: Any) -> Any:
        obs, reward, *rest = super().step(action_B)
        return (obs, reward.float(), *rest)


class Outside(Sound):
    def step(self, action_B: Any) -> Any:
        obs, *rest = super().step(action_B)
        return (obs * 2, *rest)


class NotANumber(Sound):
    def step(self, action_B: Any) -> Any:
        obs, reward, *rest = super().step(action_B)
        return (obs, torch.where(reward < 0, torch.nan, reward), *rest)


class Unseeded(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=[random.randrange(1000) for _ in range(self.num_envs)])


class OneSeedForAll(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=None if seed is None else [0] * self.num_envs)


class ContinuesAfterReset(Sound):
    """A second reset continues instead of starting from the beginning."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed if self._seed is None else None)


class RowsDepend(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed + self.num_envs if isinstance(seed, int) else seed)


class NoAutoreset(Sound):
    """Returns the last observation instead of the first one of the next episode."""

    def step(self, action_B: Any) -> Any:
        _, *rest = super().step(action_B)
        return (rest[-1]["final_obs"], *rest)


class WrongFlags(Sound):
    def step(self, action_B: Any) -> Any:
        *rest, info = super().step(action_B)
        return (*rest, info | {"_final_obs": torch.ones_like(info["_final_obs"])})


class EarlySuccess(Sound):
    def step(self, action_B: Any) -> Any:
        *rest, info = super().step(action_B)
        return (*rest, info | {"success": torch.ones_like(info["success"])})


class ForgetsEpisodes(Sound):
    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state | {"episode": torch.zeros_like(state["episode"])})


class ReusesTensors(Sound):
    _buffer: torch.Tensor | None = None

    def step(self, action_B: Any) -> Any:
        obs, *rest = super().step(action_B)
        self._buffer = obs.clone() if self._buffer is None else self._buffer.copy_(obs)
        return (self._buffer, *rest)


class GlobalStream(Sound):
    def step(self, action_B: Any) -> Any:
        torch.rand(1)
        return super().step(action_B)


class AcceptsAnyAction(Sound):
    def step(self, action_B: Any) -> Any:
        return super().step(action_B.clamp(0, 3))


class StepsWithoutReset(Sound):
    def step(self, action_B: Any) -> Any:
        if self._seed is None:
            self.reset(seed=0)
        return super().step(action_B)


class FloorAboveCeiling(Sound):
    floor, ceiling = 1.0, 0.5


class InPercent(Sound):
    floor, ceiling = 50.0, 100.0


class WrongMeasure(Sound):
    measure = "sucess"  # type: ignore[assignment]


class NoSuccess(Sound):
    def step(self, action_B: Any) -> Any:
        *rest, info = super().step(action_B)
        return (*rest, {key: value for key, value in info.items() if key != "success"})


class LostFinalObs(Sound):
    """The environment is reset before the last observation is copied."""

    def step(self, action_B: Any) -> Any:
        obs, *rest, info = super().step(action_B)
        return (obs, *rest, info | {"final_obs": obs})


class RewardOfRow0(Sound):
    def step(self, action_B: Any) -> Any:
        obs, reward, *rest = super().step(action_B)
        return (obs, reward[:1].repeat(self.num_envs), *rest)


class FirstSeedOnly(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed[0] if isinstance(seed, list) else seed)


class RepeatsEpisodes(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=0 if seed is None else seed)


class AcceptsFloats(Sound):
    def step(self, action_B: Any) -> Any:
        return super().step(action_B.long())


class ModifiesActions(Sound):
    def step(self, action_B: Any) -> Any:
        back = super().step(action_B)
        action_B.zero_()
        return back


class WrongOracle(Sound):
    def oracle(self) -> torch.Tensor:
        return torch.zeros(self.num_envs, dtype=torch.int64)


class InvalidOracle(Sound):
    def oracle(self) -> torch.Tensor:
        return torch.full((self.num_envs,), 4)


class Fails(Sound):
    def step(self, action_B: Any) -> Any:
        raise KeyError("nothing here")


@pytest.mark.parametrize(
    ("planted", "claim", "found"),
    [
        (WrongDtype, "shapes, dtypes", "reward has dtype torch.float32; expected torch.float64"),
        (Outside, "inside the observation space", "an observation is outside Box"),
        (NotANumber, "finite", "NaN or infinity in an observation or a reward at step"),
        (Unseeded, "the same seed gives", "two environments with seed 3 and equal actions differ at step"),
        (OneSeedForAll, "different seeds", "seeds 3 and 300 give the same 300 steps"),
        (
            ContinuesAfterReset,
            "starts from the beginning",
            "a second reset(seed=3) does not repeat the episodes of the first",
        ),
        (RowsDepend, "its own seed", "the first two rows differ at step"),
        (NoAutoreset, "first observation of the next", "its next episode starts with"),
        (WrongFlags, "final_obs and the episode flags", 'info["_final_obs"] is not terminated | truncated at step 1'),
        (EarlySuccess, "success is true only", "success is true in a row whose episode continues (step 1)"),
        (ForgetsEpisodes, "a restored state", "a new environment does not continue bit for bit"),
        (ReusesTensors, "never modified", "returned was modified later"),
        (GlobalStream, "no global random generator", "the global generator of torch is used"),
        (AcceptsAnyAction, "an invalid action", "an action above the range does not raise ValueError"),
        (StepsWithoutReset, "before the first reset", "raises no error"),
        (FloorAboveCeiling, "floor and ceiling", "floor is 1.0 and ceiling is 0.5"),
        (Fails, "finite", "KeyError: 'nothing here' ("),
        (InPercent, "floor and ceiling", "floor is 50.0; a success rate is between 0 and 1"),
        (WrongMeasure, "shapes, dtypes", 'measure is \'sucess\'; expected "success" or "return"'),
        (NoSuccess, "shapes, dtypes", 'info has no "success", which is the measure; add it, or set measure = "return"'),
        (
            LostFinalObs,
            "final_obs and the episode flags",
            "is the first observation of the next episode at all 16 ends",
        ),
        (RewardOfRow0, "its own seed", "row 1 of seed 5 differs at step"),
        (FirstSeedOnly, "its own seed", "reset(seed=[5, 300, ...]) and reset(seed=[5, 6, ...]) give the same episodes"),
        (RepeatsEpisodes, "different seeds", "two resets without a seed give the same 300 steps"),
        (AcceptsFloats, "an invalid action", "an action of dtype float does not raise ValueError"),
        (ModifiesActions, "never modified", "step 1 modified its action argument"),
        (WrongOracle, "the oracle", "the oracle fails in the episode that ends at step 5, but the ceiling is 1"),
        (InvalidOracle, "the oracle", "oracle() returns an action outside Discrete(4) at step 0: [4, 4, 4, 4]"),
    ],
)
def test_a_planted_bug_is_found_by_its_check(planted: Any, claim: str, found: str) -> None:
    (its_check,) = [each for each in CHECKS if claim in each.claim]
    result = run_check(its_check.claim, lambda: its_check.run(planted))
    assert result.verdict == "wrong" and found in result.found, result


@pytest.mark.slow
def test_all_checks_of_a_correct_environment_are_ok() -> None:
    assert {result.verdict for result in check(Sound)} == {"ok"}


class Dice(gymnasium.Env[Any, Any]):
    """A gymnasium environment that draws from numpy's global stream."""

    observation_space = gymnasium.spaces.Discrete(6)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return int(np.random.randint(6)), {}

    def step(self, action: Any) -> Any:
        return int(np.random.randint(6)), 0.0, False, False, {}


@pytest.mark.slow
def test_a_gymnasium_class_is_checked_behind_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dice", sys.modules[__name__])
    results = {result.claim: result for result in check(*maker("dice:Dice", {}))}
    assert "numpy.random" in results["no global random generator is used"].found
    assert results["the same seed gives the same episodes"].verdict == "wrong"
    late = results["the step that ends an episode returns the first observation of the next one"]
    assert (late.verdict, results["final_obs and the episode flags agree"].verdict) == ("not checked", "not checked")


class Sane(gymnasium.Env[Any, Any]):
    """A correct gymnasium environment; the subclasses below have one bug each."""

    observation_space: Any = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space: Any = gymnasium.spaces.Discrete(2)

    def obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.obs(), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return self.obs(), 0.0, self.t >= 10, False, {}


class ResetOnlyObs(Sane):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0]


class OldReset(Sane):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class OldStep(Sane):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class RewardArray(Sane):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, np.zeros(1), *rest


class Doubles(Sane):
    def obs(self) -> Any:
        return super().obs().astype(np.float64)


class Pixels(Sane):
    observation_space = gymnasium.spaces.Box(0, 255, (3,), np.uint8)


class Lists(Sane):
    def obs(self) -> Any:
        return super().obs().tolist()


class Far(Sane):
    def obs(self) -> Any:
        return super().obs() * 5


class Halves(Sane):
    observation_space = gymnasium.spaces.Discrete(3, start=1)

    def obs(self) -> Any:
        return 0


class Incomplete(Sane):
    observation_space = gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2), b=gymnasium.spaces.Discrete(2))

    def obs(self) -> Any:
        return {"a": 1}


class Reused(Sane):
    def obs(self) -> Any:
        if not hasattr(self, "kept"):
            self.kept = np.zeros(3, np.float32)
        self.kept[:] = super().obs()
        return self.kept


class NoSpace(Sane):
    observation_space = None


class Exits(Sane):
    def step(self, action: Any) -> Any:
        raise SystemExit(3)


class Hangs(Sane):
    def step(self, action: Any) -> Any:
        time.sleep(1000)


@pytest.mark.parametrize(
    ("mistaken", "found"),
    [
        (ResetOnlyObs, "reset returned an array float32 (3,); expected (observation, info)"),
        (OldReset, "expected reset(self, *, seed=None, options=None)"),
        (OldStep, "step returned a tuple of 4 values; expected (observation, reward, terminated, truncated, info)"),
        (RewardArray, "the reward is an array float64 (1,); expected a number"),
        (Doubles, "reset returned an observation of float64 (3,); the space has float32 (3,)"),
        (Pixels, "reset returned an observation of float32 (3,); the space has uint8 (3,)"),
        (Lists, "reset returned an observation that is a list of 3 values; the space has numpy arrays float32 (3,)"),
        (Far, "an observation outside its space Box(-1.0, 1.0, (3,), float32): "),
        (Halves, "reset returned an observation outside its space Discrete(3, start=1): 0"),
        (Incomplete, "reset returned an observation with the parts ['a']; the space has ['a', 'b']"),
        (Reused, "step 1 modified the previously returned observation; return a copy"),
        (NoSpace, "observation_space is None; expected a gymnasium.Space, set in the class or __init__"),
        (Exits, "SystemExit: 3 ("),
        (Hangs, "no result within 1 s; stopped at "),
    ],
)
def test_a_common_bug_is_reported_once_and_alone(mistaken: Any, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    monkeypatch.setattr("rmt_rl.envs.checks.runner.DEADLINE", 1)
    *results, last = check(*maker(f"mine:{mistaken.__name__}", {}))
    assert [result.verdict for result in results[:-1]] == ["ok"] * (len(results) - 1)
    assert results[-1].verdict == "wrong" and found in results[-1].found
    assert (last.claim, last.verdict) == ("the other checks", "not checked")


@pytest.mark.slow
def test_no_check_fails_for_a_correct_and_for_a_deterministic_gymnasium_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    for name in ("mine:Sane", "MiniGrid-Empty-5x5-v0"):
        assert not [result for result in check(*maker(name, {})) if result.verdict == "wrong"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tmaz"], "did you mean tmaze?"),
        (["env=tmaz"], "error: tmaz: expected a task of rmt_rl, an id of gymnasium, or module:Class"),
        (["json.loads"], "or module:Class"),
        (["nowhere:Maze"], "No module named 'nowhere'; expected a module that can be imported from here"),
        (
            ["json:loads"],
            "expected a class that is a TorchVectorEnv, another VectorEnv or a gymnasium.Env, found a function",
        ),
        (["json:nothing"], "found nothing of that name"),
        (["tmaze", "lenght=3"], "did you mean length?"),
        (["tmaze", "length"], "length: expected option=value"),
        (["tmaze", "length=}"], "length=}: expected a plain value"),
        (["Nothing-v0"], "Nothing-v0: expected a task of rmt_rl, an id of gymnasium, or module:Class"),
        (["CartPole-v1", "size=3"], "CartPole-v1: cannot be made with {'size': 3}: TypeError"),
    ],
)
def test_an_invalid_argument_is_reported_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), (["tmaze", "-h"], 0), ([], 2)])
def test_the_command_explains_itself(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == status
    assert capsys.readouterr().out.startswith("Checks an environment: `python -m rmt_rl.envs.check <name")


@pytest.mark.parametrize(
    ("verdicts", "status", "line"),
    [
        (["ok", "ok"], 0, "tmaze: 2 ok, 0 not checked, 0 wrong"),
        (["ok", "warning", "not checked"], 0, "tmaze: 1 ok, 1 warning, 1 not checked, 0 wrong"),
        (["wrong", "warning"], 1, "tmaze: 0 ok, 1 warning, 0 not checked, 1 wrong"),
    ],
)
def test_the_last_line_counts_the_verdicts_and_warnings_only_where_there_are_some(
    verdicts: list[str], status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [Result("a claim", verdict, "" if verdict == "ok" else "a finding") for verdict in verdicts]
    monkeypatch.setattr(command, "check", lambda make, raw: results)
    assert main(["env=tmaze"]) == status
    *shown, last = capsys.readouterr().out.splitlines()
    assert last == line
    assert shown == [text for v in verdicts for text in (f"{v:>11}  a claim", *[f"{'':13}a finding"] * (v != "ok"))]


class EndsInRow0(Sound):
    """All episodes but those of row 0 go on for ever."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, truncated, info = super().step(action)
        over = terminated & (torch.arange(self.num_envs) == 0)
        kept = torch.where(over[:, None], obs, info["final_obs"])
        return kept, reward, over, truncated, {**info, "_final_obs": over}


def test_the_next_episodes_are_not_checked_before_two_episodes_of_every_row_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vector_env, "PATIENCE", 30)
    result = run_check("", lambda: vector_env.autoreset_in_the_same_step(EndsInRow0))
    assert (result.verdict, result.found) == (
        "not checked",
        "a row had fewer than two episode ends in 30 random steps",
    )


class SeedsGlobally(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            random.seed(seed)
        return super().reset(seed=seed)


def test_a_global_generator_that_only_a_seed_touches_is_found() -> None:
    result = run_check("", lambda: vector_env.no_global_generator(SeedsGlobally))
    assert result.verdict == "wrong" and "the global generator of random is used" in result.found


@pytest.mark.slow
def test_the_command_prints_what_it_found_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rmt_rl.envs.tmaze.passive import TMaze\n"
        "class Mine(TMaze):\n"
        "    def step(self, action):\n"
        "        return super().step(action.clamp(0, 3))\n"
    )
    done = run("-m", "rmt_rl.envs.check", "mine:Mine", "length=3", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "mine:Mine: 16 ok, 0 not checked, 1 wrong"
    assert "an action above the range does not raise ValueError" in done.stdout


class ManyActions(Sane):
    action_space = gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))


def test_an_unsupported_space_is_reported_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])
    assert main(["mine:ManyActions"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "is not supported; supported are Discrete, MultiDiscrete" in err


def test_env_gym_with_an_id_is_checked_like_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec("Doubles-v0", entry_point=Doubles)
    monkeypatch.setitem(gymnasium.registry, "Doubles-v0", spec)
    by_id, behind_gym = list(check(*maker("Doubles-v0", {}))), list(check(*maker("gym", {"id": "Doubles-v0"})))
    assert by_id == behind_gym and "the space has float32" in by_id[2].found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tmaze-active", {"length": 20}),  # starts and, with random actions, ends with the same observation
        ("tmaze-active", {"length": 400}),
        ("tmaze", {"length": 400}),  # one bit in 300 steps
        ("memory-len", {"length": 400}),
        ("copy", {"length": 1, "symbols": 2, "delay": 400}),
    ],
)
def test_no_check_fails_for_a_correct_task_with_few_random_bits(name: str, options: dict[str, Any]) -> None:
    assert not [result for result in check(*maker(name, options)) if result.verdict == "wrong"]
