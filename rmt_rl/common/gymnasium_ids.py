"""The ids under which gymnasium knows the built-in tasks.

`import rmt_rl` runs this file, so it does not import the rest of the package. The ids are therefore written here; a test compares
them with the registered tasks.
"""

from __future__ import annotations

import gymnasium

#: The name of the task, as in env=<name>, by its id.
GYMNASIUM_IDS = {
    "rmt_rl/MiniGridMemory-v0": "minigrid-memory",
    "rmt_rl/DoorKey-v0": "minigrid-doorkey",
    "rmt_rl/RedBlueDoors-v0": "minigrid-redbluedoors",
    "rmt_rl/TMaze-v0": "tmaze",
    "rmt_rl/TMazeActive-v0": "tmaze-active",
    "rmt_rl/TMazeRATE-v0": "tmaze-rate",
    "rmt_rl/TMazeTrial-v0": "tmaze-trial",
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
