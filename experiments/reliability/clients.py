"""What other libraries' checks, and programs written for them, say of our environments.

    pip install stable-baselines3 sb3-contrib d3rlpy
    python experiments/reliability/clients.py [--packages gymnasium torchrl] [--tasks tmaze tmaze-active]

Every claim is checked on every task: the built-in ones and some of gymnasium. The claims for gymnasium and torchrl are what their
own test suites assert of environments of any kind. Prints a markdown table; packages that are not installed are named.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib.util
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence

import rmt_rl
from rmt_rl.collect import main as collect_main
from rmt_rl.common.gymnasium_ids import GYMNASIUM_IDS
from rmt_rl.envs.single import NumpyVectorEnv

os.environ.setdefault("RL_LOGGING_LEVEL", "ERROR")

ROWS, STEPS = 3, 20
#: Options that make episodes short, so that a few steps see several.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"length": 3} for name in ("tmaze", "tmaze-active", "tmaze-rate")},
    "tmaze-trial": {"length": 2, "episodes": 2},
    "memory-len": {"length": 4},
    "minigrid-memory": {"max_steps": 6},
    "minigrid-doorkey": {"size": 5, "max_steps": 6},
    "minigrid-redbluedoors": {"size": 4, "max_steps": 6},
    "bandit": {"length": 7},
    "dark-room": {"episodes": 1},
}
BUILT_IN = {name: id for id, name in GYMNASIUM_IDS.items()}
#: Task -> name and options of rmt_rl.make_env.
TASKS: dict[str, dict[str, Any]] = {
    **{name: {"name": name, **SHORT.get(name, {})} for name in BUILT_IN},
    **{
        id: {"name": "gym", "id": id, "options": {"max_episode_steps": 7}}
        for id in ("CartPole-v1", "Pendulum-v1", "FrozenLake-v1")
    },
}

#: (package, claim, whether it is about built-in tasks only, the function that raises where it does not hold)
CLAIMS: list[tuple[str, str, bool, Callable[[str], None]]] = []


def claim(package: str, text: str, built_in: bool = False) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    def add(check: Callable[[str], None]) -> Callable[[str], None]:
        CLAIMS.append((package, text, built_in, check))
        return check

    return add


def batch(task: str, rows: int = ROWS) -> Any:
    options = dict(TASKS[task])
    return rmt_rl.make_env(options.pop("name"), rows, **options)


def arrays(task: str) -> Any:
    return NumpyVectorEnv(batch(task))


def single(task: str, **options: Any) -> Any:
    return gymnasium.make(BUILT_IN[task], **SHORT.get(task, {}), **options)


def play(env: Any, seed: int | None = 0, steps: int = STEPS) -> Iterator[Any]:
    """reset and steps with random actions, which depend on nothing but `seed`."""
    yield env.reset(seed=seed)
    env.action_space.seed(seed)
    for _ in range(steps):
        yield env.step(env.action_space.sample())


def raises(kind: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"expected {kind}")


# ------------------------------------------------------------------------------------------------------ gymnasium


@claim("gymnasium", "`check_env` finds nothing, with rendering", built_in=True)
def _(task: str) -> None:
    check_env(single(task, render_mode="rgb_array").unwrapped)


@claim("gymnasium", "seeds: `np_random_seed`, and random seeds where none is given", built_in=True)
def _(task: str) -> None:
    env = single(task)
    env.reset(seed=5)
    assert env.unwrapped.np_random_seed == 5
    assert single(task).unwrapped.np_random_seed != single(task).unwrapped.np_random_seed


@claim("gymnasium", "actions and observations are in the batched spaces, results have the rows on axis 0")
def _(task: str) -> None:
    env = arrays(task)
    expected = gymnasium.vector.utils.batch_space(env.single_observation_space, ROWS)
    assert env.observation_space == expected
    assert env.action_space == gymnasium.vector.utils.batch_space(env.single_action_space, ROWS)
    results = list(play(env))
    assert results[0][0] in env.observation_space
    for obs, reward, terminated, truncated, _ in results[1:]:
        assert obs in env.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (ROWS,)
        assert reward.dtype == np.float64 and terminated.dtype == truncated.dtype == np.bool_


@claim("gymnasium", "equal seeds give equal results, infos included")
def _(task: str) -> None:
    assert data_equivalence(list(play(arrays(task))), list(play(arrays(task))))


@claim("gymnasium", "a batch equals `SyncVectorEnv` of the single environments", built_in=True)
def _(task: str) -> None:
    ours = arrays(task)
    theirs = gymnasium.vector.SyncVectorEnv(
        [partial(single, task)] * ROWS, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
    )
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert (ours.observation_space, ours.action_space) == (theirs.observation_space, theirs.action_space)
    for mine, other in zip(play(ours), play(theirs), strict=True):
        assert data_equivalence(mine[:-1], other[:-1])
        ended = other[-1].get("_final_obs", np.zeros(ROWS, bool))
        for row in np.flatnonzero(ended):
            last = mine[-1]["final_obs"]
            last = {key: x[row] for key, x in last.items()} if isinstance(last, dict) else last[row]
            assert np.all(mine[-1]["_final_obs"] == ended) and data_equivalence(
                last, other[-1]["final_obs"][row], False
            )


@claim("gymnasium", "`np_random_seed` is the tuple of the rows' seeds, also after a reset without a seed")
def _(task: str) -> None:
    env = arrays(task)
    for seed in (42, None):
        env.reset(seed=seed)
        assert env.np_random_seed == tuple(range(42, 42 + ROWS))


@claim("gymnasium", "`reset_mask` resets its rows and leaves the others as they are")
def _(task: str) -> None:
    env = arrays(task)
    *_, (before, *_) = play(env, steps=3)
    after, _ = env.reset(seed=[0, 1, 0], options={"reset_mask": np.array([True, True, False])})
    start, _ = arrays(task).reset(seed=[0, 1, 2])
    pairs = [(before[k], after[k], start[k]) for k in after] if isinstance(after, dict) else [(before, after, start)]
    for old, new, first in pairs:
        assert np.all(new[:2] == first[:2]) and np.all(new[2] == old[2])


@claim("gymnasium", "a `reset_mask` of another shape or type, or without rows, raises ValueError or TypeError")
def _(task: str) -> None:
    env = arrays(task)
    env.reset(seed=0)
    for mask in ([True], [True] * 4, [[True] * 3], [False] * 3, [1, 1, 0], [1.0, 1.0, 0.0]):
        raises((ValueError, TypeError), lambda mask=mask: env.reset(options={"reset_mask": np.array(mask)}))


@claim("gymnasium", "too few actions, too many and a single number raise ValueError or TypeError")
def _(task: str) -> None:
    env = arrays(task)
    env.reset(seed=0)
    good = env.action_space.sample()
    for bad in (good[:-1], np.concatenate([good, good[:1]]), 0):
        raises((ValueError, TypeError), lambda bad=bad: env.step(bad))
    env.step(good)


@claim("gymnasium", "returned observations are not written to later")
def _(task: str) -> None:
    shown = [result[0] for result in play(arrays(task))]
    again = [copy.deepcopy(result[0]) for result in play(arrays(task))]
    assert data_equivalence(shown, again)


@claim("gymnasium", "wrappers of `gymnasium.wrappers.vector` pass everything on, and statistics of episodes are right")
def _(task: str) -> None:
    from gymnasium.wrappers import vector

    env = vector.RecordEpisodeStatistics(vector.TransformReward(arrays(task), lambda r: 2 * r))
    assert env.num_envs == ROWS and env.unwrapped is env.env.env.unwrapped
    total, ends = np.zeros(ROWS), 0
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(60):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += reward
        for row in np.flatnonzero(terminated | truncated):
            assert np.isclose(info["episode"]["r"][row], total[row])
            total[row], ends = 0, ends + 1
    assert ends or task in ("copy", "associative-retrieval", "detect", "reasoning")


@claim("gymnasium", "closing twice is no error")
def _(task: str) -> None:
    env = arrays(task)
    env.reset(seed=0)
    env.close()
    env.close()


# -------------------------------------------------------------------------------------------------------- torchrl


def bridge(task: str, rows: int = ROWS) -> Any:
    from rmt_rl.torchrl import TorchRLEnv

    return TorchRLEnv(batch(task, rows))


def rollout(env: Any, seed: int = 0, steps: int = STEPS, **options: Any) -> Any:
    torch.manual_seed(seed)
    env.set_seed(seed)
    return env.rollout(steps, break_when_any_done=False, **options)


def same(a: Any, b: Any) -> bool:
    """Whether two tensordicts hold equal numbers."""
    pairs = [(a[key], b[key]) for key in a.keys(True, True)]
    return a.shape == b.shape and all(torch.equal(x, y) for x, y in pairs)


@claim("torchrl", "`check_env_specs`, 1 and 3 rows, with and without breaks at ends")
def _(task: str) -> None:
    from torchrl.envs import check_env_specs

    for rows in (1, ROWS):
        check_env_specs(bridge(task, rows), break_when_any_done="both")


@claim("torchrl", "`rollout_consistency_assertion` of torchrl.testing")
def _(task: str) -> None:
    from torchrl.testing import rollout_consistency_assertion

    env = bridge(task)
    for key in env.observation_spec.keys(True, True):
        if key != "success":
            rollout_consistency_assertion(rollout(env, steps=60), observation_key=key)


@claim("torchrl", "equal seeds give equal rollouts, another seed another one")
def _(task: str) -> None:
    first, again, other = (rollout(bridge(task), seed, 60) for seed in (1, 1, 2))
    assert same(first, again) and not same(first, other)


@claim("torchrl", "a rollout that is continued from its last step equals one long rollout")
def _(task: str) -> None:
    from torchrl.envs.utils import step_mdp

    env = bridge(task)
    whole, parts, at = rollout(env), [], None
    torch.manual_seed(0)
    env.set_seed(0)
    for _ in range(4):
        kept: dict[str, Any] = {} if at is None else {"auto_reset": False, "tensordict": at}
        parts.append(env.rollout(STEPS // 4, break_when_any_done=False, **kept))
        at = env.maybe_reset(step_mdp(parts[-1][..., -1]))
    assert same(whole, torch.cat(parts, -1))


@claim("torchrl", "a rollout with `set_truncated` ends with truncation in every row")
def _(task: str) -> None:
    last = rollout(bridge(task), set_truncated=True)[..., -1]["next"]
    assert bool(last["done"].all()) and bool((last["truncated"] | last["terminated"]).all())


@claim("torchrl", "a reset of some rows changes neither observations nor flags of the others")
def _(task: str) -> None:
    env = bridge(task)
    td = rollout(env, steps=4)[..., -1]["next"].exclude("reward")
    mask = torch.tensor([[True], [False], [True]])
    after = env.reset(td.clone().set("_reset", mask))
    assert not bool(after["done"][mask].any())
    assert same(after[1].select(*td.keys()), td[1])


@claim("torchrl", "`run_type_checks` finds values of the specs' types")
def _(task: str) -> None:
    env = bridge(task)
    env.run_type_checks = True
    rollout(env)


@claim("torchrl", "a policy that returns a new tensordict, one that changes its own, and breaks at ends")
def _(task: str) -> None:
    def act(td: Any) -> Any:
        return env.rand_action(td)

    def new(td: Any) -> Any:
        return td.empty().set("action", env.rand_action(td.clone())["action"])

    env = bridge(task)
    assert same(rollout(env, policy=act), rollout(env, policy=new))
    for how in ({"break_when_any_done": True}, {"break_when_all_done": True, "break_when_any_done": False}):
        done = env.rollout(60, **how)["next", "done"]
        assert not bool(done[:, :-1].all(0).any())


@claim("torchrl", "`SerialEnv` of two batches: specs, consistency, and steps of one of them only (`_step`)")
def _(task: str) -> None:
    from torchrl.envs import SerialEnv, check_env_specs

    env = SerialEnv(2, partial(bridge, task))
    check_env_specs(env)
    td = env.reset()
    td = env.rand_action(td).set("_step", torch.tensor([[False] * ROWS, [True] * ROWS]))
    td = env.step(td)
    assert same(td[0]["next"].select("observation"), td[0].select("observation"))


@claim("torchrl", "transforms: InitTracker, RewardSum, RewardScaling, StepCounter with a time limit")
def _(task: str) -> None:
    from torchrl.envs import (
        Compose,
        InitTracker,
        RewardScaling,
        RewardSum,
        StepCounter,
        TransformedEnv,
        check_env_specs,
    )

    parts = Compose(InitTracker(), RewardScaling(0.0, 2.0), RewardSum(), StepCounter(max_steps=5))
    env = TransformedEnv(bridge(task), parts)
    check_env_specs(env, break_when_any_done="both")
    td = rollout(env)
    assert int(td["next", "step_count"].max()) <= 5
    begins = torch.cat([torch.ones(ROWS, 1, 1, dtype=torch.bool), td["next", "done"][:, :-1]], 1)
    assert torch.equal(td["is_init"], begins)
    assert torch.equal(td["next", "episode_reward"][begins], td["next", "reward"][begins])


@claim(
    "torchrl",
    "a `Collector` collects what a rollout gives, also split into trajectories, cut, and with resets between batches",
)
def _(task: str) -> None:
    from torchrl.collectors import Collector

    def collect(**options: Any) -> list[Any]:
        env = bridge(task)
        env.set_seed(0)
        how = {"frames_per_batch": 5 * ROWS, "total_frames": STEPS * ROWS, "auto_register_policy_transforms": False}
        collector = Collector(env, env.rand_action, **how, **options)
        torch.manual_seed(0)  # after the collector, which draws an action to see what it looks like
        found = [td.clone() for td in collector]
        collector.shutdown()
        return found

    frames = torch.cat(collect(), -1)
    expected = rollout(bridge(task))
    assert same(expected, frames.select(*expected.keys(True, True)))
    for td in collect(split_trajs=True):
        inside = td["collector", "mask"]
        assert not bool((td["next", "done"].squeeze(-1)[:, :-1] & inside[:, 1:]).any())
    for td in collect(max_frames_per_traj=3):
        assert td.shape == (ROWS, 5) and bool(td["next", "done"][:, :3].any(1).all())
    first, *others = collect(reset_at_each_iter=True)
    assert all(int(td["collector", "traj_ids"].min()) > int(first["collector", "traj_ids"].max()) for td in others)


# ------------------------------------------------------------------------------------------------ recorded episodes


@contextlib.contextmanager
def recorded(task: str) -> Iterator[str]:
    """The id of a dataset of 6 episodes of random actions."""
    options = dict(TASKS[task])
    name, inner = options.pop("name"), options.pop("options", None)
    words = [f"env={name}", *(f"env.{key}={value}" for key, value in options.items()), "policy=random", "episodes=6"]
    words += [f"env.options={inner}"] if inner else []
    before = os.environ.get("MINARI_DATASETS_PATH")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        try:
            assert collect_main([*words, "out=clients/random-v0"]) == 0
            yield "clients/random-v0"
        finally:
            os.environ.pop("MINARI_DATASETS_PATH")
            if before is not None:
                os.environ["MINARI_DATASETS_PATH"] = before


@claim(
    "minari",
    "`load_dataset`, `sample_episodes`, `filter_episodes`, `split_dataset`, `recover_environment` with the same spaces",
)
def _(task: str) -> None:
    import minari

    with recorded(task) as id:
        data = minari.load_dataset(id)
        assert data.total_episodes == 6 and len(list(data.sample_episodes(3))) == 3
        assert [part.total_episodes for part in minari.split_dataset(data, [4, 2])] == [4, 2]
        assert data.filter_episodes(lambda episode: len(episode.rewards) > 0).total_episodes == 6
        for episode in data.iterate_episodes():
            assert len(episode.rewards) == len(episode.actions) and (episode.terminations | episode.truncations)[-1]
        env = data.recover_environment()
        assert (env.observation_space, env.action_space) == (data.observation_space, data.action_space)
        env.reset(seed=0)
        env.step(episode.actions[0])


@claim("d3rlpy", "`get_minari`, and ten updates of behaviour cloning on it")
def _(task: str) -> None:
    import d3rlpy

    with recorded(task) as id:
        data, env = d3rlpy.datasets.get_minari(id)
        d3rlpy.logging.LOG.disabled = True
        discrete = isinstance(env.action_space, gymnasium.spaces.Discrete)
        algo = (d3rlpy.algos.DiscreteBCConfig if discrete else d3rlpy.algos.BCConfig)(batch_size=4).create(device=False)
        algo.fit(data, n_steps=10, n_steps_per_epoch=10, logger_adapter=d3rlpy.logging.NoopAdapterFactory())


# ---------------------------------------------------------------------------------------------- Stable-Baselines3


@claim(
    "stable_baselines3",
    "a `VecEnv` with `VecMonitor`: PPO learns 48 steps, `evaluate_policy` plays it and a policy of ours",
)
def _(task: str) -> None:
    from stable_baselines3 import PPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor

    from rmt_rl.sb3 import SB3Policy, SB3VecEnv

    env = VecMonitor(SB3VecEnv(batch(task), seed=0))
    kind = "MultiInputPolicy" if isinstance(env.observation_space, gymnasium.spaces.Dict) else "MlpPolicy"
    small: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu"}
    model = PPO(kind, env, policy_kwargs={"net_arch": [8]}, **small).learn(48)
    for policy in (model, SB3Policy(rmt_rl.make_policy(batch(task), "lstm", width=8))):
        mean, _ = evaluate_policy(policy, env, ROWS)
        assert np.isfinite(mean)


@claim("sb3_contrib", "`RecurrentPPO` learns 48 steps and is evaluated")
def _(task: str) -> None:
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecMonitor

    from rmt_rl.sb3 import SB3VecEnv

    env = VecMonitor(SB3VecEnv(batch(task), seed=0))
    several = isinstance(env.observation_space, gymnasium.spaces.Dict)
    small: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "device": "cpu"}
    kind = "MultiInputLstmPolicy" if several else "MlpLstmPolicy"
    model = RecurrentPPO(kind, env, policy_kwargs={"net_arch": [8], "lstm_hidden_size": 8}, **small).learn(48)
    assert np.isfinite(evaluate_policy(model, env, ROWS)[0])


# ----------------------------------------------------------------------------------------------------------- main


def problem(check: Callable[[str], None], task: str) -> str | None:
    """What the check raises, in one line; None where it holds."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            check(task)
    except Exception as error:
        return f"{type(error).__name__} {' '.join(str(error).split())[:100]}".strip()
    return None


def main() -> None:
    packages = list(dict.fromkeys(package for package, *_ in CLAIMS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", nargs="+", default=packages, choices=packages)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    arguments = parser.parse_args()
    missing = [package for package in arguments.packages if importlib.util.find_spec(package) is None]
    print("| package | claim | holds for | what fails |\n|---|---|---|---|")
    for package, text, built_in, check in CLAIMS:
        if package in missing or package not in arguments.packages:
            continue
        tasks = [task for task in arguments.tasks if task in BUILT_IN or not built_in]
        found = {task: problem(check, task) for task in tasks}
        failed = "; ".join(f"{task}: {error}" for task, error in found.items() if error)
        print(
            f"| {package} | {text} | {sum(e is None for e in found.values())} of {len(tasks)} | {failed} |", flush=True
        )
    if missing:
        print(f"\nNot installed, so not run: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
