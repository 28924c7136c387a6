"""Every built-in environment satisfies the contract of `rmt_rl/envs/base.py`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import GYMNASIUM_IDS
from rmt_rl.config.envs import MiniGridMemoryConfig, TMazeConfig
from rmt_rl.config.fields import without_families
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.registry import GROUPS
from rmt_rl.envs.base import TorchVectorEnv
from rmt_rl.envs.checks.runner import Check, NotChecked
from rmt_rl.envs.checks.vector_env import (
    CHECKS,
    a_restored_state_continues,
    autoreset_in_the_same_step,
    floor_below_ceiling,
)
from rmt_rl.envs.registry import BUILTIN, make_env, make_from_config

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "tmaze": ("tmaze", {}),
    "tmaze mixed": ("tmaze", {"length": 6, "min_length": 2}),
    "tmaze short": ("tmaze", {"length": 4, "end_at_turn": True}),
    "tmaze active": ("tmaze-active", {"length": 4, "min_length": 2}),
    "tmaze RATE": ("tmaze-rate", {"length": 4, "min_length": 2}),
    "tmaze trial": ("tmaze-trial", {"episodes": 2, "length": 4, "min_length": 2}),
    "tmaze distractors": ("tmaze", {"length": 4, "distractors": True}),
    "tmaze endless": ("tmaze-endless", {"corridors": 2, "length": 2}),
    "cubes": ("color-cubes", {"size": 3, "cubes": 2, "phases": 2, "teleport": 0.3, "hide_colors": True}),
    "memory-len": ("memory-len", {"length": 5, "bits": 2}),
    "copy": ("copy", {"symbols": 3, "length": 2, "delay": 1}),
    "retrieval": ("associative-retrieval", {"keys": 4, "values": 3, "pairs": 3, "queries": 2}),
    "retrieval rewrite": ("associative-retrieval", {"keys": 2, "values": 3, "pairs": 3, "delay": 1, "rewrite": True}),
    "detect": ("detect", {"length": 6}),
    "reasoning": ("reasoning", {"length": 6}),
    "repeat-first": ("repeat-first", {}),
    "repeat-previous": ("repeat-previous", {}),
    "bandit": ("bandit", {"arms": 3, "length": 10}),
    "popgym autoencode": ("popgym-autoencode", {}),
    "popgym count-recall": ("popgym-count-recall", {"difficulty": "medium"}),
    "popgym higher-lower": ("popgym-higher-lower", {}),
    "popgym repeat-first": ("popgym-repeat-first", {}),
    "popgym repeat-previous": ("popgym-repeat-previous", {"difficulty": "medium"}),
    "popgym concentration": ("popgym-concentration", {}),
    "popgym battleship": ("popgym-battleship", {}),
    "popgym minesweeper": ("popgym-minesweeper", {}),
    "popgym bandit": ("popgym-multiarmed-bandit", {}),
    "popgym cartpole": ("popgym-position-only-cartpole", {}),
    "popgym velocities": ("popgym-velocity-only-cartpole", {}),
    "popgym pendulum": ("popgym-position-only-pendulum", {"difficulty": "hard"}),
    "popgym noise": ("popgym-noisy-position-only-pendulum", {}),
    "dark-room": ("dark-room", {"episodes": 2}),
    "minigrid S7": ("minigrid-memory", {}),
    "minigrid S11": ("minigrid-memory", {"size": 11, "view": 7}),
    "minigrid doorkey": ("minigrid-doorkey", {"size": 5, "max_steps": 20}),
    "minigrid doors": ("minigrid-redbluedoors", {"size": 6, "view": 5, "max_steps": 20}),
    "minigrid pixels": ("minigrid-memory", {"tile": 2}),
    "minigrid S13Random": ("minigrid-memory", {"id": "MiniGrid-MemoryS13Random-v0", "view": 7, "actions": 7}),
}
FOREIGN: dict[str, tuple[str, dict[str, Any]]] = {
    "cartpole": ("gym", {"id": "CartPole-v1", "options": {"max_episode_steps": 15}}),
    "frozenlake": ("gym", {"id": "FrozenLake-v1"}),
}
CASES = OURS | FOREIGN
CONTROL = ("popgym cartpole", "popgym velocities", "popgym pendulum", "popgym noise")
REAL_ACTIONS = CONTROL[2:]
WITHOUT_ORACLE = ("bandit", "dark-room", "minigrid doorkey", "minigrid doors", *CONTROL)
#: Tasks of POPGym, whose score is a return.
POPGYM = tuple(name for name in OURS if name.startswith("popgym"))
#: An expert cannot foresee the next card, or whether an arm pays.
WITH_LUCK = ("popgym higher-lower", "popgym bandit")
WITH_ORACLE = [name for name in OURS if name not in WITHOUT_ORACLE]
# tasks that give a reward without success, too
PAID_IN_PARTS = (
    "tmaze trial",
    "tmaze endless",
    "cubes",
    "copy",
    "retrieval",
    "repeat-first",
    "repeat-previous",
    "bandit",
    "dark-room",
    *POPGYM,
)
# random actions do not succeed: one mistake in some 50 steps is a failure, and two doors in order are rare
TOO_HARD_FOR_CHANCE = ("repeat-first", "repeat-previous", "minigrid doorkey", "minigrid doors")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
ROWS, STEPS = 6, 60

every = pytest.mark.parametrize("case", CASES)
ours = pytest.mark.parametrize("case", OURS)


def make(case: str, num_envs: int = ROWS, device: str = "cpu") -> Any:
    name, options = CASES[case]
    return make_env(name, num_envs, device, **options)


def actions(env: Any, steps: int = STEPS) -> Iterator[torch.Tensor]:
    """[B] random actions for each step; those of a row do not depend on the number of rows."""
    if isinstance(env.single_action_space, gymnasium.spaces.Box):
        for row in np.random.default_rng(0).uniform(-2, 2, size=(steps, 16, 1)).astype(np.float32)[:, : env.num_envs]:
            yield torch.from_numpy(row).to(env.device)
        return
    parts = getattr(env.single_action_space, "nvec", None)
    n = int(env.single_action_space.n if parts is None else parts[0])
    shape = (steps, 16) if parts is None else (steps, 16, len(parts))
    draws = np.random.default_rng(0).integers(n, size=shape)[:, : env.num_envs]
    if parts is None:
        # mostly the action that walks forward, so that episodes end
        forward = {2: 1, 3: 2, 5: 1, 7: 2}.get(n, 0)
        draws = np.where(np.random.default_rng(1).random((steps, 16))[:, : env.num_envs] < 0.6, forward, draws)
    for row in draws:
        yield torch.from_numpy(row).to(env.device)


def tensors(*values: Any) -> list[torch.Tensor]:
    """All tensors in nested tuples and dicts, in a fixed order."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            found += tensors(*(value[key] for key in sorted(value)))
        elif isinstance(value, tuple | list):
            found += tensors(*value)
    return found


