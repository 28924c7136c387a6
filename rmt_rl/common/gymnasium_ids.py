"""The ids under which gymnasium knows the built-in tasks.

`import rmt_rl` runs this file, so it does not import the rest of the package. The ids are therefore written here; a test compares
them with the registered tasks.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from typing import Any

import gymnasium

#: The name of the task, as in env=<name>, by its id.
GYMNASIUM_IDS = {
    "rmt_rl/MiniGridMemory-v0": "minigrid-memory",
    "rmt_rl/DoorKey-v0": "minigrid-doorkey",
    "rmt_rl/RedBlueDoors-v0": "minigrid-redbluedoors",
    "rmt_rl/POPGymAutoencode-v0": "popgym-autoencode",
    "rmt_rl/POPGymRepeatFirst-v0": "popgym-repeat-first",
    "rmt_rl/POPGymRepeatPrevious-v0": "popgym-repeat-previous",
    "rmt_rl/POPGymCountRecall-v0": "popgym-count-recall",
    "rmt_rl/POPGymHigherLower-v0": "popgym-higher-lower",
    "rmt_rl/POPGymConcentration-v0": "popgym-concentration",
    "rmt_rl/POPGymBattleship-v0": "popgym-battleship",
    "rmt_rl/POPGymMineSweeper-v0": "popgym-minesweeper",
    "rmt_rl/POPGymMultiarmedBandit-v0": "popgym-multiarmed-bandit",
    "rmt_rl/POPGymPositionOnlyCartPole-v0": "popgym-position-only-cartpole",
    "rmt_rl/POPGymVelocityOnlyCartPole-v0": "popgym-velocity-only-cartpole",
    "rmt_rl/POPGymPositionOnlyPendulum-v0": "popgym-position-only-pendulum",
    "rmt_rl/POPGymNoisyPositionOnlyPendulum-v0": "popgym-noisy-position-only-pendulum",
    "rmt_rl/TMaze-v0": "tmaze",
    "rmt_rl/TMazeActive-v0": "tmaze-active",
    "rmt_rl/TMazeRATE-v0": "tmaze-rate",
    "rmt_rl/TMazeTrial-v0": "tmaze-trial",
    "rmt_rl/TMazeEndless-v0": "tmaze-endless",
    "rmt_rl/ColorCubes-v0": "color-cubes",
    "rmt_rl/MemoryLen-v0": "memory-len",
    "rmt_rl/Copy-v0": "copy",
    "rmt_rl/AssociativeRetrieval-v0": "associative-retrieval",
    "rmt_rl/Detect-v0": "detect",
    "rmt_rl/Reasoning-v0": "reasoning",
    "rmt_rl/RepeatFirst-v0": "repeat-first",
    "rmt_rl/RepeatPrevious-v0": "repeat-previous",
    "rmt_rl/Bandit-v0": "bandit",
    "rmt_rl/DarkRoom-v0": "dark-room",
}


def register_with_gymnasium() -> None:
    """Register the built-in tasks for `gymnasium.make(id, **options)` and `gymnasium.make_vec(id, num_envs, **options)`.

    Both do not accept MiniGridMemory's option `id`, because their own first argument has that name; use size and random.
    """
    for id, name in GYMNASIUM_IDS.items():
        if id not in gymnasium.registry:
            gymnasium.register(
                id,
                entry_point="rmt_rl.envs.single:SingleEnv",
                vector_entry_point="rmt_rl.envs.registry:make_env",
                kwargs={"name": name},
            )


def task_spec(task: Mapping[str, Any]) -> str | None:
    """gymnasium's EnvSpec, as JSON, of a built-in task {"name": ..., **options}; None for any other environment."""
    for id, name in GYMNASIUM_IDS.items():
        if name == task["name"]:
            spec = copy.copy(gymnasium.registry[id])
            spec.kwargs = dict(task)
            return spec.to_json()
    return None


def near_ids(wanted: str) -> list[str]:
    """The registered ids whose names are like that of `wanted`, nearest first, at most three; of each the newest version."""
    newest: dict[tuple[str, str], str] = {}
    for id in sorted(gymnasium.registry, key=lambda id: gymnasium.registry[id].version or 0):
        newest[_parts(id)] = id
    namespace, name = _parts(wanted)
    # without the version: two characters in common would make a short name similar to any other
    close = difflib.get_close_matches(name, dict.fromkeys(known for _, known in newest), n=3, cutoff=0.75)
    found = [(close.index(key[1]), key[0] != namespace, id) for key, id in newest.items() if key[1] in close]
    return [id for *_, id in sorted(found)][:3]


def meant_id(text: str) -> str:
    """The id of gymnasium's registry that the text probably is, or the text: another package may have it."""
    if ":" in text or text in gymnasium.registry:
        return text
    # not our own tasks, whose names env= takes, and not less similar ones: ids of one package share long prefixes
    name = _parts(text)[1]
    near = [id for id in near_ids(text) if id not in GYMNASIUM_IDS]
    return near[0] if near and difflib.SequenceMatcher(None, name, _parts(near[0])[1]).ratio() > 0.85 else text


def without_version(id: str) -> str:
    """The id without the module that gymnasium imports for it and without its version, both of which may be missing."""
    return re.sub(r"-v[0-9]+$", "", id.rpartition(":")[2])


def _parts(id: str) -> tuple[str, str]:
    """(namespace, name without its version), in small letters."""
    namespace, _, name = without_version(id).lower().rpartition("/")
    return namespace, name
