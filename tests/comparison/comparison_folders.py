"""Folders of comparisons with invented results."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def score(value: float, **changes: Any) -> dict[str, Any]:
    """A success rate of ten distinct episodes."""
    won = round(10 * value)
    found = {
        "measure": "success",
        "value": value,
        "per_episode": [1] * won + [0] * (10 - won),
        "episodes": 20,
        "distinct": 10,
    }
    return {**found, "exact": False, "floor": 0.5, "ceiling": 1.0, "mean_steps": 12.0, **changes}


def cell(task: str, policy: str, seed: int, value: float, **changes: Any) -> dict[str, Any]:
    """The row of a finished run with two tests, the second of two exact episodes."""
    far = score(0.5, exact=True, episodes=2, distinct=2, per_episode=[1, 0])
    return {
        "key": f"{task}-{policy}-s{seed}", "task": task, "policy": policy, "variant": {}, "seed": seed, "status": "finished",
        "error": None, "command": f"python -m rmt_rl.train env={task} policy={policy} seed={seed}", "parameters": 1000,
        "steps": 400, "final": {"training": score(value), "env.length=80": far},
        "best": {"training": score(value), "env.length=80": far},
        "curve": {"steps": [100, 200, 400], "train": [0.5, 0.6, value], "eval_steps": [200, 400], "eval": [0.6, value]},
        "options": {"seed": seed, "steps": 400, "policy.width": 64 if policy == "rmt" else 96},
        "versions": {"rmt_rl": "0.1.0", "torch": "2.13.0"}, "cost": {"cpu_s": 1.5 + seed, "steps_per_cpu_s": 250.0},
        **changes,
    }  # fmt: skip


def failed(task: str, policy: str, seed: int, error: str) -> dict[str, Any]:
    row = cell(task, policy, seed, 0.5)
    return {name: row[name] for name in ("key", "task", "policy", "variant", "seed", "command")} | {
        "status": "failed",
        "error": error,
        "options": {},
        "cost": {},
    }


def matrix(policies: Sequence[str] = ("rmt", "lstm"), seeds: int = 3) -> list[dict[str, Any]]:
    """One task with floor and ceiling, and another, of returns, without a ceiling."""
    rows = []
    for index, policy in enumerate(policies):
        for seed in range(seeds):
            rows.append(cell("tmaze", policy, seed, 1.0 - 0.1 * index - 0.1 * (seed == 1)))
            value = score(20.0 + seed - 5 * index, measure="return", per_episode=[20.0, 21.5], ceiling=None, floor=None)
            rows.append(cell("hunt", policy, seed, 0.9) | {"final": {"training": value}, "best": {}})
    return rows


def write(folder: Path, rows: Sequence[dict[str, Any]], order: int | None = None, **asked: Any) -> Path:
    """A folder with these rows, in this order or shuffled with a seed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    if order is not None:
        random.Random(order).shuffle(rows)
    (folder / "cells.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content = {
        "format": 1,
        "tasks": ["tmaze", "hunt"],
        "policies": ["rmt", "lstm"],
        "command": "python -m rmt_rl.compare",
    } | asked
    (folder / "comparison.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder
