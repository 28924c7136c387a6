"""What surrounds the training loop: building its parts, evaluation during training, and the end of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt_rl.algos.base import Learner
from rmt_rl.common import rng
from rmt_rl.common.device import choose_device
from rmt_rl.common.errors import ConfigError, Interrupted, RunError, Stopped
from rmt_rl.common.files import reason, sha256_file
from rmt_rl.common.process import require_packages
from rmt_rl.common.ranks import ALONE, Ranks, own_device
from rmt_rl.common.state import copy_tree
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import ReturnConditioning, TrainConfig, metric_names
from rmt_rl.config.envs import NoEnvConfig
from rmt_rl.config.files import save_yaml, to_dict
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.registry import entry_of
from rmt_rl.config.resolve import validate
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.objects import close_unless_borrowed, innermost, is_borrowed
from rmt_rl.envs.recorded import RecordedSpaces
from rmt_rl.envs.registry import make_from_config, wrap
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import fit_width
from rmt_rl.policies.moments import ActionScale
from rmt_rl.policies.saving import check_fits, load_policy, make_task, memory_config, save_policy
from rmt_rl.policies.spec import RULES, make_spec
from rmt_rl.policies.transformer import check_backend
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.rollouts.statistics import Score
from rmt_rl.runs.callbacks import Run, notify
from rmt_rl.runs.card import write_card
from rmt_rl.runs.console import banner, format_summary
from rmt_rl.runs.folder import make_run_folder, versions, write_result
from rmt_rl.runs.metrics import Metrics, check_loggers, read_rows
from rmt_rl.runs.resume import ResumePoint
from rmt_rl.runs.videos import check_drawable

#: Options for which a run makes an environment beside that of training, and what it is for.
BESIDE = {"evaluate_every": "evaluations", "video_every": "videos"}


class Clock:
    """Wall and CPU seconds of a run, those before it was resumed included. others: CPU-seconds of the other processes."""

    def __init__(self, wall: float, cpu: float) -> None:
        self._wall, self._cpu, self.others = time.monotonic() - wall, time.process_time() - cpu, 0.0

    def wall(self) -> float:
        return round(time.monotonic() - self._wall, 3)

    def cpu(self) -> float:
        return time.process_time() - self._cpu + self.others


@dataclasses.dataclass(frozen=True)
class RunParts:
    """The parts of a run.

    manifest: values that must stay the same for a resumed run to give the same bits. evaluation_env: that of the evaluations
    during training; None without them. video_env: that of the videos. ranks: the processes of the run; this is the first one.
    """

    config: TrainConfig
    env: TorchVectorEnv
    learner: Learner
    folder: Path
    resumed: ResumePoint
    metrics: Metrics
    clock: Clock
    manifest: dict[str, Any]
    device: torch.device
    evaluation_env: TorchVectorEnv | None
    video_env: TorchVectorEnv | None
    ranks: Ranks

    def save(self, steps: int, evaluator: Evaluator) -> None:
        """Write a checkpoint; a full disk is reported and the run continues."""
        self.clock.others = sum(self.ranks.collect(0.0))
        if problem := self._write(steps, self._tree(evaluator)):
            print(f"{problem}; the run continues without it", flush=True)

    @contextlib.contextmanager
    def keep_last_state(self, run: Run, evaluator: Evaluator) -> Iterator[None]:
        """One update: where an error or a signal ends it, the state before it is saved, so that a resumed run repeats it.

        After a signal the run has the steps and the weights of that state, and ends without an error. With several processes the
        state of all rows would have to be gathered for every update, so an error costs what follows the newest checkpoint.
        """
        if self.ranks.count > 1:
            yield
            return
        steps = run.steps
        last, weights = copy_tree(self._tree(evaluator)), copy_tree(self.learner.policy.state_dict())
        try:
            yield
        except Interrupted:
            run.steps = steps
            self.learner.policy.load_state_dict(weights)
            if problem := self._write(steps, last):
                print(problem, flush=True)
        except Stopped:
            raise
        except BaseException:  # sys.exit() or Ctrl-C of an environment with a window must not cost the run, either
            problem = self._write(steps, last)
            print(
                problem or f"the state after {steps:,} steps is saved; resume={self.folder} continues there", flush=True
            )
            raise

    def _tree(self, evaluator: Evaluator) -> dict[str, Any]:
        """What a checkpoint holds."""
        spec = self.learner.policy.spec
        return {
            "learner": self.learner.state_dict(),
            "returns": None if spec.returns is None else to_dict(spec.returns),
            "action_scale": None if spec.action_scale is None else spec.action_scale.to_json(),
            "rules": spec.rules,
            "metrics": self.metrics.length(),
            "metrics_sha256": self.metrics.checksum(),
            "wall_s": self.clock.wall(),
            "cpu_s": self.clock.cpu(),
            "best": evaluator.best,
        }

    def _write(self, steps: int, tree: dict[str, Any]) -> str | None:
        """Write a checkpoint; returns why it could not be written, or None."""
        try:
            self.metrics.sync()  # a checkpoint counts bytes of metrics.jsonl, which must not be lost after it
            self.resumed.checkpoints.save(steps, tree, self.manifest)
        except OSError as error:
            return f"checkpoints/step-{steps} was not written: {reason(error)}"
        return None


@dataclasses.dataclass(frozen=True)
class Built:
    """What every process of a run needs. resumed: None in a new run."""

    config: TrainConfig
    env: TorchVectorEnv
    learner: Learner
    device: torch.device
    data: Any
    resumed: ResumePoint | None


def build_learner(config: TrainConfig, ranks: Ranks, stack: contextlib.ExitStack) -> Built:
    """The learner with its data, environment and policy, before the state of a checkpoint is loaded; `stack` closes them."""
    if config.algo.requires:
        require_packages(f"algo={config.algo.name}", *config.algo.requires)
    learner_class: type[Learner] = entry_of(config.algo).load()
    shares_rows = "ranks" in inspect.signature(learner_class).parameters
    if ranks.count > 1 and not shares_rows:
        raise ConfigError(
            f"algo={config.algo.name}: runs in one process, found {ranks.count}; start it without torchrun"
        )
    device = own_device(choose_device(config.device), ranks)
    resumed = None
    if config.resume is not None:
        resumed = ResumePoint.newest(Path(config.resume), config.steps, lock=ranks.first)
        stack.callback(resumed.checkpoints.close)
    ranks.any(False)  # all have read the checkpoint before the first one changes the folder

    # data, environment, policy, learner
    together = {"ranks": ranks} if shares_rows else {}
    initial = load_initial(config, device) if resumed is None else None
    if initial is not None:
        memory = memory_beside(initial, config)
        config = validate(dataclasses.replace(config, policy=initial.config, memory=memory, memory_given=None))
    check_backend(config.policy, device)
    data = learner_class.load_data(config)
    returns = learner_class.return_conditioning(config, data, initial) if resumed is None else resumed.returns
    env = make_run_env(config, data, returns, device, ranks)
    stack.callback(close_unless_borrowed, config.env, env)
    check_object(config, env, device, ranks)
    scale = learner_class.action_scale(config, data, initial) if resumed is None else resumed.action_scale(env)
    config = dataclasses.replace(config, policy=fit_width(env, config.env, config.policy))
    rules = initial.spec.rules if initial is not None else RULES if resumed is None else resumed.rules
    policy = make_run_policy(config, env, returns, scale, device, rules)
    if initial is not None:
        check_fits(initial, env, config.env, values=True)
        policy.load_state_dict(initial.state_dict())
    learner = learner_class(config, env, policy, data, **together)
    return Built(config, env, learner, device, data, resumed)


def setup_run(config: TrainConfig, root: Path, stack: contextlib.ExitStack, ranks: Ranks = ALONE) -> RunParts:
    """Build or restore all parts of a run, in its first process; `stack` closes them. Raises ConfigError before anything is
    written."""
    check_loggers(config.tensorboard, config.wandb)
    for option, what in BESIDE.items():
        if (every := getattr(config, option)) is not None and is_borrowed(config.env):
            raise ConfigError(
                f"{option}={every}: {what} need an environment of their own, but env= is a single object; give a class or a"
                " function f(num_envs, device) that makes it"
            )
    built = build_learner(config, ranks, stack)
    config, env, learner, policy = built.config, built.env, built.learner, built.learner.policy
    device, data, resumed = built.device, built.data, built.resumed
    rows = min(config.validation_episodes, 64)
    evaluation_env = make_env_beside("evaluate_every", config, config.env, rows, policy, [env], stack)
    video_env = make_video_env(config, policy, [env, evaluation_env], stack)

    # a new folder, or the state of the checkpoint
    if resumed is None:
        folder = make_run_folder(config, root)
        with name_disk_errors(folder):
            save_yaml(dataclasses.replace(config, resume=None), folder / "config.yaml")
        resumed = ResumePoint.new(folder)
        stack.callback(resumed.checkpoints.close)
    else:
        folder = resumed.checkpoints.run
        resumed.restore(learner)
        with name_disk_errors(folder):
            resumed.move_end(config.steps)
    ranks.told(str(folder))
    exact = "exact" if learner.resumes_exactly else "from_reset"
    manifest = {**versions(device), "config": sha256_file(folder / "config.yaml"), "end": config.steps}
    manifest |= {"resume": exact, "processes": ranks.count}
    messages = resumed.resume_messages(manifest)
    print("\n".join([banner(config, env, policy, device, folder, data, ranks.count), *messages]), flush=True)
    metrics = Metrics(folder, to_dict(config), resumed.steps, resumed.metrics)
    stack.callback(metrics.close)
    clock = Clock(resumed.wall_s, resumed.cpu_s)
    return RunParts(
        config, env, learner, folder, resumed, metrics, clock, manifest, device, evaluation_env, video_env, ranks
    )


def make_run_env(
    config: TrainConfig, data: Any, returns: ReturnConditioning | None, device: torch.device, ranks: Ranks
) -> TorchVectorEnv:
    """The environment that this process trains on; with env=none only the spaces of the data."""
    if not isinstance(config.env, NoEnvConfig):
        rows = max(1, config.algo.training_rows() // ranks.count)
        return make_from_config(config.env, rows, device, config.memory, returns=returns)
    if missing := [name for name in ("space", "action_space") if not hasattr(data, name)]:
        raise ConfigError(
            f"env=none: the data of algo={config.algo.name} has no {missing[0]}; expected env=<a task>, or load_data to return an"
            " object with space and action_space"
        )
    own = getattr(data, "action_start", 0), getattr(data, "own_actions", None)
    spaces = RecordedSpaces(device, data.space, data.action_space, *own)
    return wrap(spaces, config.memory, returns=returns)


def check_object(config: TrainConfig, env: TorchVectorEnv, device: torch.device, ranks: Ranks) -> None:
    """Raises ConfigError where env= is an object that was made for other rows or another device."""
    if not is_borrowed(config.env):
        return
    if ranks.count > 1:
        raise ConfigError(
            f"env={config.env.name}: {ranks.count} processes share the rows, but env= is a single object; give a class or a"
            " function f(num_envs, device) that makes it"
        )
    if not config.algo.offline and env.num_envs != config.algo.training_rows():
        raise ConfigError(
            f"algo.num_envs={config.algo.training_rows()}: the environment object has {env.num_envs} rows; expected"
            f" algo.num_envs={env.num_envs}, or a class or a function f(num_envs, device) that makes it"
        )
    if env.device.type != device.type:
        raise ConfigError(f"device={device}: the environment object is on {env.device}; expected device={env.device}")


def make_env_beside(
    option: str,
    config: TrainConfig,
    task: EnvConfig,
    rows: int,
    policy: ActorCritic,
    others: Sequence[TorchVectorEnv | None],
    stack: contextlib.ExitStack,
) -> TorchVectorEnv | None:
    """The environment for `option`, closed by `stack`; None where it is not given. task: the options of the environment.

    Raises ConfigError where it is one of `others`.
    """
    if (every := getattr(config, option)) is None:
        return None
    made = make_task(policy, task, rows, policy.device)
    if any(ours is theirs for ours in innermost(made) for other in others for theirs in innermost(other)):
        raise ConfigError(
            f"{option}={every}: {BESIDE[option]} need an environment of their own, but env={config.env.name} returned the same"
            " object again; make a new one in every call"
        )
    stack.callback(close_unless_borrowed, config.env, made)
    return made


def make_video_env(
    config: TrainConfig, policy: ActorCritic, others: Sequence[TorchVectorEnv | None], stack: contextlib.ExitStack
) -> TorchVectorEnv | None:
    """The environment of the videos; raises ConfigError where it cannot be drawn."""
    if config.video_every is None:
        return None
    from rmt_rl.viewing.film import with_pixels

    made = make_env_beside("video_every", config, with_pixels(config.env), 1, policy, others, stack)
    assert made is not None
    check_drawable(made, f"video_every={config.video_every}")
    return made


def load_initial(config: TrainConfig, device: torch.device) -> ActorCritic | None:
    """The policy of `init=`, or None."""
    return None if config.init is None else load_policy(config.init, device, "init")


def memory_beside(initial: ActorCritic, config: TrainConfig) -> MemoryConfig:
    """What a run that starts from a policy does with the memory: as that policy's run did, unless the user says something else.

    Raises ConfigError where the memory would last longer or shorter than the policy's.
    """
    own, memory = memory_config(initial), config.memory
    if config.memory_given is not None and not config.algo.imitates:
        given = {name: getattr(memory, name) for name in config.memory_given}
        memory = own.beside(given, getattr(initial.config, "write_cost", 0.0))
    for name in ("scope", "episodes"):  # the other options of memory.* are about training
        found, expected = getattr(memory, name), getattr(own, name)
        if found != expected:
            raise ConfigError(
                f"memory.{name}={found}: the policy of init was trained with memory.{name}={expected}; expected the same"
            )
    return memory


def make_run_policy(
    config: TrainConfig,
    env: TorchVectorEnv,
    returns: ReturnConditioning | None,
    scale: ActionScale | None,
    device: torch.device,
    rules: int = RULES,
) -> ActorCritic:
    """A new policy; its weights depend on the run's seed only, and torch's global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed(config.seed, "weights"))
        spec = make_spec(env, config.env, config.policy, config.memory, returns, scale, rules)
        policy = ActorCritic(spec).to(device)
        policy.check_outside_parts()
    return policy