def same(a: Any, b: Any) -> bool:
    left, right = tensors(a), tensors(b)
    assert left, "nothing was compared"
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def play(env: Any, steps: int = STEPS, **reset: Any) -> list[Any]:
    """The results of a reset and some steps."""
    return [env.reset(**reset), *(env.step(action) for action in actions(env, steps))]


#: Tasks whose `hidden` changes within an episode, as their classes say.
CHANGING = (
    "repeat-previous",
    "tmaze endless",
    "cubes",
    *(f"popgym {x}" for x in ("autoencode", "count-recall", "repeat-previous")),
)
WITHOUT_HIDDEN = (
    *("minigrid doorkey", "minigrid doors", *FOREIGN),
    *(f"popgym {x}" for x in ("higher-lower", "concentration", "battleship", "minesweeper")),
    *CONTROL,
)


@pytest.mark.thorough
@every
def test_the_hidden_variables_are_whole_numbers_with_names_and_do_not_change_within_an_episode(case: str) -> None:
    env = make(case)
    env.reset(seed=3)
    before, seen, ends = env.hidden(), set(), 0
    assert bool(before) != (case in WITHOUT_HIDDEN)
    names = env.names_of_hidden()
    assert names.keys() <= before.keys()
    for action in actions(env):
        *_, info = env.step(action)
        now, shown = env.hidden(), env.shown()
        assert now.keys() == before.keys() == shown.keys()
        for name, value in now.items():
            assert (value.shape, value.dtype, shown[name].shape) == ((ROWS,), torch.int64, (ROWS,))
            assert shown[name].dtype == torch.bool
            assert int(value.min()) >= 0 and int(value.max()) < len(names.get(name, range(100)))
            same_episode = ~info["_final_obs"]
            if case not in CHANGING:
                assert torch.equal(value[same_episode], before[name][same_episode])
            seen |= {(name, int(v)) for v in value}
        before, ends = now, ends + int(info["_final_obs"].sum())
    assert case in WITHOUT_HIDDEN or len(seen) > len(before)  # not always the same value


