"""How long a trained policy's memory holds, and why it loses: `python -m rmt_rl.memory policy=<folder> [env.length=… out=…]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import reason, require_new
from rmt_rl.common.process import configure_process
from rmt_rl.config.diagnosis import MemoryReportConfig
from rmt_rl.config.fields import show

#: Seconds without output after which the command reports that it is still playing.
PATIENCE = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    from rmt_rl.config.cli import gives_id, parse_memory, resolve_env
    from rmt_rl.config.help import help_text, wants_help

    if wants_help(argv):
        print(help_text(MemoryReportConfig, argv))
        return 0
    options = parse_memory(argv)
    from rmt_rl.policies.saving import env_config, load_policy, make_task, policy_folder
    from rmt_rl.viewing.diagnosis import diagnose
    from rmt_rl.viewing.diagnosis_report import describe, write_report

    try:
        if options.out is not None:
            require_new(options.out)
    except OSError as error:
        raise ConfigError(f"out={show(str(options.out), 300)}: {reason(error)}; choose another out=") from error
    configure_process(options.threads)
    policy = load_policy(policy_folder(options.policy), "cpu", trust=options.trust)
    trained = None if options.env else env_config(policy, typed=gives_id(options.env_overrides))
    task = resolve_env(trained, options.env, options.env_overrides)
    env = make_task(policy, task, options.episodes, target_return=options.target_return)
    print(env.task or f"task: {task}", flush=True)
    last = time.monotonic()

    def report(steps: int) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            print(f"played: {steps:,} steps", flush=True)

    names = ("seed", "steps", "hold", "repeats", "deterministic")
    found = diagnose(policy, env, **{name: getattr(options, name) for name in names}, on_step=report)
    if found is None:
        raise ConfigError(
            f"policy={options.policy}: has no memory of real numbers, which is all that can be examined; expected a policy that"
            " has one"
        )
    print(describe(found))
    if options.out is not None:
        print(f"figure: {write_report(found, Path(options.out))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
