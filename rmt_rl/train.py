"""Train a memory agent: `python -m rmt_rl.train env=minigrid-memory algo=ppo`. The spine; read it from `train` downwards.

config -> environment (or recorded episodes) -> policy -> loop [ learn -> log ] -> evaluate -> save
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from rmt_rl.config import PPO, RATE, ConfigError, RunError, Train, as_typed, save_yaml, to_dict, validate

if TYPE_CHECKING:
    import torch

    from rmt_rl.algos.dataset import Dataset
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.resume import Saved


def train(config: Train, root: Path = Path("runs")) -> dict[str, Any]:
    """Train as `config` says, leave everything under `root`/<run>, and return what result.json holds."""
    if config.resume is None and config.run is not None and (root / config.run).exists():
        raise _taken(config.run, root / config.run)  # said before seconds go into imports
    from rmt_rl.algos.ppo import Online
    from rmt_rl.checkpoint import make_task, save_policy
    from rmt_rl.device import choose_device
    from rmt_rl.evaluate import evaluate
    from rmt_rl.log import check_loggers
    from rmt_rl.resume import Saved, sum_of, write_result

    check_loggers(config.tensorboard, config.wandb)
    device = choose_device(config.device)
    saved = None if config.resume is None else Saved.of(Path(config.resume))
    with contextlib.ExitStack() as open_things:  # nobody else has the folder until all is written
        if saved is not None:
            open_things.callback(saved.checkpoints.close)
        config, env, policy, data = begin(config, device, saved)
        open_things.callback(env.close)
        learner: Any
        if data is not None:
            from rmt_rl.algos.rate import RATE as Offline

            learner = Offline(policy, config.algo, data, config.seed, device)
        else:
            learner = Online(config, env, policy)

        if saved is None:
            folder = make_run_folder(config, root)
            save_yaml(config, folder / "config.yaml")
            saved = Saved.nothing(folder)
            open_things.callback(saved.checkpoints.close)
        else:
            folder = saved.checkpoints.run
            saved.put_back(learner)
        about = {
            **versions(config, device),
            "config": sum_of(folder / "config.yaml"),
            "resume": "exact" if learner.exact else "from_reset",
        }
        print("\n".join([banner(config, env, policy, device, folder, data), *saved.told(about)]), flush=True)
        made = learn(config, learner, saved, about)
        env.close()
        result = {
            "env": config.env.name,
            "algo": config.algo.name,
            "policy": config.policy.name,
            "seed": config.seed,
            **made,
            "eval": None,
            "floor": env.floor,
            "ceiling": env.ceiling,
        }
        score = None
        try:
            save_policy(policy, folder / "policy")
            if not result["interrupted"]:
                rows = min(config.evaluate_episodes, env.num_envs if data is None else 64)
                fresh = make_task(policy, config.env, rows, device)
                open_things.callback(fresh.close)
                try:
                    score = evaluate(policy, fresh, config.evaluate_episodes, config.seed)
                    result["eval"] = score.to_json()
                except KeyboardInterrupt:
                    result |= {"interrupted": True, "signal": int(signal.SIGINT)}
            write_result(result, folder)
            text = farewell(folder, config, env, score)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written: {error.strerror}; make room, then resume={folder}") from error
        print(text, flush=True)
    return result


def learn(config: Train, learner: Any, saved: Saved, about: dict[str, Any]) -> dict[str, Any]:
    """The loop, until the steps are made or a signal asks to stop; how far it came, and what that cost."""
    from rmt_rl.envs.workers import EnvironmentFault
    from rmt_rl.log import Metrics, Progress

    returns = learner.policy.spec["returns"]
    metrics = Metrics(saved.checkpoints.run, to_dict(config), saved.steps, saved.metrics)
    progress = Progress(config.steps, saved.steps)
    steps, wall, cpu = saved.steps, time.monotonic() - saved.wall_s, time.process_time() - saved.cpu_s

    def save() -> None:
        spent = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
        try:
            tree = {"learner": learner.state_dict(), "returns": returns, "metrics": metrics.length(), **spent}
            saved.checkpoints.save(steps, tree, about)
        except OSError as error:
            print(f"checkpoints/step-{steps} was not written: {error.strerror}; the run goes on without it", flush=True)

    try:
        with OnSignal() as signals:
            if saved.tree is None:
                save()
            while steps < config.steps and signals.stop is None:
                learned, row, shown = learner.learn(steps / config.steps)
                before, steps = steps, steps + learned
                metrics.write(steps, {**row, "wall_s": round(time.monotonic() - wall, 3)})
                progress.update(steps, shown)
                ends = steps >= config.steps or signals.stop is not None
                if ends or signals.asked() or passed(config.checkpoint_steps, before, steps):
                    save()
            chosen = learner.finish()
    except EnvironmentFault:
        save()  # the weights and all else but the episodes that were running, which nobody has any more
        raise
    finally:
        progress.close()  # gives the terminal its cursor back
        metrics.close()
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    return {
        "steps": steps,
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "steps_per_cpu_s": round(steps / cpu, 1),
        "interrupted": signals.stop is not None,
        "signal": signals.stop,
        **chosen,
    }


def begin(
    config: Train, device: torch.device, saved: Saved | None = None
) -> tuple[Train, TorchVectorEnv, ActorCritic, Dataset | None]:
    """What a run begins with: the configuration with all that was open decided, environment, policy and, for algo=rate, data.

    saved: where a run goes on; what `init` brought is in it then, and `init` itself need not be there any more.
    """
    import torch

    from rmt_rl import rng
    from rmt_rl.checkpoint import check_fits, load_policy, memory_config, returns_config
    from rmt_rl.envs.registry import make_from_config
    from rmt_rl.policies.actor_critic import ActorCritic, policy_spec
    from rmt_rl.policies.attention import check_backend
    from rmt_rl.policies.budget import fit_width

    begun = None
    if config.init is not None and saved is None:
        begun = load_policy(config.init, device, "init")
        if memory_config(begun) != config.memory:
            scope, expected = config.memory.scope, memory_config(begun).scope
            raise ConfigError(
                f"memory.scope={scope}: the policy of init remembers otherwise; expected memory.scope={expected}"
            )
        config = validate(dataclasses.replace(config, policy=begun.config))
    check_backend(config.policy, device)
    returns, data = None if begun is None else returns_config(begun), None
    if saved is not None:
        returns = saved.returns
    if isinstance(config.algo, RATE):
        need("algo=rate", "offline", "minari", "h5py", "torchrl", "tensordict")
        from rmt_rl.algos.dataset import load

        data = load(config)
        returns = data.returns(config.algo, begun is not None, returns) if saved is None else returns
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


def versions(config: Train, device: torch.device) -> dict[str, Any]:
    """What must be the same for the same bits."""
    import torch

    import rmt_rl

    return {
        "rmt_rl": rmt_rl.__version__,
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }


def passed(every: int | None, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies between; a matter of the steps alone, so that a resumed run saves at the same ones."""
    return every is not None and now // every > before // every


