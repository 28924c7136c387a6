"""Records episodes as a Minari dataset: `python -m rmt_rl.collect policy=<folder|oracle|random> env=… out=<id>`.

Episode k is the first episode of seed `base + k`, whatever the number of rows, as in `evaluate`. The dataset holds the
environment's own observations and actions, as any Minari dataset does, with text as bytes and real numbers rounded to float32.
The return to go is computed when the data are loaded.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line, configure_process, require_packages
from rmt_rl.config.commands import CollectConfig
from rmt_rl.config.files import as_typed, to_dict
from rmt_rl.config.registry import PLUGINS


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import PLAYERS, gives_id, in_main_thread, parse_collect, resolve_env
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(CollectConfig, argv))
        return 0
    if in_main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM then removes temporary files, too
    options = parse_collect(argv)
    require_packages("collect", "offline", "minari", "h5py")
    from rmt_rl.rollouts.minari_writer import dataset_place, write_minari

    dataset_place(options.out)
    from rmt_rl.common.device import choose_device
    from rmt_rl.envs.base import close_env
    from rmt_rl.envs.registry import make_from_config
    from rmt_rl.policies.saving import env_config, load_policy, make_task
    from rmt_rl.rollouts import episodes

    configure_process(options.threads)
    device = choose_device(options.device)
    rows = min(options.num_envs, options.episodes)
    # the actor: a rule or a policy. `recorded` is the environment whose observations are written to the dataset.
    if options.policy in PLAYERS[CollectConfig]:
        task = resolve_env(None, options.env, options.env_overrides)
        env = recorded = make_from_config(task, rows, device)
        random = options.policy == "random"
        actor = episodes.random_actor(env, options.seed) if random else episodes.oracle_actor(env)
    else:
        policy = load_policy(options.policy, device, trust=options.trust)
        trained = None if options.env else env_config(policy, typed=gives_id(options.env_overrides))
        task = resolve_env(trained, options.env, options.env_overrides)
        env = make_task(policy, task, rows, device)
        actor = episodes.policy_actor(policy, env, options.seed, options.deterministic)
        recorded = make_from_config(task, 1, device)
        if env.single_observation_space != recorded.single_observation_space:
            raise ConfigError(
                f"policy={options.policy}: observes more than the task shows, a return to go or the episodes of a trial;"
                " expected a policy trained by algo=ppo with memory.scope=episode, without init= of a return-conditioned policy"
            )
    names = getattr(recorded.single_observation_space, "spaces", {})
    if odd := [name for name in names if "/" in name]:
        raise ConfigError(
            f"env={task.name}: the observation {odd[0]!r} has a slash in its name, which Minari cannot read"
        )
    waves = episodes.record(env, actor, options.episodes, options.seed, options.episode_steps)
    try:
        place, stats = write_minari(waves, options.out, recorded, options.policy, to_dict(task))
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    numbers = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in stats.items())
    print(f"{options.episodes:,} episodes  {numbers}\ndataset: {place}\nnext:")
    plugins = [f"plugins={','.join(PLUGINS)}"] if PLUGINS else []
    words = [
        *plugins,
        shlex.quote(f"env={task.name}"),
        *as_typed("env", task),
        "algo=rate",
        shlex.quote(f"data={options.out}"),
    ]
    print(f"  {command_line('rmt_rl.train')} {' '.join(words)}")
    close_env(env)
    return 0


if __name__ == "__main__":
    sys.exit(main())
