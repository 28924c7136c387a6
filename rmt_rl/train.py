"""Train a memory agent: `python -m rmt_rl.train env=minigrid-memory algo=ppo`. The spine; read it from `train` downwards.

config -> environment (or recorded episodes) -> policy -> loop [ learn -> log ] -> evaluate -> save
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from rmt_rl.config import PPO, RATE, ConfigError, Train, as_typed, save_yaml, to_dict, validate

if TYPE_CHECKING:
    import torch

    from rmt_rl.algos.dataset import Dataset
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.policies.actor_critic import ActorCritic


def train(config: Train, root: Path = Path("runs")) -> dict[str, Any]:
    """Train as `config` says, leave everything under `root`/<run>, and return what result.json holds."""
    if config.run is not None and (root / config.run).exists():
        raise _taken(config.run, root / config.run)  # said before seconds go into imports
    from rmt_rl import rng
    from rmt_rl.algos.ppo import Online
    from rmt_rl.checkpoint import make_task, save_policy
    from rmt_rl.evaluate import evaluate
    from rmt_rl.log import Metrics, Progress, check_loggers

    check_loggers(config.tensorboard, config.wandb)
    device = choose_device(config.device)
    config, env, policy, data = begin(config, device)
    learner: Any
    if data is not None:
        from rmt_rl.algos.rate import RATE as Offline

        learner = Offline(policy, config.algo, data, rng.generator(config.seed, "batches"), device)
    else:
        learner = Online(config, env, policy)

    folder = make_run_folder(config, root)
    save_yaml(config, folder / "config.yaml")
    print(banner(config, env, policy, device, folder, data), flush=True)
    metrics, progress = Metrics(folder, to_dict(config)), Progress(config.steps)
    steps, wall, cpu = 0, time.monotonic(), time.process_time()
    try:
        with StopOnSignal() as stop:
            while steps < config.steps and not stop.requested:
                learned, row, shown = learner.learn(steps / config.steps)
                steps += learned
                metrics.write(steps, {**row, "wall_s": round(time.monotonic() - wall, 3)})
                progress.update(steps, shown)
            chosen = learner.finish()
    finally:
        progress.close()  # gives the terminal its cursor back
        metrics.close()
        env.close()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    save_policy(policy, folder / "policy")

    result: dict[str, Any] = {
        "env": config.env.name,
        "algo": config.algo.name,
        "policy": config.policy.name,
        "seed": config.seed,
        "steps": steps,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "steps_per_cpu_s": round(steps / cpu, 1),
        "eval": None,
        "floor": env.floor,
        "ceiling": env.ceiling,
        "interrupted": stop.requested,
        **chosen,
    }
    score = None
    if not stop.requested:
        rows = min(config.evaluate_episodes, env.num_envs if data is None else 64)
        fresh = make_task(policy, config.env, rows, device)
        try:
            score = evaluate(policy, fresh, config.evaluate_episodes, config.seed)
            result["eval"] = score.to_json()
        except KeyboardInterrupt:
            result["interrupted"] = True
        fresh.close()
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(farewell(folder, config, env, score), flush=True)
    return result


def begin(config: Train, device: torch.device) -> tuple[Train, TorchVectorEnv, ActorCritic, Dataset | None]:
    """What a run begins with: the configuration with all that was open decided, environment, policy and, for algo=rate, data."""
    import torch

    from rmt_rl import rng
    from rmt_rl.checkpoint import check_fits, load_policy, memory_config, returns_config
    from rmt_rl.envs.registry import make_from_config
    from rmt_rl.policies.actor_critic import ActorCritic, policy_spec
    from rmt_rl.policies.attention import check_backend
    from rmt_rl.policies.budget import fit_width

    begun = None
    if config.init is not None:
        begun = load_policy(config.init, device, "init")
        if memory_config(begun) != config.memory:
            scope, expected = config.memory.scope, memory_config(begun).scope
            raise ConfigError(
                f"memory.scope={scope}: the policy of init remembers otherwise; expected memory.scope={expected}"
            )
        config = validate(dataclasses.replace(config, policy=begun.config))
    check_backend(config.policy, device)
    returns, data = None if begun is None else returns_config(begun), None
    if isinstance(config.algo, RATE):
        need("algo=rate", "offline", "minari", "h5py", "torchrl", "tensordict")
        from rmt_rl.algos.dataset import load

        data = load(config)
        returns = data.returns(config.algo, begun is not None, returns)
    rows = config.algo.num_envs if isinstance(config.algo, PPO) else 1
    env = make_from_config(config.env, rows, device, config.memory, returns=returns)
    config = dataclasses.replace(config, policy=fit_width(env, config.env, config.policy))
    with torch.random.fork_rng(devices=[]):  # weights are drawn from the run's seed; the caller's stream stays
        torch.manual_seed(rng.seed(config.seed, "weights"))
        policy = ActorCritic(policy_spec(env, config.env, config.policy, config.memory, returns)).to(device)
    if begun is not None:
        check_fits(begun, env, config.env)
        policy.load_state_dict(begun.state_dict())
    return config, env, policy, data


def need(what: str, extra: str, *packages: str) -> None:
    """Raise ConfigError where `what` is asked for and a package of an extra is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what}: the package {package} is not installed; pip install 'rmt_rl[{extra}]'")