def need(what: str, extra: str, *packages: str) -> None:
    """Raise ConfigError where `what` is asked for and a package of an extra is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{what}: the package {package} is not installed; pip install 'rmt_rl[{extra}]'")


def prepare(threads: int) -> None:
    """Settings of the whole process, for programs and not for the library."""
    with _leaving_at_once():
        import torch

    from rmt_rl.allocator import keep_freed_memory

    keep_freed_memory()
    # torchrl tells of every storage that it makes; it reads the variable when it is imported
    os.environ.setdefault("RL_LOGGING_LEVEL", "WARNING")
    logging.getLogger("torchrl").setLevel(os.environ["RL_LOGGING_LEVEL"])
    torch.set_num_threads(threads)
    # cuDNN rounds the products of an LSTM to 10 bits by default; acting and learning would not compute the same policy then
    torch.backends.cudnn.allow_tf32 = False


@contextlib.contextmanager
def _leaving_at_once() -> Iterator[None]:
    """Ctrl-C ends the process here and now: an exception in the middle of an import ends in anything, and nothing is made yet."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
    lines.append("next:")
    if score is None:
        lines.append(f"  {python} -m rmt_rl.train {shlex.quote(f'resume={folder}')}    # go on from here")
    lines += [
        f"  {python} -m rmt_rl.evaluate {shlex.quote(f'policy={folder}')}",
        f"  {python} -m rmt_rl.train {task} policy={other}    # the same task with another memory",
    ]
    return "\n".join(lines)


class OnSignal:
    """Ctrl-C or SIGTERM: stop after this update; a second one leaves at once. SIGUSR1: a checkpoint after this update.

    Outside the main thread, where Python lets nobody handle signals, it does nothing. What was there before is put back at
    the end.
    """

    def __init__(self) -> None:
        #: The signal that asked to stop.
        self.stop: int | None = None
        self._asked = False

    def asked(self) -> bool:
        """Whether a checkpoint was asked for since the last call."""
        asked, self._asked = self._asked, False
        return asked

    def __enter__(self) -> OnSignal:
        mine = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
        main = threading.current_thread() is threading.main_thread()
        self._before = {s: signal.signal(s, self._handle) for s in mine} if main else {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            self._asked = True
            return
        if self.stop is not None:
            raise SystemExit(128 + number)
        self.stop = number
        print("\nstopping after this update, then saving; once more to leave at once", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    from rmt_rl.cli import help_text, parse

    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(help_text())
        return 0
    try:
        if threading.current_thread() is threading.main_thread():
            # before and after the loop there is nothing to save, but a dataset's copy to remove
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
            if hasattr(signal, "SIGUSR1"):
                signal.signal(signal.SIGUSR1, lambda number, frame: None)
        config = parse(argv)
        prepare(config.threads)
        result = train(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 128 + result["signal"] if result["interrupted"] else 0


if __name__ == "__main__":
    from rmt_rl.cli import run

    sys.exit(run(main))
