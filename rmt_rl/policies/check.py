"""Checks a memory against the backbone contract: `python -m rmt_rl.policies.check <name | module:Class> [option=value ...]`

    python -m rmt_rl.policies.check rmt segment=4 memory_tokens=2
    python -m rmt_rl.policies.check my_module:MyMemory width=16 cases=50

Each line is one claim: `unroll` equals T calls of `step` in outputs, final state and gradients, for random lengths, chunks,
resets and phases; a state that `first` discards has no influence; causality; independent rows; and more. Then a policy with the
memory is saved and loaded, and one step of it is exported. `cases` is the number of random cases per claim (6).

Exit status: 0, or 1 where a claim does not hold, or 2 where nothing could be checked. Random cases are no proof.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import PolicyConfig
from rmt_rl.config.cli import split_arguments
from rmt_rl.config.fields import show
from rmt_rl.config.registry import GROUPS, choose
from rmt_rl.config.resolve import make_config


def check(config: PolicyConfig, cases: int = 6) -> Iterator[Any]:
    """The result of every check of the policy that `config` describes, as they are made."""
    from rmt_rl.envs.checks.runner import run_check
    from rmt_rl.policies.checks.contract import CHECKS, Make
    from rmt_rl.policies.registry import make_backbone

    make = Make(functools.partial(make_backbone, config), config.width)  # type: ignore[attr-defined]
    for claim in CHECKS:

        def run_cases(run: Callable[[Make, int], None] = claim.run) -> None:
            for number in range(cases):
                run(make, number)

        yield run_check(claim.claim, run_cases)
    yield run_check("a policy with it is saved and loaded to the same bits", functools.partial(_save_and_load, config))
    yield run_check("one acting step of it can be exported", functools.partial(_export, config))


def _save_and_load(config: PolicyConfig) -> None:
    import torch

    from rmt_rl.envs.checks.runner import expect
    from rmt_rl.policies.saving import load_policy, save_policy

    policy = _policy(config)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(policy, folder)
        again = load_policy(folder)
    expect(again.spec == policy.spec, "the loaded policy has other options")
    for name, value in policy.state_dict().items():
        expect(torch.equal(value, again.state_dict()[name]), f"the loaded policy has another {name}")


def _export(config: PolicyConfig) -> None:
    from rmt_rl.export import export

    with tempfile.TemporaryDirectory() as folder:
        export(_policy(config), Path(folder) / "program", 2, onnx=False)


def _policy(config: PolicyConfig) -> Any:
    """A policy with this memory for a small task."""
    from rmt_rl.config.envs import TMazeConfig
    from rmt_rl.envs.registry import make_from_config
    from rmt_rl.policies.actor_critic import ActorCritic
    from rmt_rl.policies.spec import make_spec

    env = make_from_config(TMazeConfig(), 2)
    return ActorCritic(make_spec(env, TMazeConfig(), config)).eval()


def find_policy(name: str) -> str:
    """The registered name of `name`, which may also be module:Class; raises ConfigError where it is not registered."""
    module, colon, attribute = name.partition(":")
    if not colon:
        choose("policy", name)
        return name
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{name}: {error}; expected a module that can be imported from here") from None
    for registered, entry in GROUPS["policy"].items():
        if found is not None and found in (entry.target, entry.config):
            return registered
    raise ConfigError(
        f'{name}: is not a registered policy; decorate the class with @rmt_rl.register_policy("<name>", <its options>)'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    from rmt_rl.config.cli import run

    return run(command, argv)


def command(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0 if argv else 2
    given = split_arguments(argv[1:])
    cases = given.pop("cases", "6")
    if not cases.isdecimal() or not 1 <= int(cases) <= 100_000:
        raise ConfigError(f"cases={show(cases)}: expected a whole number, at least 1 and at most 100000")
    name = find_policy(argv[0].removeprefix("policy="))
    options = {f"policy.{key.removeprefix('policy.')}": None if text == "null" else text for key, text in given.items()}
    config = make_config(env="tmaze", policy=name, **options).policy
    count = {"ok": 0, "not checked": 0, "wrong": 0}
    for result in check(config, int(cases)):
        count[result.verdict] += 1
        found = f"\n{'':13}{result.found}" if result.found else ""
        print(f"{result.verdict:>11}  {result.claim}{found}", flush=True)
    print(f"{argv[0]}: " + ", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 1 if count["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