def test_wrappers_pass_the_hidden_variables_on() -> None:
    env = make_from_config(TMazeConfig(length=3), 4, memory=MemoryConfig(scope="trial", episodes=2))
    env.reset(seed=0)
    assert env.hidden()["cue"].tolist() == env.env.hidden()["cue"].tolist()  # type: ignore[attr-defined]
    assert env.shown()["cue"].all() and env.names_of_hidden() == {"cue": ("down", "up")}


@pytest.mark.parametrize("case", [name for name in OURS if name not in WITHOUT_HIDDEN])
def test_hidden_variables_do_not_exist_before_the_first_reset(case: str) -> None:
    if case != "minigrid pixels":  # its own check of the package comes first
        with pytest.raises(RuntimeError, match=r"hidden was called before reset; call reset"):
            make(case, 1).hidden()
        with pytest.raises(RuntimeError, match=r"shown was called before reset; call reset"):
            make(case, 1).shown()


@pytest.mark.parametrize("case", ["tmaze", "tmaze RATE", "tmaze trial", "memory-len", "repeat-first"])
def test_a_variable_is_shown_where_the_observation_depends_on_it(case: str) -> None:
    """The observations of rows whose hidden variables differ are equal until they are shown."""
    env = make(case, 16)
    obs, _ = env.reset(seed=0)
    shown, value = next(iter(env.shown().values())), next(iter(env.hidden().values()))
    assert shown.all()
    rows = {int(v): row for row, v in enumerate(value)}
    assert len(rows) > 1 and len({str(obs[row].tolist()) for row in rows.values()}) == len(rows)


def test_the_cue_of_the_active_maze_is_shown_when_it_is_fetched() -> None:
    env = make("tmaze active", 2)
    env.reset(seed=0)
    assert not env.shown()["cue"].any()
    env.step(torch.tensor([2, 0]))  # one walks back to the cue, the other away from it
    assert env.shown()["cue"].tolist() == [True, False]


def test_every_built_in_environment_is_tested_here() -> None:
    # other tests may register environments of their own in this process
    assert set(BUILTIN) <= set(GROUPS["env"])
    assert set(BUILTIN) == {name for name, _ in CASES.values()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=check.run.__name__) for check in CHECKS],
)
@pytest.mark.thorough
@every
def test_every_environment_passes_the_checks_of_the_check_command(case: str, check: Check, device: str) -> None:
    try:
        check.run(lambda num_envs: make(case, num_envs, device))
    except NotChecked:
        # scores may be unknown; the state of a gymnasium environment cannot be saved, and FrozenLake's steps are random
        allowed = {floor_below_ceiling}
        allowed |= {a_restored_state_continues} if case in FOREIGN else set()
        allowed |= {autoreset_in_the_same_step} if case == "frozenlake" else set()
        assert check.run in allowed


@pytest.mark.thorough
@every
def test_the_info_of_a_reset_is_empty(case: str) -> None:
    assert make(case).reset(seed=0)[1] == {}


@ours
def test_there_is_no_state_before_the_first_reset(case: str) -> None:
    with pytest.raises(RuntimeError, match="before reset"):
        make(case).state_dict()


@pytest.mark.thorough
@pytest.mark.parametrize("case", [case for case in OURS if case not in REAL_ACTIONS])
def test_actions_may_be_tensors_numpy_arrays_or_lists(case: str) -> None:
    of_torch, of_numpy, of_lists = (make(case, 3) for _ in range(3))
    for env in (of_torch, of_numpy, of_lists):
        env.reset(seed=0)
    for action in actions(of_torch, 20):
        expected = of_torch.step(action)
        assert same(of_numpy.step(action.numpy().astype(np.uint8)), expected)
        assert same(of_lists.step(action.tolist()), expected)
    for wrong in (None, "right", [0, [1, 2], 0], torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"expected (3 (x 2 )?)?integers"):
            of_torch.step(wrong)


