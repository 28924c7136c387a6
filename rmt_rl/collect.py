"""Records episodes as a Minari dataset: `python -m rmt_rl.collect policy=<folder|oracle|random> env=… out=<id>`.

Episode k is the first episode of seed `base + k`, whatever the number of rows, as in `evaluate`. What is recorded are the
environment's own observations, without loss, as anybody's Minari dataset has them; a return to go is worked out by who learns.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rmt_rl.config import Collect, ConfigError, as_typed

if TYPE_CHECKING:
    from rmt_rl.envs.base import TorchVectorEnv
    from rmt_rl.record import Recorded

#: What HDF5 takes for an episode beside its numbers: 15 kB with one kind of observation, more with several.
EPISODE_BYTES = 32 * 1024


def write_minari(
    waves: Iterator[list[Recorded]], id: str, env: TorchVectorEnv, by: str, task: dict[str, Any]
) -> tuple[Path, dict[str, float]]:
    """Write recorded episodes as the Minari dataset `id`; returns its folder and what its metadata say of the episodes.

    The dataset appears when it is complete. Raises ConfigError where it exists already.
    """
    import minari
    from minari.data_collector import EpisodeBuffer

    from rmt_rl.record import check_room

    place = dataset_place(id)
    root = Path(tempfile.mkdtemp(prefix=".recording-", dir=minari.storage.get_dataset_path()))
    kept = os.environ.get("MINARI_DATASETS_PATH")
    returns, lengths, successes = [], [], []
    try:
        os.environ["MINARI_DATASETS_PATH"] = str(root)
        dataset = None
        for wave in waves:
            buffers = [
                EpisodeBuffer(
                    seed=episode.seed,
                    observations=episode.obs,
                    actions=episode.action,
                    rewards=episode.reward,
                    terminations=_flags(len(episode.reward), episode.terminated),
                    truncations=_flags(len(episode.reward), episode.truncated),
                    infos={},
                )
                for episode in wave
            ]
            # HDF5 on a full disk may end the process (a segmentation fault was seen), so this is asked before
            size = sum(_bytes(part) for episode in wave for part in (episode.obs, episode.action, episode.reward))
            check_room(root, size + len(wave) * EPISODE_BYTES, "MINARI_DATASETS_PATH")
            returns += [float(episode.reward.sum()) for episode in wave]
            lengths += [len(episode.reward) for episode in wave]
            successes += [episode.success for episode in wave if episode.success is not None]
            if dataset is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # of an environment that minari could make by an id
                    dataset = minari.create_dataset_from_buffers(
                        id,
                        buffers,
                        observation_space=env.single_observation_space,
                        action_space=env.single_action_space,
                        algorithm_name=by,
                        author="unknown",
                        author_email="unknown",
                        code_permalink="unknown",
                        description=f"{env.task}. Recorded by rmt_rl.collect.",
                        jpeg_encoding=False,  # minari's default loses what a cue looks like
                    )
            else:
                dataset.storage.update_episodes(buffers)
        assert dataset is not None
        told = {
            "return_mean": float(np.mean(returns)),
            "return_min": min(returns),
            "return_max": max(returns),
            "length_mean": float(np.mean(lengths)),
        }
        if successes:
            told["success"] = float(np.mean(successes))
        dataset.storage.update_metadata({"rmt_rl": {"env": task, **told}})
        place.parent.mkdir(parents=True, exist_ok=True)
        (root / id).rename(place)
    except (OSError, RuntimeError) as error:  # somebody may have been faster, too
        # a full disk fails h5py once more, with a RuntimeError, when it closes its file on the way out
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        what = os.strerror(cause.errno) if cause.errno else " ".join(str(cause).split())
        raise ConfigError(f"out={id}: cannot be written: {what}") from error
    finally:
        if kept is None:
            os.environ.pop("MINARI_DATASETS_PATH", None)
        else:
            os.environ["MINARI_DATASETS_PATH"] = kept
        shutil.rmtree(root, ignore_errors=True)
    return place, told


def dataset_place(id: str) -> Path:
    """Where the Minari dataset `id` will lie; raises ConfigError where it cannot be made or exists."""
    import minari
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(id)
        root = Path(minari.storage.get_dataset_path())
        place = root / id
        there = place.exists()
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"out={id}: expected a Minari id such as tmaze/oracle-v0 ({error})") from error
    if there:
        raise ConfigError(f"out={id}: {place} exists already and is not written over; take another name or version")
    for parent in (parent for parent in place.parents if root in parent.parents):
        if (parent / "data").exists() or not (parent.is_dir() or not parent.exists()):
            raise ConfigError(f"out={id}: {parent} is no folder for datasets; take another name")
    return place


def _bytes(part: Any) -> int:
    return sum(map(_bytes, part.values())) if isinstance(part, dict) else int(part.nbytes)


def _flags(steps: int, last: bool) -> Any:
    flags = np.zeros(steps, dtype=bool)
    flags[-1] = last
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    from rmt_rl.cli import COLLECT, PLAYERS, help_text, parse_collect, resolve_env
    from rmt_rl.train import need, prepare

    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(help_text(COLLECT, Collect))
        return 0
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing half-done is left then either
    try:
        options = parse_collect(argv)
        need("collect", "offline", "minari", "h5py")
        dataset_place(options.out)
        from rmt_rl.checkpoint import check_fits, env_config, load_policy, make_task
        from rmt_rl.device import choose_device
        from rmt_rl.envs.registry import make_from_config
        from rmt_rl.record import oracle_actor, policy_actor, random_actor, record

        prepare(options.threads)
        device = choose_device(options.device)
        rows = min(options.num_envs, options.episodes)
        if options.policy in PLAYERS[Collect]:
            task = resolve_env(None, options.env, options.env_overrides)
            env = make_from_config(task, rows, device)
            shown = env
            actor = random_actor(env, options.seed) if options.policy == "random" else oracle_actor(env)
        else:
            policy = load_policy(options.policy, device)
            task = resolve_env(env_config(policy), options.env, options.env_overrides)
            env = make_task(policy, task, rows, device)
            check_fits(policy, env, task)
            actor = policy_actor(policy, env, options.seed, options.deterministic)
            shown = make_from_config(task, 1, device)
            if env.single_observation_space != shown.single_observation_space:
                raise ConfigError(
                    f"policy={options.policy}: sees more than the task shows, the return to go or where an episode of a trial"
                    " begins; expected one trained by algo=ppo with memory.scope=episode, without init= of one that is asked"
                    " for returns"
                )
        names = getattr(shown.single_observation_space, "spaces", {})
        if odd := [name for name in names if "/" in name]:
            raise ConfigError(
                f"env={task.name}: the observation {odd[0]!r} has a slash in its name, which Minari cannot read"
            )
        place, told = write_minari(
            record(env, actor, options.episodes, options.seed),
            options.out,
            shown,
            options.policy,
            dataclasses.asdict(task),
        )
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in told.items())
    print(f"{options.episodes:,} episodes  {numbers}\ndataset: {place}\nnext:")
    described = " ".join([f"env={task.name}", *as_typed("env", task)])
    print(f"  python -m rmt_rl.train {described} algo=rate data={options.out}")
    env.close()
    return 0


if __name__ == "__main__":
    from rmt_rl.cli import run

    sys.exit(run(main))
