"""The numbers of one cell: the score of a policy on one test, and the learning curves of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.config.bases import EnvConfig
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.resolve import change
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.objects import close_unless_borrowed
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import make_task
from rmt_rl.policies.spaces import to_json as to_json_space
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.rollouts.statistics import Distinct, Score
from rmt_rl.runs.metrics import read_rows

#: Points of a learning curve, and episodes of a score, that a row holds.
POINTS, EPISODES = 200, 1_000
#: Episodes played at the same time.
ROWS = 64


def check_tests(config: TrainConfig, tests: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError where a policy of the run cannot act in one of its tests. tests: name -> changed options.

    A test may leave out what only the critic sees; with such a policy the test itself finds out.
    """
    changed = {name: changes for name, changes in tests.items() if changes}
    if not changed or config.policy.critic_only is not None:
        return
    own = _spaces(config.env)
    for name, changes in changed.items():
        try:
            spaces = _spaces(change(config.env, "env", changes))
        except ConfigError as error:
            raise ConfigError(f"test {name}: {error}") from error
        if spaces != own:
            raise ConfigError(
                f"test {name}: its observations or actions differ from those of the task that the policy learns; expected"
                " options that leave both as they are"
            )


def _spaces(env: EnvConfig) -> list[Any]:
    made = make_from_config(env)
    try:
        return [to_json_space(made.single_observation_space), to_json_space(made.single_action_space)]
    finally:
        close_unless_borrowed(env, made)


def score_of(
    policy: ActorCritic, env: EnvConfig, config: TrainConfig, episodes: int, device: torch.device
) -> dict[str, Any]:
    """The score of a policy on new episodes: on each different one where the task has few, else on `episodes` of them."""
    made = make_task(policy, env, 1, device)
    known = made.distinct_episodes
    close_unless_borrowed(env, made)
    if known is not None:
        # with this many episodes, any one of them is missing with a probability below 1e-13
        most = math.ceil(known * (math.log(known) + 30))
        rows = min(ROWS, max(8, math.ceil(known * (math.log(known) + 4))))
        found, made = _play(policy, env, config, most, rows, device)
        if found.distinct is not None and found.distinct.exact:
            return to_json(found, found.distinct, made)
    found, made = _play(policy, env, config, episodes, min(ROWS, episodes), device)
    return to_json(found, found.distinct, made)


def _play(
    policy: ActorCritic, env: EnvConfig, config: TrainConfig, episodes: int, rows: int, device: torch.device
) -> tuple[Score, TorchVectorEnv]:
    made = make_task(policy, env, rows, device)
    try:
        how: dict[str, Any] = {"episode_steps": config.episode_steps, "count": True}
        return evaluate(policy, made, episodes, config.seed, **how), made
    finally:
        close_unless_borrowed(env, made)


def to_json(score: Score, distinct: Distinct | None, env: TorchVectorEnv) -> dict[str, Any]:
    """A score as it stands in cells.jsonl; without reported success the measure is the return, of which no floor is known."""
    success = env.measure == "success" and score.success is not None
    exact = distinct is not None and distinct.exact
    mean = distinct if distinct is not None and distinct.exact else score
    each = (distinct or score).each
    values = (each.success if success else each.returns).tolist()
    known = success or env.measure == "return"
    return {
        "measure": "success" if success else "return",
        "value": mean.success if success else mean.mean_return,
        "per_episode": [int(value) if success else value for value in values[:EPISODES]],
        "episodes": score.episodes,
        "distinct": len(values),
        "exact": exact,
        "floor": env.floor if known else None,
        "ceiling": env.ceiling if known else None,
        "mean_steps": float(each.lengths.double().mean()) if exact else score.mean_length,
        "cut": score.cut,
    }


def measure_of(run: Path) -> str:
    """In what the evaluations during training are measured: success where the task reports it."""
    rows = read_rows(run / "metrics.jsonl")
    return "success" if any(row.get("eval_success") is not None for row in rows) else "return"


def curves(run: Path, measure: str) -> dict[str, list[float]]:
    """The learning curves of a run in units of `measure`: of the training episodes, and of the evaluations."""
    rows = read_rows(run / "metrics.jsonl")
    found: dict[str, list[float]] = {}
    for steps, values, name in (("steps", "train", measure), ("eval_steps", "eval", f"eval_{measure}")):
        points = [(row["steps"], row[name]) for row in rows if row.get(name) is not None]
        every = math.ceil(len(points) / POINTS) or 1
        # counted from the end, so that the last point is in it
        points = points[::-1][::every][::-1]
        found[steps], found[values] = [step for step, _ in points], [value for _, value in points]  # type: ignore[misc]
    return found