@pytest.mark.slow
@ours
def test_success_terminates_the_episode_with_a_reward(case: str) -> None:
    env, successes = make(case, 16), 0
    for _, reward, terminated, _, info in play(env, 200, seed=0)[1:]:
        assert ("success" in info) == (env.measure == "success")
        success = info.get("success", torch.zeros_like(terminated))
        assert not (success & ~terminated).any()
        if case not in PAID_IN_PARTS:
            assert (reward[success] > 0).all()
            assert (reward[~success] <= 0).all()
        successes += int(success.sum())
    assert (successes > 0) == (env.measure == "success" and case not in TOO_HARD_FOR_CHANCE)


@pytest.mark.parametrize(
    ("case", "action", "length", "flags"),
    [
        ("tmaze", 2, 11, (True, False)),  # left, into the wall: the end is a rule of the task, not a time limit
        ("tmaze short", 2, 10, (False, True)),
        ("memory-len", 0, 6, (True, False)),
        ("copy", 0, 5, (True, False)),
        ("retrieval", 0, 5, (True, False)),
        ("detect", 0, 7, (True, False)),
        ("reasoning", 0, 7, (True, False)),
        ("repeat-first", 0, 51, (True, False)),
        ("repeat-previous", 0, 51, (True, False)),
        ("bandit", 0, 10, (True, False)),
        ("dark-room", 0, 41, (True, False)),
        ("minigrid S7", 0, 245, (False, True)),  # turning in place
        ("minigrid doorkey", 0, 20, (False, True)),
        ("cartpole", None, 15, (False, True)),
    ],
)
def test_a_time_limit_truncates_and_the_end_of_the_task_terminates(
    case: str, action: int | None, length: int, flags: tuple[bool, bool]
) -> None:
    env = make(case, 2)
    env.reset(seed=0)
    for t in range(1, length + 1):
        chosen = t % 2 if action is None else action  # alternating left and right keeps the pole up for a while
        _, _, terminated, truncated, _ = env.step(torch.full((2,), chosen))
        assert (terminated | truncated).tolist() == [t == length] * 2
    assert (terminated.tolist(), truncated.tolist()) == ([flags[0]] * 2, [flags[1]] * 2)


@ours
def test_a_state_holds_tensors_and_json_values_only(case: str) -> None:
    env = make(case)
    env.reset(seed=0)
    json.dumps(env.state_dict(), default=torch.Tensor.tolist)  # raises for anything else


