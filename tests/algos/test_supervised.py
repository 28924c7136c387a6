"""Supervised learning: its loss, which answers count, the curriculum."""

import contextlib
import math

import pytest
import torch

from rmt_rl.algos.supervised import ENOUGH
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.finite import NotFinite
from rmt_rl.common.ranks import Ranks
from rmt_rl.common.state import where_rows
from rmt_rl.config.cli import parse
from rmt_rl.config.commands import ReturnConditioning
from rmt_rl.envs.registry import BUILTIN, make_env
from rmt_rl.envs.wrappers.return_to_go import ReturnToGo
from rmt_rl.policies.actor_critic import PolicyState
from rmt_rl.runs.setup import build_learner

SMALL = ["algo=supervised", "algo.num_envs=8", "policy.width=16"]


def make(*options):
    with contextlib.ExitStack() as stack:
        given = {option.partition("=")[0] for option in options}
        usual = [option for option in SMALL if option.partition("=")[0] not in given]
        return build_learner(parse([*usual, *options]), Ranks(), stack).learner


def test_the_loss_is_the_mean_over_the_answers_and_the_policy_sees_the_correct_previous_answers():
    learner = make("env=copy", "env.length=3", "env.symbols=3")
    lesson = learner.collect(0.0)
    assert lesson.action.shape == (8, 6) and lesson.asked.tolist() == [[False] * 3 + [True] * 3] * 8
    assert torch.equal(lesson.action[:, 3:], lesson.obs[:, :3] - 1)  # the symbols in order
    total = right = 0.0
    with torch.no_grad():
        state, first = learner.policy.initial_state(8), torch.ones(8, dtype=torch.bool)
        for t in range(6):
            logits, _, memory = learner.policy.step(lesson.obs[:, t], state, first)
            state, first = PolicyState(memory, lesson.action[:, t]), torch.zeros(8, dtype=torch.bool)
            for row in range(8 if t >= 3 else 0):
                e = [math.exp(x) for x in logits[row].tolist()]
                total -= math.log(e[lesson.action[row, t]] / sum(e))
                right += max(range(3), key=e.__getitem__) == int(lesson.action[row, t])
    row = learner.update(lesson, 0.0)
    assert (row["loss"], row["accuracy"]) == pytest.approx((total / 24, right / 24), rel=1e-5)


TASKS = [name for name in BUILTIN if name not in ("gym", "none")]


@pytest.mark.parametrize("name", TASKS)
def test_where_an_action_does_not_count_any_other_has_the_same_outcome(name):
    """Random actions where the task asks for nothing, in one of two equal environments; only some tasks have such steps."""
    one, other = make_env(name, 4), make_env(name, 4)
    draw = torch.Generator().manual_seed(0)
    for env in (one, other):
        env.reset(seed=3)
    try:
        one.oracle()
    except ConfigError:
        return
    for _ in range(40):
        action, asked = one.oracle(), one.asks()
        assert torch.equal(asked, other.asks())
        random = torch.randint(2, action.shape, generator=draw)
        results = [one.step(action), other.step(where_rows(asked, action, random))]
        for found, expected in zip(*results, strict=True):
            if isinstance(found, torch.Tensor):
                assert torch.equal(found, expected)


def test_the_tasks_that_ask_at_the_end_only():
    asking = {}
    for name in ("copy", "associative-retrieval", "detect", "reasoning", "memory-len", "repeat-previous", "tmaze"):
        env = make_env(name, 1)
        env.reset(seed=0)
        steps = []
        for _ in range(30):
            steps.append(bool(env.asks()))
            *_, terminated, truncated, _ = env.step(env.oracle())
            if terminated or truncated:
                break
        asking[name] = (steps.index(True), len(steps))
    assert asking == {
        "copy": (5, 10),
        "associative-retrieval": (4, 5),
        "detect": (20, 21),
        "reasoning": (20, 21),
        "memory-len": (10, 11),
        "repeat-previous": (3, 30),
        "tmaze": (0, 11),
    }


