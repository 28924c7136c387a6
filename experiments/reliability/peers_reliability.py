"""What other libraries do where rmt_rl makes a promise: fault tests of what pip installs.

    pip install stable-baselines3 sb3-contrib
    python experiments/reliability/peers_reliability.py

Prints a markdown table. CartPole, PPO of stable-baselines3 (its default network), of torchrl (a loop as in its
examples, with its `Checkpoint` of loss, optimizer, collector and random streams) and ours (LSTM of width 32), some
hundred steps each. A library that waits for a hanging process is stopped after WAIT seconds. Tests of libraries that
are not installed are reported as such.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import json
import math
import os
import signal
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

WAIT, FLIPS = 30.0, 50
OURS = ["env=gym", "algo.num_envs=4", "algo.rollout=32", "policy=lstm", "policy.width=32", "evaluate_episodes=1"]


class Poisoned(gymnasium.Wrapper):  # type: ignore[type-arg]
    """CartPole whose 200th reward is NaN."""

    def __init__(self, env: gymnasium.Env[Any, Any] | None = None) -> None:
        super().__init__(env or gymnasium.make("CartPole-v1"))
        self.count = 0

    def step(self, action: Any) -> Any:
        obs, reward, *rest = self.env.step(action)
        self.count += 1
        return obs, math.nan if self.count == 200 else reward, *rest


gymnasium.register("rmt-probe/Poisoned-v0", entry_point=lambda: Poisoned(), disable_env_checker=True)


def quiet(work: Callable[[], Any]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return work()


def flips(place: Path, load: Callable[[], str]) -> str:
    """How often one flipped bit is detected, at FLIPS places across the file, or across all files of the folder."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    contents, undetected, texts = [path.read_bytes() for path in files], 0, []
    for i in range(FLIPS):
        at = (2 * i + 1) * sum(map(len, contents)) // (2 * FLIPS)
        for path, whole in zip(files, contents, strict=True):
            if 0 <= at < len(whole):
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
                texts.append(load())
                path.write_bytes(whole)
                undetected += texts[-1].startswith("loads")
            at -= len(whole)
    return f"detected {FLIPS - undetected} of {FLIPS} times, for instance: {max(texts, key=texts.count)}"


def outcome(work: Callable[[], Any]) -> str:
    try:
        quiet(work)
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:110]}"
    return "loads, nothing is reported"


# ------------------------------------------------------------------------------------------------- stable-baselines3


def sb3(env: Any = "CartPole-v1") -> Any:
    from stable_baselines3 import PPO

    return PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu", verbose=0)


def weights_of(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.policy.parameters()])


def sb3_resume(folder: Path) -> str:
    from stable_baselines3 import PPO

    whole = sb3().learn(512)
    sb3().learn(256).save(folder / "a.zip")
    resumed = PPO.load(folder / "a.zip", env=gymnasium.make("CartPole-v1")).learn(256, reset_num_timesteps=False)
    difference = float((weights_of(whole) - weights_of(resumed)).abs().max())
    return f"weights differ by up to {difference:.1e}" if difference else "the same bits"


def sb3_flip(folder: Path) -> str:
    from stable_baselines3 import PPO

    sb3().save(folder / "a.zip")
    return flips(folder / "a.zip", lambda: outcome(lambda: PPO.load(folder / "a.zip")))