@pytest.mark.thorough
@ours
def test_a_state_with_another_number_of_rows_is_rejected(case: str) -> None:
    env, other = make(case, 2), make(case, 3)
    play(env, 5, seed=0)
    other.reset(seed=0)
    with pytest.raises(ValueError, match="2 rows"):
        other.load_state_dict(env.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in OURS if not case.startswith(("minigrid", "popgym"))]
)  # they draw ahead on the CPU
def test_a_step_reads_no_value_back_from_the_device_but_the_range_of_actions(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmt_rl.common.device.choose_device", torch.device)  # which refuses "meta"
    env = make(case, device="meta")  # tensors without values: reading one raises
    monkeypatch.setattr(TorchVectorEnv, "_read_action", lambda self, action_B, *sizes: action_B)
    env.reset(seed=0)
    for _ in range(3):
        obs, *_ = env.step(torch.zeros(ROWS, dtype=torch.int64, device="meta"))
        assert obs.shape == env.observation_space.shape


@pytest.mark.thorough
@ours
def test_options_of_reset_are_rejected(case: str) -> None:
    with pytest.raises(ValueError, match="options"):
        make(case).reset(seed=0, options={"length": 3})


@pytest.mark.thorough
@every
@pytest.mark.parametrize("seed", [None, 70], ids=["next", "seeded"])
def test_a_mask_restarts_its_rows_and_the_others_go_on(case: str, seed: int | None) -> None:
    rows, mask = 3, np.array([True, False, True])
    together, alone = make(case, rows), [make(case, 1) for _ in range(rows)]
    with pytest.raises(ValueError, match=r"^reset_mask was given before the first reset; reset all rows first"):
        together.reset(options={"reset_mask": mask})
    together.reset(seed=5)
    for row, env in enumerate(alone):
        env.reset(seed=5 + row)
    acts = list(actions(together, 24))
    for action in acts[:3]:
        shown, expected = (
            together.step(action)[0],
            [env.step(action[row : row + 1])[0] for row, env in enumerate(alone)],
        )
    obs, info = together.reset(seed=seed, options={"reset_mask": mask})
    for row in (0, 2):
        expected[row] = alone[row].reset(seed=None if seed is None else seed + row)[0]
    assert info == {} and same(_rows(obs), expected) and same(_rows(obs)[1], _rows(shown)[1])
    for action in acts[3:]:
        stepped = together.step(action)[:4]
        assert same(
            [_rows(part) for part in stepped],
            [
                list(parts)
                for parts in zip(*(env.step(action[row : row + 1])[:4] for row, env in enumerate(alone)), strict=True)
            ],
        )


def _rows(value: Any) -> list[Any]:
    """A batch as one batch for every row."""
    if isinstance(value, dict):
        return [dict(zip(value, row, strict=True)) for row in zip(*map(_rows, value.values()), strict=True)]
    return list(value.split(1))


@pytest.mark.thorough
@every
def test_np_random_seed_is_a_tuple_of_the_seeds_of_the_rows(case: str) -> None:
    env = make(case, 2)
    env.reset(seed=5)
    assert env.np_random_seed == (5, 6)
    env.reset()
    assert env.np_random_seed == (5, 6)
    env.reset(seed=20, options={"reset_mask": np.array([False, True])})
    assert env.np_random_seed == (5, 21)
    env.reset(seed=[3, 9])
    assert env.np_random_seed == (3, 9)


@pytest.mark.thorough
@every
def test_zero_rows_are_rejected(case: str) -> None:
    with pytest.raises(ValueError, match="num_envs is 0"):
        make(case, 0)


@every
def test_the_floor_lies_below_the_ceiling(case: str) -> None:
    env = make(case)
    if case in FOREIGN:
        assert (env.floor, env.ceiling) == (None, None)
    else:
        known = {"bandit": 0.75, "dark-room": 41 / 81, "minigrid doorkey": None, "minigrid doors": None}
        known |= {"popgym bandit": 9 / 11, "popgym higher-lower": 0.5275997079036479}
        known |= dict.fromkeys(REAL_ACTIONS)
        assert env.ceiling == known.get(case, 1.0)
        assert env.task
        assert env.floor is None or (-1 if case in POPGYM else 0) <= env.floor < env.ceiling
    assert env.floor is not None or case in (
        *FOREIGN,
        "cubes",
        "minigrid S13Random",
        "minigrid doorkey",
        "minigrid doors",
        *(f"popgym {x}" for x in ("concentration", "battleship", "minesweeper")),
        *CONTROL,
    )


def test_options_are_those_of_the_dataclass() -> None:
    assert make_env("tmaze", length=7).longest == make_from_config(TMazeConfig(length=7)).longest == 7
    assert make_env("tmaze").longest == TMazeConfig().length


def test_a_registered_minigrid_id_sets_size_and_random() -> None:
    by_id = make_env("minigrid-memory", 4, id="MiniGrid-MemoryS13Random-v0")
    by_config = make_from_config(MiniGridMemoryConfig(id="MiniGrid-MemoryS13Random-v0"), 4)
    by_size = make_env("minigrid-memory", 4, size=13, random=True)
    assert make_env("minigrid-memory", id="MiniGrid-MemoryS13Random-v0", size="13").max_steps == by_id.max_steps
    assert by_id.max_steps == 5 * 13**2
    assert same(play(by_id, seed=0), play(by_size, seed=0))
    assert same(play(by_id, seed=0), play(by_config, seed=0))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "tmaze",
            {"lenght": 5},
            "env.lenght: no such option; tmaze has length, min_length, end_at_turn, distractors; did you mean length?",
        ),
        ("tmaze", {"length": 0}, "env.length=0: expected a whole number, at least 1 and at most 10000000"),
        *(
            (maze, {"length": 5, "min_length": 6}, "env.min_length=6: expected at most env.length=5")
            for maze in ("tmaze", "tmaze-active", "tmaze-rate", "tmaze-trial")
        ),
        (
            "associative-retrieval",
            {"keys": 3, "pairs": 4},
            "env.pairs=4: expected at most env.keys=3, or env.rewrite=true",
        ),
        ("associative-retrieval", {"queries": 5}, "env.queries=5: expected at most env.pairs=4"),
        (
            "repeat-previous",
            {"k": 104, "decks": 2},
            "env.k=104: expected at most 103, one less than the cards of env.decks=2",
        ),
        (
            "minigrid-memory",
            {"id": "MiniGrid-MemoryS13-v0", "size": 7},
            "env.size=7: env.id=MiniGrid-MemoryS13-v0 means env.size=13; give only one of them",
        ),
    ],
)
def test_an_error_names_the_allowed_names_options_and_values(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_env(name, **options)
    assert str(caught.value) == message


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        make_env("tmaz")
    assert str(caught.value).startswith(f"env=tmaz: expected one of {', '.join(without_families(BUILTIN))}")
    assert str(caught.value).endswith("; did you mean tmaze?")


def test_importing_the_registry_does_not_import_torch() -> None:
    code = "import rmt_rl.envs.registry, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("id", GYMNASIUM_IDS)
@pytest.mark.parametrize("mode", ["vector_entry_point", None])
def test_gymnasium_makes_built_in_tasks_by_their_id(id: str, mode: str | None) -> None:
    env: Any = gymnasium.make_vec(id, num_envs=4, vectorization_mode=mode, device="cpu")  # type: ignore[arg-type]
    assert type(env) is type(make_env(GYMNASIUM_IDS[id]))
    assert same(play(env, seed=1), play(make_env(GYMNASIUM_IDS[id], 4), seed=1))


def test_gymnasium_passes_options_on() -> None:
    assert gymnasium.make_vec("rmt_rl/TMaze-v0", num_envs=4, length=33).longest == 33


@pytest.mark.parametrize("case", [case for case in WITH_ORACLE if case not in WITH_LUCK])
def test_the_actions_of_the_oracle_reach_the_ceiling(case: str) -> None:
    env = make(case)
    with pytest.raises(RuntimeError, match="before reset"):
        env.oracle()
    env.reset(seed=0)
    ended, returns = 0, torch.zeros(ROWS, dtype=torch.float64)
    while ended < 20:
        _, reward, terminated, truncated, info = env.step(env.oracle())
        over, returns = terminated | truncated, returns + reward
        reached = info["success"] if env.measure == "success" else (returns - 1).abs() < 1e-9
        assert bool(reached[over].all())
        returns[over] = 0
        ended += int(over.sum())
    assert env.ceiling == 1.0


@pytest.mark.parametrize("case", [case for case in CASES if case not in WITH_ORACLE])
def test_the_oracle_of_a_task_without_one_raises_an_error(case: str) -> None:
    env = make(case)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="has no oracle; learn from recorded episodes"):
        env.oracle()


