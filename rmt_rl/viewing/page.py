"""One self-contained HTML page about an episode: no network, no libraries, data as JSON inside it."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

import rmt_rl
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.viewing.episode import HIDDEN, Episode, hidden_groups
from rmt_rl.viewing.glance import look
from rmt_rl.viewing.probe import Probe

#: Rows of the heat map of a hidden state; numbers of attention for which each layer and head is kept.
MOST_UNITS, MOST_WEIGHTS = 512, 1_000_000


@dataclass(frozen=True)
class Heading:
    """What the page says about itself. command: that makes the page again, or ""."""

    title: str
    task: str
    command: str
    fps: float


def render(
    heading: Heading,
    policy: ActorCritic,
    env: TorchVectorEnv,
    episode: Episode,
    pictures: tuple[Sequence[str], Sequence[int]],
    probe: Probe | None,
) -> str:
    """The page. env: the environment of the episode. pictures: data URIs, and which of them each step shows."""
    data = {
        "title": heading.title,
        "task": heading.task,
        "policy": policy.backbone.description,
        "command": heading.command,
        "version": rmt_rl.__version__,
        "fps": heading.fps,
        "result": _result(episode),
        "pictures": list(pictures[0]),
        "picture": list(pictures[1]),
        "steps": [
            {"observation": seen, "words": words, "action": action, "reward": _number(reward)}
            for seen, words, action, reward in zip(
                episode.observations, episode.words, episode.actions, episode.rewards, strict=True
            )
        ],
        "actions": _actions(policy, env, episode),
        "values": [_number(x) for x in episode.values],
        "valueNote": _value_note(policy, episode),
        "influence": [_number(x) for x in episode.influence],
        "attention": _attention(policy, episode),
        "writes": _writes(policy, episode),
        "hidden": _hidden_state(policy, episode),
        "noMemory": not episode.parts[0],
        "probe": _probe(policy, env, episode, probe),
    }
    template = (resources.files("rmt_rl.viewing") / "page.html").read_text(encoding="utf-8")
    before, rest = template.split("@@TITLE@@")
    middle, after = rest.split("@@DATA@@")
    return before + html.escape(heading.title) + middle + _json(data) + after


def _json(data: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "replace").decode()  # half of a surrogate pair is no text


def _number(x: float, digits: int = 4) -> float | None:
    """A number as JSON has it; None where there is none."""
    return round(float(x), digits) if math.isfinite(x) else None


def _numbers(array: np.ndarray) -> list[Any]:
    return [_numbers(x) if isinstance(x, np.ndarray) else _number(x) for x in array]


def _bytes(array: np.ndarray) -> str:
    """Numbers from 0 to 1 as one byte each, in base64."""
    scaled = np.nan_to_num(np.clip(array, 0, 1)) * 255
    return base64.b64encode(np.rint(scaled).astype(np.uint8).tobytes()).decode()


def _result(episode: Episode) -> str:
    total = f"return {sum(episode.rewards):.2f}"
    if not episode.ended:
        return f"shown until step {len(episode) - 1}, {total} so far; the episode goes on"
    outcome = {True: ", success", False: ", no success", None: ""}[episode.success]
    return f"{len(episode)} steps, {total}{outcome}"


def _actions(policy: ActorCritic, env: TorchVectorEnv, episode: Episode) -> dict[str, Any]:
    if not episode.probabilities:
        return {"names": [], "numbers": _numbers(np.stack(episode.action))}
    names = env.action_names or tuple(map(str, range(len(episode.probabilities[0]))))
    table = np.stack(episode.probabilities)
    # more rows than that are not legible
    most = np.sort(np.argsort(-table.max(0), kind="stable")[:24])
    return {
        "names": [names[i] for i in most],
        "of": table.shape[1],
        "probability": _numbers(table[:, most]),
        "chosen": [int(np.searchsorted(most, a[0])) if a[0] in most else -1 for a in episode.action],
    }


def _value_note(policy: ActorCritic, episode: Episode) -> str:
    if not episode.values:
        return "The critic sees entries of the observation that the environment does not show here, so there are no values."
    if policy.spec.returns is not None:
        return "The policy learned from recorded episodes by return; its value function may be untrained."
    return ""


def _attention(policy: ActorCritic, episode: Episode) -> dict[str, Any] | None:
    """Weights [T, L, H, M + C + S + null] as bytes; their mean alone where that would be too much."""
    if not episode.attention:
        return None
    names = ("read", "cache", "steps", "null")
    weights = np.stack([np.concatenate([step[name] for name in names], axis=-1) for step in episode.attention])
    sizes = [episode.attention[0][name].shape[-1] for name in names]
    layers, heads = weights.shape[1:3]
    full = weights.size <= MOST_WEIGHTS
    mean = weights.mean((1, 2))
    return {
        "sizes": sizes,
        "layers": layers if full else 0,
        "heads": heads if full else 0,
        "segment": policy.backbone.segment,
        "weights": _bytes(weights) if full else "",
        "mean": _bytes(mean),
    }


def _writes(policy: ActorCritic, episode: Episode) -> dict[str, Any] | None:
    if not getattr(policy.backbone, "memory_tokens", 0):
        return None
    by_layer = getattr(policy.backbone, "by_layer", False)
    return {
        "tokens": len(policy.backbone.initial_memory),  # type: ignore[arg-type]
        "update": policy.config.memory_kind if by_layer else policy.config.memory_update,  # type: ignore[attr-defined]
        "of": "memory of each layer" if by_layer else "memory tokens",
        "letter": "L" if by_layer else "m",
        "segment": policy.backbone.segment,
        "steps": [write.step for write in episode.writes],
        "change": [_numbers(write.change) for write in episode.writes],
        "gate": [_numbers(write.gate) for write in episode.writes if write.gate is not None],
    }


def _hidden_state(policy: ActorCritic, episode: Episode) -> dict[str, Any] | None:
    """The hidden state [T, units] as bytes, 128 = 0, each group scaled by its largest number; and the norm of its change."""
    if HIDDEN not in episode.parts[0]:
        return None
    states = np.stack([step[HIDDEN].numpy() for step in episode.parts]).astype(np.float64)
    change = np.linalg.norm(np.diff(states, axis=0, prepend=np.zeros_like(states[:1])), axis=1)
    groups: list[tuple[str, int, int]] = []
    kept, begin = [], 0
    for name, size in hidden_groups(policy):
        room = MOST_UNITS - sum(shown for _, shown, _ in groups)
        part = states[:, begin : begin + min(size, room)]
        groups.append((name, part.shape[1], size))
        kept.append(part / max(np.abs(part).max(initial=0.0), 1e-12))
        begin += size
    table = np.concatenate(kept, axis=1)
    return {
        "groups": [{"name": name, "units": shown, "of": size} for name, shown, size in groups if shown],
        "state": _bytes((table * 127 + 128) / 255),
        "change": _numbers(change),
    }


def _probe(policy: ActorCritic, env: TorchVectorEnv, episode: Episode, probe: Probe | None) -> dict[str, Any] | None:
    if probe is None:
        return None
    segment, cache = (getattr(policy.backbone, name, 0) for name in ("segment", "cache_steps"))
    named: Mapping[str, Sequence[str]] = env.names_of_hidden()
    variables = []
    for name, readouts in probe.readouts.items():
        count = max(readout.probability.shape[1] for readout in readouts.values())
        values = list(named.get(name) or map(str, range(max(count, 1 + max(step[name] for step in episode.hidden)))))
        glance = look(episode, probe, name, values, segment, cache)
        variables.append(
            {
                "name": name,
                "values": values,
                "truth": [step[name] for step in episode.hidden],
                "shownAt": [t for t, step in enumerate(episode.shown) if step[name]],
                "sentence": glance.sentence,
                "part": glance.part,
                "changes": glance.changes,
                "events": {key: getattr(glance, key) for key in ("shown", "stored", "read", "used", "lost")},
                "right": [bool(x) for x in glance.right],
                "attention": None if glance.attention is None else _numbers(glance.attention),
                "parts": {
                    part: {
                        "probability": _numbers(readout.probability),
                        "accuracy": _numbers(readout.accuracy),
                        "chance": _numbers(readout.chance),
                    }
                    for part, readout in readouts.items()
                },
            }
        )
    return {"episodes": probe.episodes, "distinct": probe.distinct, "variables": variables}
