"""Train a memory agent: `python -m rmt_rl.train env=minigrid-memory algo=ppo`, or `rmt_rl.train(env="minigrid-memory")`.

The spine of the package, read downwards: config -> environment -> policy -> loop [ collect -> update -> evaluate -> log -> save ]
-> final evaluation. From `main` to `optimizer.step()`: `main` -> `train` -> the learner's `update` -> `step`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import CallableModule, configure_process, exit_on_signal, torch_threads
from rmt_rl.config.commands import TrainConfig

if TYPE_CHECKING:
    import numpy as np

    from rmt_rl.algos.base import Batch, Learner
    from rmt_rl.config.bases import EnvConfig
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.rollouts.statistics import Score
    from rmt_rl.runs.metrics import Laps


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run produced.

    policy: the trained policy. folder: where everything is saved. metrics: one array per number of metrics.jsonl, NaN where an
    update has none. score: the final policy on new episodes, None where the run was interrupted, or evaluate_episodes=0. best:
    the policy with the best evaluation during training, on the same episodes, None without `evaluate_every` or final episodes.
    summary: what result.json holds.
    """

    policy: ActorCritic
    folder: Path
    metrics: dict[str, np.ndarray]
    score: Score | None
    best: Score | None
    summary: dict[str, Any]


def train(
    config: TrainConfig | None = None, /, *, root: str | Path = "runs", callbacks: Sequence[Any] = (), **given: Any
) -> TrainResult:
    """Train a policy, write everything to `root`/<run>, and return the result.

        rmt_rl.train(env="tmaze", policy="lstm", steps=200_000, **{"env.length": 20})

    config: a complete configuration; or give options as for `make_config`, of which `env` may also be an environment (a
    `TorchVectorEnv`), or a class or function that makes one: f(num_envs, device). Give it again beside resume=. As on the command
    line, config="mine.yaml" reads options from a file, over which the others win. callbacks: see `rmt_rl.Callback`.
    Under torchrun the processes share the rows, and only the result of the first one has a score and metrics (`common/ranks.py`).
    Raises ConfigError for options that do not fit, and RunError where the run cannot continue.
    """
    from rmt_rl.common.ranks import joined
    from rmt_rl.runs.callbacks import Run, check_callbacks, notify
    from rmt_rl.runs.follower import follow
    from rmt_rl.runs.metrics import Laps, Progress
    from rmt_rl.runs.setup import Evaluator, crossed_multiple, finish_run, setup_run
    from rmt_rl.runs.signals import OnSignal
    from rmt_rl.runs.videos import record_video

    config, callbacks = resolve(config, given), check_callbacks(callbacks)
    if not isinstance(root, str | os.PathLike):
        raise ConfigError(f"root={root!r}: expected the folder in which the run's folder is made, such as root='runs'")
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch_threads(config.threads))
        ranks = stack.enter_context(joined())
        if not ranks.first:
            return TrainResult(**follow(config, ranks, stack))
        # config -> environment, policy, learner, run folder, which is locked until the end
        parts = setup_run(config, Path(root), stack, ranks)
        config, learner = parts.config, parts.learner
        run = Run(config, parts.folder, learner, parts.resumed.steps)
        evaluator = Evaluator(parts)
        with OnSignal(patient=ranks.count > 1) as signals, Progress(config.steps, run.steps) as progress:
            learner.check_stop = signals.check_stop
            if parts.resumed.tree is None:
                parts.save(run.steps, evaluator)
            goes_on = run.steps < config.steps
            while goes_on:
                goes_on = False  # where a signal leaves the update
                with parts.keep_last_state(run, evaluator):
                    # collect, update
                    laps = Laps()
                    batch = learner.collect(run.steps / config.steps)
                    laps.lap("collect")
                    row = learner.update(batch, run.steps / config.steps)
                    laps.lap("update")
                    before, run.steps = run.steps, run.steps + batch.steps * ranks.count
                    row |= learner.statistics()
                    # evaluate; at the last step, too
                    last = run.steps >= config.steps
                    evaluated = parts.evaluation_env is not None and (
                        last or crossed_multiple(config.evaluate_every, before, run.steps)
                    )
                    if evaluated:
                        row |= evaluator.evaluate(run, callbacks, signals.check_stop)
                        laps.lap("evaluate")
                    due = last or crossed_multiple(config.video_every, before, run.steps)
                    if parts.video_env is not None and due:
                        record_video(run, parts.video_env, parts.metrics, signals.check_stop)
                        laps.lap("video")
                    # log
                    run.row, run.cpu_s = {"steps": run.steps, **row}, parts.clock.cpu()
                    more = functools.partial(_numbers_beside, laps, run.steps - before, batch, learner, evaluated)
                    parts.metrics.write(run.steps, {**row, "wall_s": parts.clock.wall()}, more)
                    progress.update(
                        run.steps, {name: row[name] for name in learner.shown if name in row} | evaluator.shown
                    )
                    notify(callbacks, "on_update", run)
                    # save
                    due = crossed_multiple(config.checkpoint_steps, before, run.steps)
                    ends = last or run.stopped is not None or signals.stop is not None
                    if ranks.agree(signals.checkpoint_requested() or due or ends):
                        parts.save(run.steps, evaluator)
                    goes_on = not ends
                goes_on = ranks.agree(goes_on)
        return TrainResult(**finish_run(parts, run, evaluator, signals.stop, callbacks))


def _numbers_beside(laps: Laps, steps: int, batch: Batch, learner: Learner, evaluated: bool) -> dict[str, float]:
    """The numbers of an update that TensorBoard and Weights & Biases get beside its row."""
    costly = learner.costly_diagnostics(batch) if evaluated else {}
    return laps.numbers(steps) | learner.diagnostics() | costly


def resolve(config: TrainConfig | None, given: dict[str, Any]) -> TrainConfig:
    """The validated configuration from `train`'s arguments; raises ConfigError."""
    from rmt_rl.config.fields import Config
    from rmt_rl.config.resolve import make_config, validate

    if config is not None:
        if not isinstance(config, TrainConfig):
            raise ConfigError(
                f"{config!r}: expected a TrainConfig, or options such as train(env='tmaze', steps=100_000)"
            )
        if given:
            raise ConfigError(
                f"{next(iter(given))}: is given beside a complete configuration; use make_config for changes"
            )
        return validate(config)
    env, made = given.get("env"), None
    if env is not None and not isinstance(env, (str, Mapping, Config)):
        from rmt_rl.envs.objects import env_config_of

        made = env_config_of(env)
    if given.get("resume") is not None:
        return _resumed(given, made)
    if made is not None:
        given = _of_object(env, given.get("algo", "ppo")) | given | {"env": made}
    if given.get("config") is not None:
        from rmt_rl.config.cli import config_from_file

        return config_from_file(given)
    return make_config(**given)


def _resumed(given: dict[str, Any], made: EnvConfig | None) -> TrainConfig:
    """The configuration of the run in given["resume"]. made: that of the Python object that was given as its environment."""
    from rmt_rl.config.cli import resumed_config

    if made is None:
        return resumed_config(given)
    config = resumed_config({key: value for key, value in given.items() if key != "env"})
    if config.env.name != made.name:
        raise ConfigError(
            f"env={made.name}: the run in {config.resume} was started with env={config.env.name}; expected the same class,"
            " function or kind of object, or no env="
        )
    return dataclasses.replace(config, env=made)


def _of_object(env: Any, algo: Any) -> dict[str, Any]:
    """The options that an environment object, which is made already, decides unless the user gives them."""
    from rmt_rl.config.fields import Config, options
    from rmt_rl.config.registry import choose
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.envs.objects import is_vector_env

    if not is_vector_env(env):
        return {}
    decided = {"device": str(env.device)} if isinstance(env, TorchVectorEnv) else {}
    if isinstance(algo, Config) or (isinstance(algo, Mapping) and "num_envs" in algo):
        return decided
    name = algo.get("name", "ppo") if isinstance(algo, Mapping) else algo
    has_rows = "num_envs" in options(choose("algo", name).config)
    return {**decided, "algo.num_envs": env.num_envs} if has_rows else decided


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import in_main_thread, parse
    from rmt_rl.config.help import help_text, wants_help
    from rmt_rl.runs.folder import folder_exists

    if wants_help(argv):
        print(help_text(TrainConfig, argv))
        return 0
    if in_main_thread():
        # before and after the loop a signal has nothing to save, but temporary files to remove
        signal.signal(signal.SIGTERM, exit_on_signal)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, lambda number, frame: None)
            signal.signal(signal.SIGUSR2, exit_on_signal)
    config = parse(argv)
    # of several processes the first one makes the folder
    makes_folder = config.resume is None and os.environ.get("RANK", "0") == "0"
    if makes_folder and config.run is not None and (Path("runs") / config.run).exists():
        raise folder_exists(config.run, Path("runs") / config.run)  # before seconds go into imports
    configure_process(config.threads)
    summary = train(config).summary
    return 128 + summary["signal"] if summary["interrupted"] else 0


if __name__ == "__main__":
    sys.exit(main())
else:
    sys.modules[__name__].__class__ = CallableModule