@pytest.mark.parametrize("case", WITH_ORACLE)
def test_the_oracle_continues_from_a_restored_state(case: str) -> None:
    env, other = make(case), make(case)
    env.reset(seed=0)
    for _ in range(7):
        env.step(env.oracle())
    other.load_state_dict(env.state_dict())
    for _ in range(20):
        action = env.oracle()
        assert torch.equal(other.oracle(), action)
        env.step(action)
        other.step(action)


ONE_STEP: list[tuple[str, dict[str, Any]]] = [
    ("tmaze", {"length": 1}),
    ("tmaze-active", {"length": 1}),
    ("tmaze-rate", {"length": 1}),
    ("tmaze-trial", {"length": 1}),
    ("memory-len", {"length": 2}),
    ("copy", {"delay": 1}),
    ("associative-retrieval", {"pairs": 1}),
    ("detect", {"length": 1}),
    ("bandit", {"length": 1}),
    ("dark-room", {"episodes": 1}),
]


@pytest.mark.parametrize(("name", "options"), ONE_STEP)
def test_the_text_of_a_task_has_no_plural_after_one(name: str, options: dict[str, Any]) -> None:
    text = make_env(name, **options).task
    assert not re.search(r"\b1 (\w+ )?(step|cell|walk|pull|bit|episode)s\b", text.replace("to 1 ", "1 ")), text