def choose_device(name: str) -> torch.device:
    """The device that `device=` names; auto is a GPU where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not (
        torch.cuda.is_available() and (torch.device(name).index or 0) < torch.cuda.device_count()
    ):
        raise ConfigError(
            f"device={name}: this machine has {torch.cuda.device_count()} GPUs that torch can use; take device=cpu"
        )
    return torch.device(name)


def prepare(threads: int) -> None:
    """Settings of the whole process, for programs and not for the library."""
    import torch

    from rmt_rl.allocator import keep_freed_memory

    keep_freed_memory()
    # torchrl tells of every storage that it makes; it reads the variable when it is imported
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")
    logging.getLogger("torchrl").setLevel(os.environ["RL_LOGGING_LEVEL"])
    torch.set_num_threads(threads)
    # cuDNN rounds the products of an LSTM to 10 bits by default; acting and learning would not compute the same policy then
    torch.backends.cudnn.allow_tf32 = False


def make_run_folder(config: Train, root: Path) -> Path:
    """A folder that did not exist before; never one that does."""
    name = config.run or f"{config.env.name}-{config.policy.name}-{config.algo.name}-s{config.seed}"
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{root}: cannot be made or is no folder: {error.strerror}") from error
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError as error:
            if config.run is not None:
                raise _taken(name, folder) from error
            number += 1
        except OSError as error:
            raise ConfigError(f"run={name}: {folder} cannot be made: {error.strerror}") from error


def _taken(name: str, folder: Path) -> ConfigError:
    return ConfigError(f"run={name}: {folder} exists already and is not written over; take another name")


def banner(
    config: Train, env: TorchVectorEnv, policy: ActorCritic, device: torch.device, folder: Path, data: Dataset | None
) -> str:
    """What is about to happen, for people."""
    parameters = sum(p.numel() for p in policy.parameters())
    lines = [("task", env.task or f"{config.env}")]
    if env.floor is not None and env.ceiling is not None:
        lines.append(("floor", f"{env.floor:.3f} {env.measure} without memory, {env.ceiling:.3f} with perfect memory"))
    lines += [
        ("policy", f"{config.policy.name}, width {config.policy.width}, {parameters:,} parameters"),
        ("memory", policy.backbone.memory),
        (
            "training",
            f"{config.algo.name}, {config.steps:,} steps, "
            + (
                f"{config.algo.batch} episodes a batch"
                if data
                else f"{config.algo.num_envs} rows x {config.algo.rollout}"
            ),
        ),
        *([("data", f"{config.data or 'the oracle, recorded now'}: {data}")] if data else []),
        ("device", f"{device}, {config.threads} thread{'s' if config.threads > 1 else ''}"),
        ("folder", str(folder)),
    ]
    return "\n".join(f"{name:>9}  {text}" for name, text in lines)


def farewell(folder: Path, config: Train, env: TorchVectorEnv, score: Any) -> str:
    """The result, what was written where, and what to type next."""
    from rmt_rl.evaluate import report
    from rmt_rl.report import learning_curve

    lines = [f"stopped early; what was learned is saved in {folder}"] if score is None else [report(score, env)]
    picture = learning_curve(folder, env.floor, env.ceiling, env.measure)
    if picture is not None:
        lines.append(f"learning curve: {picture}")
    # inside an environment that is not activated, a bare "python" would be another one
    python = "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)
    task = " ".join([f"env={config.env.name}", *as_typed("env", config.env), *as_typed("memory", config.memory)])
    if isinstance(config.algo, RATE):
        task += " algo=rate" + (f" {shlex.quote(f'data={config.data}')}" if config.data else "")
    other = "lstm" if config.policy.name == "rmt" else "rmt"
    lines += [
        "next:",
        f"  {python} -m rmt_rl.evaluate {shlex.quote(f'policy={folder}')}",
        f"  {python} -m rmt_rl.train {task} policy={other}    # the same task with another memory",
    ]
    return "\n".join(lines)


class StopOnSignal:
    """Turns the first Ctrl-C (or SIGTERM) into "stop after this update"; the second one leaves at once.

    Outside the main thread, where Python lets nobody handle signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopOnSignal:
        mine = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {s: signal.signal(s, self._handle) for s in mine}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this update, then saving; once more to leave at once", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    from rmt_rl.cli import help_text, parse

    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(help_text())
        return 0
    try:
        config = parse(argv)
        prepare(config.threads)
        result = train(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 130 if result["interrupted"] else 0


if __name__ == "__main__":
    from rmt_rl.cli import run

    sys.exit(run(main))