def crossed_multiple(every: int | None, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]. It depends on steps only, so a resumed run saves at the same steps."""
    return every is not None and now // every > before // every


class Evaluator:
    """Evaluations during training, on their own environment and seeds, so that they change no bit of the training.

    best: step and score of the best one so far, whose policy is saved in best/. shown: the latest score, for the progress line.
    """

    def __init__(self, parts: RunParts) -> None:
        self._parts = parts
        self.best: dict[str, Any] | None = kept_best(parts)
        self.shown: dict[str, float | None] = {}

    def evaluate(self, run: Run, callbacks: Sequence[Any], check_stop: Callable[[], None]) -> dict[str, float | None]:
        """Play new episodes with the current weights, keep the best policy, and stop the run where `until` is reached."""
        config, policy, env = self._parts.config, run.policy, self._parts.evaluation_env
        if env is None:
            raise RuntimeError("evaluate was called without evaluate_every")
        seed = rng.seed(config.seed, "validation")
        score = evaluate(
            policy,
            env,
            config.validation_episodes,
            seed,
            episode_steps=config.episode_steps,
            between_steps=check_stop,
            metrics=metric_names(config.metrics),
        )
        if self.best is None or score.rank() > tuple(_rank(self.best)):
            self._keep(run, score)
        for name in ("success", "mean_return"):
            wanted, reached = getattr(config.until, name), getattr(score, name)
            if wanted is not None and reached is None and score.cut:  # an episode that was cut reports nothing
                continue
            if wanted is not None and reached is None:
                task = f"env={config.env.name}"
                raise ConfigError(
                    f"until.{name}={wanted}: {task} reported no success in {config.validation_episodes} episodes; use"
                    " until.mean_return, or report failures too"
                )
            if wanted is not None and reached >= wanted:
                run.stop(f"until.{name}={wanted} reached")
        self.shown = {"eval": score.mean_return if score.success is None else score.success}
        notify(callbacks, "on_evaluate", run, score)
        return eval_numbers(score)

    def _keep(self, run: Run, score: Score) -> None:
        """Save the best policy so far; a full disk is reported and the run continues."""
        folder = self._parts.folder / "best"
        try:
            save_policy(run.policy, folder)
            weights = sha256_file(folder / "model.safetensors")
        except OSError as error:
            print(f"{folder} was not written: {reason(error)}; the run continues without it", flush=True)
            return
        self.best = {
            "steps": run.steps,
            "success": score.success,
            "mean_return": score.mean_return,
            "weights": weights,
        }


def eval_numbers(score: Score) -> dict[str, float | None]:
    """An evaluation during training as numbers for metrics.jsonl: success and mean return, and the 95 % interval of both."""
    success_low, success_high = score.ci95 or (None, None)
    return_low, return_high = score.return_ci95 or (None, None)
    return {
        "eval_success": score.success,
        "eval_return": score.mean_return,
        "eval_success_low": success_low,
        "eval_success_high": success_high,
        "eval_return_low": return_low,
        "eval_return_high": return_high,
        **{f"eval_metrics/{name}": value for name, value in score.metrics.items()},
    }


def kept_best(parts: RunParts) -> dict[str, Any] | None:
    """The best evaluation before a run was resumed; None where best/ does not hold its policy any more."""
    best, folder = parts.resumed.best, parts.folder / "best"
    if best is None:
        return None
    try:
        load_policy(folder)
        # a killed process may have saved a better policy after its last checkpoint
        if best.get("weights") in (None, sha256_file(folder / "model.safetensors")):
            return best
        found = "holds another policy than at the checkpoint"
    except ConfigError as error:
        found = f"is not used ({error})"
    print(f"{folder} {found}: the best policy is chosen anew from here on", flush=True)
    return None


def _rank(best: Mapping[str, Any]) -> tuple[float, float]:
    success = -math.inf if best["success"] is None else float(best["success"])
    return success, float(best["mean_return"])


def finish_run(
    parts: RunParts, run: Run, evaluator: Evaluator, stop_signal: int | None, callbacks: Sequence[Any]
) -> dict[str, Any]:
    """Save the policy, score it on new episodes, write result.json, print the summary; the fields of a `TrainResult`."""
    config, folder, policy = parts.config, parts.folder, run.policy
    selected = parts.learner.select_weights()
    cpu = parts.clock.cpu()
    result: dict[str, Any] = {
        "env": config.env.name,
        "algo": config.algo.name,
        "policy": config.policy.name,
        "seed": config.seed,
        "steps": run.steps,
        "wall_s": round(parts.clock.wall(), 2),
        "cpu_s": round(cpu, 2),
        "steps_per_cpu_s": round(run.steps / cpu, 1),
        "interrupted": stop_signal is not None,
        "signal": stop_signal,
        "stopped": run.stopped,
        **selected,
        "eval": None,
        "best": None,
        "floor": parts.env.floor,
        "ceiling": parts.env.ceiling,
    }
    final, best = None, None
    # environments are closed last, after everything is saved: closing one may hang
    with contextlib.ExitStack() as at_end:
        with name_disk_errors(folder):
            save_policy(policy, folder / "policy")
        if stop_signal is None and config.evaluate_episodes:
            try:
                final, best = _final_scores(parts, evaluator, at_end)
            except KeyboardInterrupt:
                result |= {"interrupted": True, "signal": int(signal.SIGINT)}
        if final is not None:
            result["eval"] = final.to_json(each=True)
        if evaluator.best is not None and (best is not None or config.evaluate_episodes == 0):
            result["best"] = {"steps": evaluator.best["steps"], "eval": best and best.to_json(each=True)}
        with name_disk_errors(folder):
            if final is not None:
                write_card(folder / "policy", policy, config, final)
            if best is not None:
                write_card(folder / "best", policy, config, best)
            write_result(result, folder)
            parts.metrics.finish(result)
            best_steps = 0 if evaluator.best is None else evaluator.best["steps"]
            text = format_summary(folder, config, parts.env, final, best, best_steps, bool(result["interrupted"]))
        print(f"stopped: {run.stopped}\n{text}" if run.stopped else text, flush=True)
        notify(callbacks, "on_end", run, result)
    return {
        "policy": policy.eval(),
        "folder": folder,
        "metrics": read_metrics(folder),
        "score": final,
        "best": best,
        "summary": result,
    }


@contextlib.contextmanager
def name_disk_errors(folder: Path) -> Iterator[None]:
    """An error of the disk becomes one sentence."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}; free space, then resume={folder}") from error


def _final_scores(parts: RunParts, evaluator: Evaluator, at_end: contextlib.ExitStack) -> tuple[Score, Score | None]:
    """The final policy, and the best one by the evaluations during training, on the same new episodes.

    at_end: closes the environment.
    """
    config, policy = parts.config, parts.learner.policy
    rows = 64 if config.algo.offline else config.algo.training_rows()
    env = make_task(policy, config.env, min(config.evaluate_episodes, rows), parts.device)
    at_end.callback(close_unless_borrowed, config.env, env)
    how: dict[str, Any] = {
        "episode_steps": config.episode_steps,
        "metrics": metric_names(config.metrics),
        "count": True,
    }
    final = evaluate(policy, env, config.evaluate_episodes, config.seed, **how)
    if evaluator.best is None:
        return final, None
    best = load_policy(parts.folder / "best", parts.device)
    return final, evaluate(best, env, config.evaluate_episodes, config.seed, **how)


def read_metrics(folder: Path) -> dict[str, np.ndarray]:
    """metrics.jsonl as one float64 array per number, NaN where a row has none."""
    rows = read_rows(folder / "metrics.jsonl")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {
        name: np.array([math.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
        for name in names
    }
