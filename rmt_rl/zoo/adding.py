"""Makes a policy of the zoo from a run, for developers of this package: copies its files, scores it, writes its card."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
import shlex
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.files import reason, require_new, sha256_file
from rmt_rl.config.cli import parse
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.fields import show
from rmt_rl.config.files import as_typed, load_yaml, to_dict, typed
from rmt_rl.envs.base import Obs, TorchVectorEnv, close_env
from rmt_rl.policies import zoo
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import PARTS, SUMS, load_policy, make_task
from rmt_rl.rollouts.episodes import evaluate
from rmt_rl.rollouts.statistics import Score, success_interval
from rmt_rl.runs.card import write_card
from rmt_rl.runs.folder import read_result
from rmt_rl.zoo.cards import card_text

#: Bytes of the largest weights in the zoo: everybody who installs the package downloads them.
LARGEST = 500_000
#: A task counts as one with a few different episodes where each of them was played so often: then none is missing.
SEEN_OFTEN = 5


def add(run: str, name: str, episodes: int = 1_000, seed: int = 0, deterministic: bool = True) -> Path:
    """Make the policy of a run one of the zoo, scored on new episodes; returns its folder.

    Raises ConfigError where the run is not finished, its policy is too large, or its score is not above the floor.
    """
    folder, source = zoo.ZOO / name, Path(run)
    try:
        require_new(folder)
    except OSError as error:
        raise ConfigError(
            f"name={show(name)}: {show(str(folder), 300)} {reason(error)}; choose another name"
        ) from error
    policy = load_policy(run, option="add")
    config, result = load_yaml(source / "config.yaml"), read_result(source / "result.json")
    if result["interrupted"]:
        raise ConfigError(f"add={show(run)}: the run was interrupted; expected one that reached its end")
    size = (source / "policy" / "model.safetensors").stat().st_size
    if size > LARGEST:
        raise ConfigError(
            f"add={show(run)}: the weights have {size:,} bytes; expected at most {LARGEST:,}, such as with policy.width=64"
        )
    command = command_of(config)
    score, bounds, full = score_of(policy, episodes, seed, deterministic)
    low = score["value"] if score["interval"] is None else score["interval"][0]
    if bounds["floor"] is not None and low <= bounds["floor"]:
        raise ConfigError(
            f"add={show(run)}: the score {score['value']:.3f} is not clearly above the floor {bounds['floor']:.3f}; train longer"
        )
    card = {
        "format": 1,
        "name": name,
        "task": config.env.name,
        "env_options": as_typed("env", config.env),
        "policy": config.policy.name,
        "algo": config.algo.name,
        "parameters": sum(p.numel() for p in policy.parameters()),
        "bytes": size,
        "score": score,
        **bounds,
        "training": {"command": command, "seed": config.seed, "steps": result["steps"], "cpu_s": result["cpu_s"]},
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "sha256": {part: sha256_file(source / "policy" / part) for part in PARTS},
    }
    with tempfile.TemporaryDirectory(prefix=".new-", dir=zoo.ZOO) as place:
        new = Path(place) / name
        new.mkdir()
        for part in (*PARTS, SUMS):
            shutil.copyfile(source / "policy" / part, new / part)
        write_card(new, policy, config, full)
        with open(new / "README.md", "a", encoding="utf-8") as file:
            file.write(f"\n{card_text(card)}")
        (new / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        new.rename(folder)
    return folder


def score_of(
    policy: ActorCritic, episodes: int, seed: int, deterministic: bool
) -> tuple[dict[str, Any], dict[str, float | None], Score]:
    """The score of a policy for its card, floor and ceiling of its task, and the score of all episodes.

    All episodes are played side by side. A deterministic policy does the same in equal episodes, so each different one counts
    once; where the task has only a few, and all were played, the score has no interval, because it is exact.
    """
    env = make_task(policy, rows=episodes)
    watched = Watched(env)
    try:
        full = evaluate(policy, watched, episodes, seed, deterministic)  # type: ignore[arg-type]  # it passes everything on
    finally:
        close_env(env)
    seen = Counter(watched.courses())
    measure = "success" if full.success is not None else "return"
    of_episode = full.each.success if measure == "success" else full.each.returns
    values = of_episode.tolist()
    if deterministic:
        values = list(dict(zip(watched.courses(), values, strict=True)).values())
    mean = sum(values) / len(values)
    score: dict[str, Any] = {"measure": measure, "value": mean, "interval": None, "episodes": episodes}
    if not deterministic or min(seen.values()) < SEEN_OFTEN:
        half = 1.96 * float(torch.tensor(values, dtype=torch.float64).std()) / len(values) ** 0.5
        wilson = measure == "success"
        score["interval"] = (
            list(success_interval(round(sum(values)), len(values))) if wilson else [mean - half, mean + half]
        )
    score |= {"distinct": len(values), "seed": seed, "deterministic": deterministic}
    score |= {"mean_return": full.mean_return, "mean_length": full.mean_length}
    return score, _bounds(env), full


def _bounds(env: TorchVectorEnv) -> dict[str, float | None]:
    return {"floor": env.floor, "ceiling": env.ceiling}


class Watched:
    """An environment that remembers what happened in the first episode of each row, as one checksum."""

    def __init__(self, env: TorchVectorEnv) -> None:
        self._env = env

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(self, **given: Any) -> Any:
        obs, info = self._env.reset(**given)
        self._courses = [hashlib.sha256() for _ in range(self._env.num_envs)]
        self._running = torch.ones(self._env.num_envs, dtype=torch.bool)
        self._add(obs)
        return obs, info

    def step(self, action: torch.Tensor) -> Any:
        obs, reward, terminated, truncated, info = self._env.step(action)
        self._add(reward)
        self._running &= ~(terminated | truncated).cpu()
        self._add(obs)
        return obs, reward, terminated, truncated, info

    def _add(self, values: Obs) -> None:
        parts = [values[key] for key in sorted(values)] if isinstance(values, dict) else [values]
        for part in parts:
            rows = part.cpu().numpy()
            for row in self._running.nonzero().flatten().tolist():
                self._courses[row].update(rows[row].tobytes())

    def courses(self) -> list[bytes]:
        """A checksum of observations and rewards of each row; equal for equal episodes."""
        return [course.digest() for course in self._courses]


def command_of(config: TrainConfig) -> str:
    """A short command that gives this configuration, but for the name of the run."""
    config = dataclasses.replace(config, run=None, resume=None)
    words = [f"{group}={getattr(config, group).name}" for group in ("env", "policy", "algo")]
    words += [shlex.split(word)[0] for word in as_typed("env", config.env)]
    usual, wanted = to_dict(parse(words)), to_dict(config)
    for key, value in wanted.items():
        if key == "env" or value == usual[key]:
            continue
        if not isinstance(value, dict):
            words.append(f"{key}={typed(value)}")
            continue
        words += [f"{key}.{name}={typed(part)}" for name, part in value.items() if part != usual[key][name]]
    if parse(words) != config:
        raise ConfigError(
            f"the configuration of the run cannot be typed as a command: {' '.join(words)} gives another one"
        )
    return " ".join(["python -m rmt_rl.train", *map(shlex.quote, words)])


def versions() -> dict[str, str]:
    """Versions of what a score depends on."""
    packages = {package: importlib.metadata.version(package) for package in ("torch", "numpy", "gymnasium")}
    import rmt_rl

    return {"rmt_rl": rmt_rl.__version__, **packages, "python": platform.python_version()}