def test_a_stage_has_its_share_of_the_length_and_ends_when_almost_all_episodes_are_right():
    learner = make("env=copy", "env.length=7", "algo.stages=3", "algo.advance=0.9")
    lengths = [learner.collect(0.0).asked.shape[1] // 2]
    wrong, solved = torch.tensor([False] * 4), torch.ones(ENOUGH - 40, dtype=torch.bool)
    for stage in (1, 2):
        learner._advance(solved)
        learner._advance(wrong.repeat(10))  # 40 of 256 wrong
        assert learner.stage == stage
        learner._advance(torch.ones(16, dtype=torch.bool))
        learner._advance(solved)  # the wrong ones are no longer among the latest
        assert learner.stage == stage + 1
        lengths.append(learner.collect(0.0).asked.shape[1] // 2)
    assert lengths == [3, 5, 7]  # thirds of 7, rounded up
    learner._advance(torch.ones(ENOUGH, dtype=torch.bool))
    assert learner.stage == 3


def test_episodes_are_new_in_every_update_and_the_same_with_the_same_seed():
    one, other = make("env=copy", "seed=1"), make("env=copy", "seed=1")
    first = one.collect(0.0)
    assert torch.equal(first.obs, other.collect(0.0).obs)
    one.update(first, 0.0)
    assert not torch.equal(one.collect(0.0).obs[:, :5], first.obs[:, :5])


@pytest.mark.slow
def test_copy_is_learned():
    learner = make(
        "env=copy", "env.length=3", "algo.num_envs=64", "policy=gru", "policy.width=32", "algo.learning_rate=3e-3"
    )
    for _ in range(300):
        row = learner.update(learner.collect(0.0), 0.0)
    assert row["success"] > 0.9


def test_a_tensor_that_the_environment_uses_again_is_copied():
    expected, learner = make("env=tmaze", "env.length=4").collect(0.0), make("env=tmaze", "env.length=4")
    shared = torch.empty(8, *learner.env.single_observation_space.shape)
    observe = learner.env._observe
    learner.env._observe = lambda *arguments: shared.copy_(observe(*arguments))
    assert torch.equal(learner.collect(0.0).obs, expected.obs)


def test_episodes_with_a_nan_are_skipped_and_leave_no_trace():
    learner = make("env=tmaze", "env.length=4", "algo.skip_nonfinite=1", "policy.normalize_observation=true")
    learner.update(learner.collect(0.0), 0.0)
    before = {name: x.clone() for name, x in learner.policy.state_dict().items()}
    observe = learner.env._observe
    learner.env._observe = lambda *arguments: observe(*arguments) * math.nan
    assert learner.update(learner.collect(0.0), 0.0) == {"skipped": 1}
    assert all(torch.equal(x, before[name]) for name, x in learner.policy.state_dict().items())
    with pytest.raises(NotFinite, match=r"observation of row 0 is nan \(2 in a row\)"):
        learner.update(learner.collect(0.0), 0.0)


def test_an_oracle_may_take_as_many_steps_as_the_task_allows():
    learner = make("env=tmaze", "env.length=4")
    learner.env.episode_steps = 5
    assert learner.collect(0.0).asked.shape == (8, 5)
    learner.env.episode_steps = 4
    with pytest.raises(ConfigError, match="the oracle has not ended an episode after 4 steps"):
        learner.collect(0.0)


def test_what_counts_is_known_behind_the_return_to_go():
    env = ReturnToGo(make_env("copy", 2), ReturnConditioning(low=0.0, high=1.0, target=1.0))
    env.reset(seed=0)
    assert env.asks().tolist() == [False, False]


@pytest.mark.parametrize(
    "options, message",
    [
        (["env=bandit"], "has no oracle"),
        (["env=copy", "algo.stages=9"], "algo.stages=9: env.length is 5; expected at most as many stages"),
        (["env=copy", "algo.stages=2", "algo.grows=reverse"], "algo.grows=reverse: env=copy has no such option"),
        (["env=copy", "algo.stages=2", "algo.grows=size"], "algo.grows=size: env=copy has no such option"),
        (["env=copy", "algo.stages=2", "algo.grows=symbols"], "algo.grows=symbols: changes the observation space"),
        (["env=tmaze", "env.length=9", "env.min_length=8", "algo.stages=3"], "algo.stages=3: in stage 1 env"),
        (["env=copy", "memory.carry=0.5"], "memory.carry=0.5: algo=supervised learns from single episodes"),
        (["env=copy", "memory.scope=trial"], "memory.scope=trial: algo=supervised learns from single episodes"),
        (["env=copy", "policy.critic=separate"], "policy.critic=separate: algo=supervised learns no values"),
        (["env=copy", "data=a/b-v0"], "data=a/b-v0: has no effect with algo=supervised"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(*options)


def test_the_recipe_of_the_policy_is_for_learning_by_trial():
    run = parse(["env=copy", "algo=supervised"])
    assert (run.memory.carry, run.memory.ramp, run.policy.write_cost) == (0.0, "steps", 0.0)
