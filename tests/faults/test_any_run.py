"""Any configuration trains or is rejected with one line: random options over all tasks, policies and algorithms."""

import dataclasses
import json
import operator
import os
import random
from collections.abc import Mapping

import pytest

from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.config.cli import parse
from rmt_rl.config.fields import options, show
from rmt_rl.config.registry import GROUPS
from rmt_rl.train import train

CASES = 1_000 if "RMT_RL_FAULTS" in os.environ else 6
#: Integers small enough for a run of a second; some are not allowed, and some do not fit together.
SMALL = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16)
FRACTIONS = (0.0, 1e-4, 0.01, 0.1, 0.5, 0.9, 1.0, 2.0)
ALGORITHMS = {
    "ppo": ["algo.num_envs=4", "algo.rollout=12", "algo.minibatches=2", "steps=96"],
    "rate": ["algo.batch=4", "steps=200"],
    "supervised": ["algo.num_envs=4", "steps=200"],
}


#: The built-in names; other tests may register more in this process.
BUILTIN = {
    group: [name for name, entry in GROUPS[group].items() if isinstance(entry.target, str)]
    for group in ("env", "algo", "policy")
}
MEMORY = [[], [], [], ["memory.scope=trial", "memory.episodes=3"], ["memory.scope=run"], ["memory.episodes=2"]]
#: Options that are not drawn: paths and programs; images and 1,000 decks, which are slow; attention kernels of GPUs.
LEFT_OUT = ("id", "options", "workers", "deadline", "on_fault", "tile", "decks", "attention")


def allowed(value: float, bounds: Mapping[str, float | None]) -> bool:
    tests = {"low": operator.ge, "high": operator.le, "above": operator.gt, "below": operator.lt}
    return all(bound is None or tests[name](value, bound) for name, bound in bounds.items())


def drawn(generator: random.Random) -> list[str]:
    """The arguments of a run. Most values are allowed; whether they fit together is random."""
    chosen = {group: generator.choice(sorted(names)) for group, names in BUILTIN.items()}
    values = {"seed": str(generator.randrange(100)), "checkpoint_steps": generator.choice(["null", "48"])}
    for argument in [*ALGORITHMS[chosen["algo"]], *(generator.choice(MEMORY) if chosen["algo"] == "ppo" else [])]:
        name, _, values[name] = argument.partition("=")
    for group, choice in chosen.items():
        known = {name: option for name, option in options(GROUPS[group][choice].config).items() if name not in LEFT_OUT}
        for name in generator.sample(sorted(known), min(len(known), generator.randrange(4))):
            kind, bounds = known[name].kind, known[name].bounds
            words = ("length", "delay", "pairs", "reverse")  # names of options
            usual = {bool: (True, False), float: FRACTIONS, str: words}.get(
                kind, (2_000, 9_000) if name == "params" else SMALL
            )
            several = known[name].choices or usual
            if generator.random() < 0.95:
                several = [value for value in several if isinstance(value, str) or allowed(value, bounds)] or several
            values[f"{group}.{name}"] = show(generator.choice(several))
    argv = [f"{group}={choice}" for group, choice in chosen.items()] + [f"{k}={v}" for k, v in values.items()]
    return [*argv, "evaluate_episodes=2", "run=any"]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(CASES))
def test_any_configuration_trains_or_is_rejected(case, tmp_path) -> None:
    argv = drawn(random.Random(case))
    try:
        config = parse(argv)
        result = train(config, root=tmp_path).summary
    except (ConfigError, RunError) as error:
        assert str(error) and "\n" not in str(error), argv
        return
    assert result["steps"] >= config.steps, argv
    rows = [json.loads(line) for line in (tmp_path / "any/metrics.jsonl").read_text().splitlines()]
    # numbers that are not finite are written as null; so is success before the first episode ends
    learned = ("loss",) if config.algo.imitates else ("policy_loss", "value_loss", "entropy")
    assert rows and all(row[name] is not None for row in rows for name in (*learned, "gradient_norm")), argv
    written = parse([f"resume={tmp_path / 'any'}"])
    assert dataclasses.replace(written, resume=None) == dataclasses.replace(config, policy=written.policy), argv