def sb3_cut(folder: Path) -> str:
    from stable_baselines3 import PPO

    sb3().save(folder / "a.zip")
    data = (folder / "a.zip").read_bytes()
    (folder / "a.zip").write_bytes(data[: len(data) // 2])
    return outcome(lambda: PPO.load(folder / "a.zip"))


def sb3_killed(folder: Path) -> str:
    from stable_baselines3 import PPO

    model = sb3()
    model.save(folder / "a.zip")
    child = os.fork()
    if child == 0:
        write, count = zipfile.ZipFile.writestr, iter(range(100))

        def dying(*arguments: Any, **options: Any) -> None:
            if next(count) == 1:
                os._exit(9)
            write(*arguments, **options)

        zipfile.ZipFile.writestr = dying  # type: ignore[method-assign]
        model.save(folder / "a.zip")
        os._exit(0)
    os.waitpid(child, 0)
    text = outcome(lambda: PPO.load(folder / "a.zip"))
    return "the previous one is there" if text.startswith("loads") else f"the previous one is lost ({text})"


def sb3_poison(folder: Path) -> str:
    model = sb3(Poisoned())
    text = outcome(lambda: model.learn(512))
    return f"weights finite: {bool(weights_of(model).isfinite().all())}; {text.replace('loads, nothing', 'nothing')}"


# ---------------------------------------------------------------------------------------------------------- torchrl


class TorchRL:
    """PPO on CartPole."""

    def __init__(self, env: Any = None) -> None:
        from tensordict.nn import TensorDictModule
        from torch import nn
        from torchrl.checkpoint import Checkpoint, GlobalRNGState
        from torchrl.collectors import Collector
        from torchrl.envs import GymWrapper
        from torchrl.modules import ProbabilisticActor, ValueOperator
        from torchrl.objectives import ClipPPOLoss
        from torchrl.objectives.value import GAE

        def network(outputs: int) -> nn.Module:
            return nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, outputs))

        torch.manual_seed(0)
        env = GymWrapper(env or gymnasium.make("CartPole-v1"), categorical_action_encoding=True)
        env.set_seed(0)
        actor = ProbabilisticActor(
            TensorDictModule(network(2), ["observation"], ["logits"]),
            in_keys=["logits"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
            spec=env.action_spec,
        )
        critic = ValueOperator(network(1), in_keys=["observation"])
        self.gae = GAE(gamma=0.99, lmbda=0.95, value_network=critic)
        self.policy = self.loss = ClipPPOLoss(actor, critic)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), 3e-4)
        self.collector = Collector(
            env, actor, frames_per_batch=64, total_frames=10**6, auto_register_policy_transforms=True
        )
        self.checkpoint = Checkpoint(
            loss=self.loss, optimizer=self.optimizer, collector=self.collector, rng=GlobalRNGState()
        )

    def learn(self, steps: int) -> TorchRL:
        for batch in itertools.islice(self.collector, steps // 64):
            self.gae(batch)
            for part in (part for _ in range(2) for part in torch.randperm(64).chunk(2)):
                losses = self.loss(batch[part])
                self.optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
                self.optimizer.step()
        return self


def torchrl_resume(folder: Path) -> str:
    whole = TorchRL().learn(512)
    TorchRL().learn(256).checkpoint.save(folder / "a")
    resumed = TorchRL()
    resumed.checkpoint.load(folder / "a")
    difference = float((weights_of(whole) - weights_of(resumed.learn(256))).abs().max())
    return f"weights differ by up to {difference:.1e}" if difference else "the same bits"


def torchrl_flip(folder: Path) -> str:
    model = TorchRL().learn(64)
    model.checkpoint.save(folder / "a")
    return flips(folder / "a", lambda: outcome(lambda: model.checkpoint.load(folder / "a")))


def torchrl_cut(folder: Path) -> str:
    model = TorchRL().learn(64)
    model.checkpoint.save(folder / "a")
    file = max((folder / "a/components").rglob("*.memmap"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return outcome(lambda: model.checkpoint.load(folder / "a"))


def torchrl_killed(folder: Path) -> str:
    model = TorchRL().learn(64)
    model.checkpoint.save(folder / "a")
    child = os.fork()
    if child == 0:
        replace, count = os.replace, iter(range(100))

        def dying(*arguments: Any) -> None:
            if next(count) == 1:
                os._exit(9)
            replace(*arguments)

        os.replace = dying  # type: ignore[assignment]
        model.checkpoint.save(folder / "a")
        os._exit(0)
    os.waitpid(child, 0)
    text = outcome(lambda: model.checkpoint.load(folder / "a"))
    return "the previous one is there" if text.startswith("loads") else f"the previous one is not found ({text})"


def torchrl_poison(folder: Path) -> str:
    model = TorchRL(Poisoned())
    text = outcome(lambda: model.learn(512))
    return f"weights finite: {bool(weights_of(model).isfinite().all())}; {text.replace('loads, nothing', 'nothing')}"


# ------------------------------------------------------------------------------------------------------------- ours


def train_ours(folder: Path, *options: str) -> Any:
    from rmt_rl.config.cli import parse
    from rmt_rl.train import train

    return quiet(lambda: train(parse(options), root=folder))


def ours_resume(folder: Path) -> str:
    from rmt_rl.algos.ppo import PPOLearner

    options = ["env=tmaze", "env.length=5", *OURS[1:], "steps=512", "checkpoint_steps=256"]
    train_ours(folder, *options, "run=whole")
    collect, count = PPOLearner.collect, iter(range(100))

    def dying(self: Any, progress: float) -> Any:
        if next(count) == 3:
            raise KeyboardInterrupt
        return collect(self, progress)

    PPOLearner.collect = dying  # type: ignore[method-assign]
    with contextlib.suppress(KeyboardInterrupt):
        train_ours(folder, *options, "run=killed")
    PPOLearner.collect = collect  # type: ignore[method-assign]
    train_ours(folder, f"resume={folder / 'killed'}")
    same = [(folder / run / "policy/model.safetensors").read_bytes() for run in ("whole", "killed")]
    return "the same bits (T-maze; CartPole cannot save its state)" if same[0] == same[1] else "differs"


def checkpoint_of_ours(folder: Path) -> Path:
    train_ours(folder, "env=tmaze", *OURS[1:], "steps=256", "checkpoint_steps=128", "run=a")
    result = folder / "a/result.json"
    result.write_text(json.dumps({**json.loads(result.read_text()), "interrupted": True}))
    return folder / "a"


def ours_flip(folder: Path) -> str:
    run = checkpoint_of_ours(folder)
    return flips(run / "checkpoints/step-256/state.safetensors", lambda: resume_outcome(run))


def ours_cut(folder: Path) -> str:
    run = checkpoint_of_ours(folder)
    file = run / "checkpoints/step-256/state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return resume_outcome(run)


def resume_outcome(run: Path) -> str:
    from rmt_rl.runs.resume import ResumePoint

    point = ResumePoint.newest(run)
    point.checkpoints.close()
    return f"{point.damaged[0]}; step-{point.steps} is used" if point.damaged else "loads"


def ours_killed(folder: Path) -> str:
    from rmt_rl.runs.checkpoints import Checkpoints

    run = checkpoint_of_ours(folder)
    checkpoints = Checkpoints(run)
    _, tree, _, _ = checkpoints.newest()
    child = os.fork()
    if child == 0:
        write, count = os.write, iter(range(100))

        def dying(file: int, data: Any) -> int:
            if next(count) == 1:
                os._exit(9)
            return write(file, data)

        os.write = dying  # type: ignore[assignment]
        checkpoints.save(384, tree, {})
        os._exit(0)
    os.waitpid(child, 0)
    steps, _, _, damaged = checkpoints.newest()
    checkpoints.close()
    return "the previous one is there" if (steps, damaged) == (256, []) else f"{steps} {damaged}"


def ours_poison(folder: Path) -> str:
    text = outcome(
        lambda: train_ours(folder, "env=gym", "env.id=rmt-probe/Poisoned-v0", *OURS[1:], "steps=2048", "run=a")
    )
    return text.removeprefix("NotFinite: ")


# ------------------------------------------------------------------------------------------------ worker processes


class Sleepy(gymnasium.Wrapper):  # type: ignore[type-arg]
    """CartPole whose fifth step never ends."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.count = 0

    def step(self, action: Any) -> Any:
        self.count += 1
        if self.count == 5:
            os.kill(os.getpid(), signal.SIGSTOP)
        return self.env.step(action)


gymnasium.register("rmt-probe/Sleepy-v0", entry_point=Sleepy, disable_env_checker=True)


def hanging(make: Callable[[], Any], step: Callable[[Any], Any]) -> str:
    """What happens within WAIT seconds after the worker process of a row is stopped."""
    answer: list[str] = []

    def play() -> None:
        try:
            env = make()
            for _ in range(6):
                step(env)
        except BaseException as error:
            answer.append(f"{type(error).__name__}: {' '.join(str(error).split())[:110]}")

    thread = threading.Thread(target=play, daemon=True)
    begun = time.monotonic()
    thread.start()
    thread.join(WAIT)
    return f"after {time.monotonic() - begun:.0f} s {answer[0]}" if answer else f"still waiting after {WAIT:.0f} s"


def gymnasium_hang(folder: Path) -> str:
    from gymnasium.vector import AsyncVectorEnv

    def make() -> Any:
        env = AsyncVectorEnv([Sleepy, Sleepy])
        env.reset(seed=0)
        return env

    return hanging(make, lambda env: env.step(np.zeros(2, dtype=np.int64)))


def sb3_hang(folder: Path) -> str:
    from stable_baselines3.common.vec_env import SubprocVecEnv

    def make() -> Any:
        env = SubprocVecEnv([Sleepy, Sleepy])
        env.reset()
        return env

    return hanging(make, lambda env: env.step(np.zeros(2, dtype=np.int64)))


def torchrl_hang(folder: Path) -> str:
    from torchrl.envs import GymWrapper, ParallelEnv

    def make() -> Any:
        env = ParallelEnv(2, lambda: GymWrapper(Sleepy(), categorical_action_encoding=True))
        return env, env.reset()

    return hanging(make, lambda pair: pair[0].step(pair[0].rand_action(pair[1])))


def ours_hang(folder: Path) -> str:
    from rmt_rl import make_env

    def make() -> Any:
        env = make_env("gym", 2, id="rmt-probe/Sleepy-v0", workers="async", deadline=5.0)
        env.reset(seed=0)
        return env

    return hanging(make, lambda env: env.step(torch.zeros(2, dtype=torch.int64)))


PROBES: list[tuple[str, dict[str, Callable[[Path], str]]]] = [
    (
        "half a run, saved, loaded, continued: compared with the whole run",
        {"rmt_rl": ours_resume, "sb3": sb3_resume, "torchrl": torchrl_resume},
    ),
    ("one flipped bit in the saved file", {"rmt_rl": ours_flip, "sb3": sb3_flip, "torchrl": torchrl_flip}),
    ("the saved file is truncated in the middle", {"rmt_rl": ours_cut, "sb3": sb3_cut, "torchrl": torchrl_cut}),
    ("killed while it saves again", {"rmt_rl": ours_killed, "sb3": sb3_killed, "torchrl": torchrl_killed}),
    ("one reward is NaN", {"rmt_rl": ours_poison, "sb3": sb3_poison, "torchrl": torchrl_poison}),
    (
        "a worker process stops",
        {
            "rmt_rl": ours_hang,
            "sb3 SubprocVecEnv": sb3_hang,
            "torchrl ParallelEnv": torchrl_hang,
            "gymnasium AsyncVectorEnv": gymnasium_hang,
        },
    ),
]
PACKAGES = {"sb3": "stable_baselines3"}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print("| fault | library | what happens |\n|---|---|---|")
    for name, who in PROBES:
        for label, probe in who.items():
            library = label.split()[0]
            if importlib.util.find_spec(PACKAGES.get(library, library)) is None:
                print(f"| {name} | {label} | not installed |")
                continue
            with tempfile.TemporaryDirectory() as folder:
                found = quiet(lambda probe=probe, folder=folder: probe(Path(folder)))
            print(f"| {name} | {label} | {found} |".replace(folder, "..."), flush=True)
    os._exit(0)  # does not wait for threads that still hang


if __name__ == "__main__":
    main()
