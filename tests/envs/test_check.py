"""Every check finds the bug that was planted for it, and says in a sentence what is wrong."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl.envs.check import check, main, maker
from rmt_rl.envs.tmaze import TMaze

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


class GoesOn(Sound):
    """A second reset does not start over."""

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed if self._seed is None else None)


class RowsDepend(Sound):
    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return super().reset(seed=seed + self.num_envs if isinstance(seed, int) else seed)


class NoAutoreset(Sound):
    """The last observation comes back instead of the first one of the next episode."""

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


class WritesAgain(Sound):
    _shown: torch.Tensor | None = None

    def step(self, action_B: Any) -> Any:
        obs, *rest = super().step(action_B)
        self._shown = obs.clone() if self._shown is None else self._shown.copy_(obs)
        return (self._shown, *rest)


class GlobalStream(Sound):
    def step(self, action_B: Any) -> Any:
        torch.rand(1)
        return super().step(action_B)


class TakesAnything(Sound):
    def step(self, action_B: Any) -> Any:
        return super().step(action_B.clamp(0, 3))


class NeedsNoReset(Sound):
    def step(self, action_B: Any) -> Any:
        if self._seed is None:
            self.reset(seed=0)
        return super().step(action_B)


class Upside(Sound):
    floor, ceiling = 1.0, 0.5


class Fails(Sound):
    def step(self, action_B: Any) -> Any:
        raise KeyError("nothing here")


@pytest.mark.parametrize(
    ("planted", "claim", "found"),
    [
        (WrongDtype, "shapes, dtypes", "reward has dtype torch.float32; expected torch.float64"),
        (Outside, "inside the declared space", "an observation lies outside Box"),
        (NotANumber, "finite", "NaN or infinity in an observation or a reward at step"),
        (Unseeded, "the same seed", "two environments with seed 3 and equal actions differ at step"),
        (OneSeedForAll, "another seed", "seeds 3 and 300 give the same 300 steps"),
        (GoesOn, "starts over", "a second reset(seed=3) does not give the episodes of the first"),
        (RowsDepend, "own seed only", "the first two rows differ at step"),
        (NoAutoreset, "first observation of the next", "its next episode begins with"),
        (WrongFlags, "final_obs and the flags", 'info["_final_obs"] is not terminated | truncated at step 1'),
        (EarlySuccess, "success comes with", "success in a row whose episode goes on (step 1)"),
        (ForgetsEpisodes, "a saved state", "a fresh environment does not go on to the same bits"),
        (WritesAgain, "never written again", "handed out was written to later"),
        (GlobalStream, "no global random stream", "the global random stream of torch is used"),
        (TakesAnything, "a bad action", "an action too large is taken without a ValueError"),
        (NeedsNoReset, "before the first reset", "does not raise a RuntimeError"),
        (Upside, "floor and ceiling", "floor is 1.0 and ceiling 0.5"),
        (Fails, "finite", "KeyError: 'nothing here' ("),
    ],
)
def test_a_planted_bug_is_found_by_its_check(planted: Any, claim: str, found: str) -> None:
    wrong = {result.claim: result.found for result in check(planted) if result.verdict == "wrong"}
    assert [found in text for name, text in wrong.items() if claim in name] == [True], wrong


def test_nothing_is_found_where_nothing_is_wrong() -> None:
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


def test_a_class_of_gymnasium_is_checked_behind_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dice", sys.modules[__name__])
    results = {result.claim: result for result in check(maker("dice:Dice", {}))}
    assert "numpy.random" in results["no global random stream is touched"].found
    assert results["the same seed gives the same episodes"].verdict == "wrong"
    late = results["the step that ends an episode returns the first observation of the next"]
    assert (late.verdict, results["final_obs and the flags agree"].verdict) == ("not checked", "not checked")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tmaz"], "did you mean tmaze?"),
        (["nowhere:Maze"], "No module named 'nowhere'; expected a module that can be imported from here"),
        (["json:loads"], "expected a class that is a TorchVectorEnv or a gymnasium.Env, found a function"),
        (["json:nothing"], "found nothing of that name"),
        (["tmaze", "lenght=3"], "did you mean length?"),
        (["tmaze", "length"], "length: expected option=value"),
        (["tmaze", "length=}"], "length=}: expected a plain value"),
        (["Nothing-v0"], "gymnasium knows no such environment"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1


def test_the_command_says_what_is_wrong_and_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rmt_rl.envs.tmaze import TMaze\n"
        "class Mine(TMaze):\n"
        "    def step(self, action):\n"
        "        return super().step(action.clamp(0, 3))\n"
    )
    command = [sys.executable, "-m", "rmt_rl.envs.check", "mine:Mine", "length=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-1] == "mine:Mine: 15 ok, 0 not checked, 1 wrong"
    assert "an action too large is taken without a ValueError" in done.stdout
