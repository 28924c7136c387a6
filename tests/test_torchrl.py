"""Our environments and policies inside torchrl against our own way of stepping them."""

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from commands import run
from gymnasium import spaces

from rmt_rl import config
from rmt_rl.algos.ppo import PPO
from rmt_rl.common import rng
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.state import map_obs, map_state
from rmt_rl.envs.check import check
from rmt_rl.envs.registry import make_env, make_from_config
from rmt_rl.policies.actor_critic import ActorCritic, PolicyState
from rmt_rl.policies.spec import PolicySpec, make_spec
from rmt_rl.rollouts.collector import Collector

pytest.importorskip("torchrl", reason="torchrl is not installed: pip install 'rmt_rl[torchrl]'")

from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torchrl import data
from torchrl.envs import (
    ExplorationType,
    GymEnv,
    SerialEnv,
    StepCounter,
    TransformedEnv,
    check_env_specs,
    set_exploration_type,
    step_mdp,
)
from torchrl.modules import set_recurrent_mode
from torchrl.modules.utils import get_env_transforms_from_module
from torchrl.objectives.value import GAE

from rmt_rl.torchrl.envs import FromTorchRL, TorchRLEnv, _space
from rmt_rl.torchrl.policies import TorchRLPolicy

pytestmark = pytest.mark.slow

ROWS = 6
MIXED = ("tmaze", {"length": 6, "min_length": 1})
TRUNCATING = ("tmaze", {"length": 3, "min_length": 1, "end_at_turn": True})
TASKS = {
    "tmaze": ("tmaze", {"length": 4}),  # all rows end at once
    "tmaze mixed": MIXED,
    "tmaze truncating": TRUNCATING,
    "minigrid-memory": ("minigrid-memory", {}),
    "dict": ("gym", {"id": "rmt-test/Rooms-v0"}),
    "pendulum": ("gym", {"id": "Pendulum-v1", "options": {"max_episode_steps": 7}}),
}
SMALL = {"rmt": {"segment": 3, "memory_tokens": 2}}  # so that memory is written within a few steps
POLICIES = {name: entry.config(width=16, **SMALL.get(name, {})) for name, entry in config.GROUPS["policy"].items()}

every_task = pytest.mark.parametrize("task", TASKS)
every_policy = pytest.mark.parametrize("policy_name", POLICIES)
# torchrl's own classes warn about their base class when they are imported
collects = pytest.mark.filterwarnings("ignore:Creating .* which inherits from WeightUpdaterBase:DeprecationWarning")


class Rooms(gymnasium.Env):
    """Observations with names, actions with several components of unequal size; ends at random."""

    observation_space = spaces.Dict(
        {
            "action": spaces.Discrete(3),  # a name that torchrl uses itself
            "bits": spaces.MultiBinary(4),
            "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
            "pair": spaces.MultiDiscrete([2, 5]),
            "vector": spaces.Box(-np.inf, np.inf, (2,), np.float32),
        }
    )
    action_space = spaces.MultiDiscrete([2, 4, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.draw(), {}

    def step(self, action):
        ended = bool(self.np_random.random() < 0.3)
        return self.draw(), float(action.sum()), ended and action[0] == 0, ended and action[0] == 1, {"success": ended}

    def draw(self):
        number = self.np_random.integers(2)
        return {key: np.full(part.shape, number, part.dtype)[()] for key, part in self.observation_space.items()}


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("rmt-test/Rooms-v0", Rooms, disable_env_checker=True)
    yield
    del gymnasium.registry["rmt-test/Rooms-v0"]


@pytest.fixture(autouse=True)
def global_stream():
    """torchrl draws its actions from it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make(task, policy_name="rmt", rows=ROWS):
    """The environment, and a policy for it with large weights, so that a wrong memory changes its outputs."""
    env = make_env(task[0], rows, **task[1])
    policy = ActorCritic(make_spec(env, config.TMazeConfig(), POLICIES[policy_name]))
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return env, policy


def rollout(task, policy_name, steps):
    """A policy and a batch [ROWS, steps] of environment.rollout, with all keys."""
    env, policy = make(task, policy_name)
    module = TorchRLPolicy(policy)
    env = TransformedEnv(TorchRLEnv(env), get_env_transforms_from_module(module))
    env.set_seed(1)
    with torch.no_grad(), set_exploration_type(ExplorationType.RANDOM):
        return module, env.rollout(steps, module.actor(), break_when_any_done=False)


def batches(task, policy_name, steps, number, postproc=lambda module: module.keep_start):
    """A policy and the batches [ROWS, steps] of a collector."""
    from torchrl.collectors import Collector  # warns, so not at the head of this file

    env, policy = make(task, policy_name)
    module, torchrl_env, size = TorchRLPolicy(policy), TorchRLEnv(env), ROWS * steps
    torchrl_env.set_seed(1)
    collector = Collector(
        torchrl_env,
        module.actor(),
        frames_per_batch=size,
        total_frames=number * size,
        auto_register_policy_transforms=True,
        postproc=postproc(module),
    )
    return module, list(collector)


def observation(batch, t):
    obs = batch["observation"][:, t]
    return dict(obs.items()) if isinstance(obs, TensorDict) else obs


@torch.no_grad()
def by_policy(policy, batch):
    """Logits, values and values after each step of our policy along the actions of a batch that begins with resets."""
    state, first = policy.initial_state(len(batch)), torch.ones(len(batch), dtype=torch.bool)
    found = []
    for t in range(batch.shape[1]):
        logits, value, memory = policy.step(observation(batch, t), state, first)
        state = PolicyState(memory, batch["action"][:, t])
        found.append((logits, value, policy.value(observation(batch["next"], t), state)))
        first = batch["next", "done"][:, t, 0]
    return [torch.stack(column, dim=1) for column in zip(*found, strict=True)]


def holds_memory(batch):
    return any("memory" in (key if isinstance(key, tuple) else (key,)) for key in batch.keys(True))


def gae(module):
    return GAE(gamma=0.9, lmbda=0.8, value_network=module, vectorized=False, deactivate_vmap=True)


def assert_close(a, b, tolerance=2e-5):
    assert a.shape == b.shape
    assert float((a - b).detach().abs().max()) <= tolerance * (1 + float(b.detach().abs().max()))


# ----------------------------------------------------------------------------------------------------- environments


@every_task
def test_torchrl_finds_nothing_wrong_with_the_specs(task):
    name, options = TASKS[task]
    check_env_specs(TorchRLEnv(make_env(name, ROWS, **options)), seed=0, break_when_any_done="both")


def test_torchrl_finds_nothing_wrong_where_a_return_to_go_leaves_the_range_of_the_data():
    returns = config.ReturnConditioning(target=1.0, low=0.0, high=1.0)
    check_env_specs(TorchRLEnv(make_from_config(config.BanditConfig(), 2, returns=returns)))


@every_task
def test_the_stream_is_that_of_our_environment_also_at_resets(task):
    name, options = TASKS[task]
    env, own = TorchRLEnv(make_env(name, ROWS, **options)), make_env(name, ROWS, **options)
    env.set_seed(5)
    batch = env.rollout(40, break_when_any_done=False)
    obs, _ = own.reset(seed=5)
    for t in range(40):
        step, after = batch[:, t], batch["next"][:, t]
        assert_equal(step["observation"], obs)
        obs, reward, terminated, truncated, info = own.step(step["action"])
        assert_equal(after["observation"], info["final_obs"])
        flags = {"terminated": terminated, "truncated": truncated, "done": terminated | truncated}
        flags["success"] = info.get("success", torch.zeros_like(terminated))
        for key, value in {"reward": reward.float(), **flags}.items():
            assert torch.equal(after[key], value[:, None])
            assert key == "reward" or not step[key].any()
    assert name == "minigrid-memory" or batch["next", "done"].sum() > ROWS


def assert_equal(ours, theirs):
    if isinstance(theirs, dict):
        assert set(ours.keys()) == set(theirs)
    map_obs(lambda a, b: pytest.fail("differs") if not torch.equal(a, b) else a, theirs, ours)


def test_a_reset_of_all_rows_begins_new_episodes():
    name, options = MIXED
    env, own = TorchRLEnv(make_env(name, ROWS, **options)), make_env(name, ROWS, **options)
    env.set_seed(5)
    own.reset(seed=5)
    env.reset()
    for _ in range(3):
        assert torch.equal(env.reset()["observation"], own.reset()[0])


@every_task
def test_some_rows_are_reset_inside_their_episodes_and_the_others_go_on(task):
    name, options = TASKS[task]
    env, own = TorchRLEnv(make_env(name, 3, **options)), make_env(name, 3, **options)
    env.set_seed(5)
    own.reset(seed=5)
    stepped = env.rand_step(env.reset())
    shown = own.step(stepped["action"])[0]
    mask = torch.tensor([False, True, False])
    found = env.reset(step_mdp(stepped).set("_reset", mask[:, None]))["observation"]
    expected = own.reset(options={"reset_mask": mask})[0]
    assert_equal(found, expected)
    map_obs(lambda a, b: None if torch.equal(a[::2], b[::2]) else pytest.fail("a row was reset"), expected, shown)
    assert_equal(env.reset()["observation"], own.reset()[0])


def test_a_time_limit_of_a_transform_cuts_the_episodes_of_each_row():
    env = TransformedEnv(TorchRLEnv(make_env("tmaze", 4, length=6, min_length=2)), StepCounter(max_steps=5))
    env.set_seed(0)
    batch = env.rollout(40, break_when_any_done=False)
    cut, ended = batch["next", "truncated"][..., 0], batch["next", "terminated"][..., 0]
    assert bool(cut.any()) and bool(ended.any()) and bool((cut | ended).any(0).logical_not().any())
    after = batch[:, 1:]["observation"][(cut | ended)[:, :-1]]
    assert bool((after[:, 0] == 0).all()) and bool((after[:, 1] != 0).all())  # the first observation: the cue


def test_rows_of_an_environment_of_torchrl_are_reset_by_a_mask():
    env = from_torchrl(3)
    with pytest.raises(ValueError, match="reset_mask was given before the first reset"):
        env.reset(options={"reset_mask": [True, False, False]})
    first = env.reset(seed=0)[0]
    shown = env.step(torch.zeros(3, dtype=torch.int64))[0]
    new = env.reset(options={"reset_mask": [False, True, False]})[0]
    assert torch.equal(new[::2], shown[::2]) and not torch.equal(new[1], shown[1]) and not torch.equal(first[1], new[1])
    assert not torch.equal(env.step(torch.zeros(3, dtype=torch.int64))[0], new)


# ---------------------------------------------------------------------------------------------------------- policies


@every_policy
@pytest.mark.parametrize("task", ["tmaze mixed", "dict"])
def test_one_step_is_the_policys_own_step(task, policy_name):
    module, batch = rollout(TASKS[task], policy_name, 25)
    _, value, _ = by_policy(module.policy, batch)
    assert batch["next", "done"].sum() > ROWS
    assert torch.equal(batch["state_value"].squeeze(-1), value)
    if task == "tmaze mixed":
        assert torch.equal(batch["logits"], by_policy(module.policy, batch)[0])


@every_policy
def test_a_batch_at_once_equals_its_steps_from_any_step_on(policy_name):
    module, batch = rollout(MIXED, policy_name, 25)
    for begin in (0, 4, 11):
        part = batch[:, begin:]
        with torch.no_grad(), set_recurrent_mode(True):
            out = module(part.select(*module.in_keys, strict=False))
        assert part["is_init"][:, 1:].sum() > ROWS
        assert_close(out["logits"], part["logits"])
        assert_close(out["state_value"], part["state_value"])


@every_policy
@pytest.mark.parametrize("recurrent", [True, False])
def test_both_halves_of_a_gae_have_the_values_of_acting(policy_name, recurrent):
    module, batch = rollout(TRUNCATING, policy_name, 30)
    _, value, after = by_policy(module.policy, batch)
    assert batch["next", "truncated"].sum() > ROWS
    for begin in (0, 5):
        with set_recurrent_mode(recurrent):
            out = gae(module)(batch[:, begin:].exclude("state_value"))
        assert_close(out["state_value"].squeeze(-1), value[:, begin:])
        assert_close(out["next", "state_value"].squeeze(-1), after[:, begin:])


@collects
@every_policy
def test_a_collector_carries_the_memory_from_batch_to_batch(policy_name):
    module, parts = batches(MIXED, policy_name, 7, 4)
    batch = torch.cat(parts, dim=1)
    logits, value, _ = by_policy(module.policy, batch)
    assert torch.equal(batch["logits"], logits)
    assert torch.equal(batch["state_value"].squeeze(-1), value)


@collects
@every_policy
def test_a_loss_computes_the_same_as_acting_for_any_selection_of_rows(policy_name):
    module, (_, batch) = batches(MIXED, policy_name, 9, 2)
    batch = batch[torch.tensor([4, 1, 5])]
    assert batch["has_memory"][:, 0].any()
    assert batch["is_init"][:, 1:].any()
    with torch.no_grad(), set_recurrent_mode(True):
        out = module(batch.select(*module.in_keys, strict=False))
    assert_close(out["logits"], batch["logits"])
    assert_close(out["state_value"], batch["state_value"])


@collects
@every_policy
def test_a_collectors_batch_holds_one_memory_for_each_row(policy_name):
    steps = 9
    module, (_, batch) = batches(MIXED, policy_name, steps, 2)
    sizes = []
    map_state(lambda x: sizes.append(x.nbytes) or x, module.policy.backbone.initial_state(ROWS))
    kept = batch["memory_at_start"]
    assert (kept.dtype, kept.shape[:2]) == (torch.uint8, (ROWS, steps))
    assert sum(sizes) <= kept[..., 1:].nbytes < sum(sizes) + steps * ROWS
    assert batch.exclude("memory_at_start").bytes() < 200 * steps * ROWS  # the state of these policies is larger


@collects
def test_advantages_of_a_collector_are_those_of_the_whole_batch():
    """The `postproc` estimates before it drops the memory, every time and not only before a buffer is used again."""
    seen = []

    def both(module):
        finish = module.postproc(gae(module))
        return lambda batch: finish(seen.append(batch.clone()) or batch)

    module, parts = batches(TRUNCATING, "rmt", 8, 3, both)
    for whole, part in zip(seen, parts, strict=True):
        with set_recurrent_mode(True):
            expected = gae(module)(whole.exclude("state_value"))
        assert torch.equal(part["advantage"], expected["advantage"])
        assert not part["advantage"].isnan().any()


@collects
def test_the_loss_reaches_every_parameter_the_initial_memory_included():
    from torchrl.objectives import ClipPPOLoss

    module, (_, batch) = batches(MIXED, "rmt", 9, 2, lambda module: module.postproc(gae(module)))
    critic = TensorDictModule(torch.nn.Identity(), ["state_value"], ["state_value"])
    losses = ClipPPOLoss(module.actor(), critic)(batch)
    (losses["loss_objective"] + losses["loss_critic"] + losses["loss_entropy"]).backward()
    untouched = [name for name, p in module.policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []
    assert_close(losses["kl_approx"], torch.zeros(()))  # before the first step the policy is the one that acted


def test_the_experiment_trains_and_scores(tmp_path):
    script = Path(__file__).parent.parent / "experiments" / "learning" / "torchrl_tmaze.py"
    arguments = ["--length", "1", "--steps", "16384", "--episodes", "100"]
    done = run(script, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (success,) = re.findall(r"^success (\d\.\d+) \[", done.stdout, re.MULTILINE)
    assert float(success) >= 0.95  # half of the episodes go right by chance


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(5),
        spaces.MultiDiscrete([2, 4, 3]),
        spaces.MultiDiscrete([[2, 3], [4, 5]]),
        spaces.Box(-1, 1, (3,), np.float32),
        spaces.Box(-1, 1, (2, 3), np.float32),
    ],
    ids=str,
)
def test_an_actors_distribution_is_the_heads(space):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    policy = ActorCritic(PolicySpec(POLICIES["mlp"], observation_space, space, config.TMazeConfig()))
    for parameter in policy.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    module = TorchRLPolicy(policy)
    given = module.make_tensordict_primer().primers.expand(7).zero()
    given.update({"observation": torch.rand(7, 2), "is_init": torch.ones(7, 1, dtype=torch.bool)})
    parameters = policy.step(given["observation"], policy.initial_state(7), torch.ones(7, dtype=torch.bool))[0]
    actor = module.actor()
    with set_exploration_type(ExplorationType.RANDOM):
        out = actor(given.clone())
    assert_close(out["action_log_prob"], policy.head.log_prob(parameters, out["action"]))
    assert_close(actor.get_dist(given.clone()).entropy(), policy.head.entropy(parameters))
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        assert torch.equal(actor(given.clone())["action"], policy.head.mode(parameters))


# ------------------------------------------------------------------------------------------------------------ errors


@collects
def test_a_batch_without_memory_is_rejected_where_it_is_needed():
    module, parts = batches(MIXED, "rmt", 9, 2, lambda module: None)
    batch, later = (part.exclude("memory", ("next", "memory")) for part in parts)
    assert holds_memory(parts[0]) and not holds_memory(batch)
    with set_recurrent_mode(True):
        module(batch.clone())  # its rows begin with resets
        with pytest.raises(KeyError, match="postproc"):
            module(later)
        with pytest.raises(KeyError, match="postproc"):
            gae(module)(batch.exclude("state_value"))
    with pytest.raises(KeyError, match="set_recurrent_mode"):
        module(batch)


@collects
def test_a_batch_of_a_collector_without_postproc_has_everything_for_an_estimator():
    module, (_, batch) = batches(TRUNCATING, "rmt", 9, 2, lambda module: None)
    with set_recurrent_mode(True):
        by_hand = gae(module)(batch.clone().exclude("state_value"))["advantage"]
    assert torch.equal(by_hand, module.postproc(gae(module))(batch)["advantage"])


def test_no_key_of_a_policy_begins_with_an_underscore():
    """Worker processes of torchrl's collectors drop such keys before the batch reaches `postproc`."""
    module = TorchRLPolicy(make(MIXED)[1])
    names = [name for key in [*module.in_keys, *module.out_keys] for name in ([key] if isinstance(key, str) else key)]
    assert not any(name.startswith("_") for name in names)


@pytest.mark.filterwarnings("ignore")  # those of the processes of torchrl
def test_batches_of_worker_processes_have_advantages_and_the_memory_of_acting():
    from torchrl.collectors import MultiSyncCollector

    module, frames = TorchRLPolicy(make(MIXED)[1]), ROWS * 9
    collector = MultiSyncCollector(
        [lambda: TorchRLEnv(make_env(MIXED[0], ROWS, **MIXED[1]))],
        module.actor(),
        frames_per_batch=frames,
        total_frames=2 * frames,
        auto_register_policy_transforms=True,
        cat_results=0,
        postproc=module.postproc(gae(module)),
    )
    try:
        _, batch = [part.clone() for part in collector]
    finally:
        collector.shutdown()
    assert batch["has_memory"][:, 0].any() and not holds_memory(batch)
    assert batch["advantage"].isfinite().all()
    with torch.no_grad(), set_recurrent_mode(True):
        out = module(batch.select(*module.in_keys, strict=False))
    assert_close(out["logits"], batch["logits"])


@collects
def test_rows_of_several_workers_that_were_joined_along_time_are_rejected():
    module, (_, batch) = batches(MIXED, "rmt", 9, 2, lambda module: None)
    begins = torch.arange(ROWS)[batch["has_memory"][:, 0, 0]]
    joined = torch.cat([batch[begins], batch[begins.roll(1)]], dim=1)
    with pytest.raises(ValueError, match="rows of several workers are joined along time"):
        module.keep_start(joined)


@collects
def test_a_vtrace_is_an_estimator():
    from torchrl.objectives.value import VTrace

    def estimator(module):
        return VTrace(gamma=0.9, value_network=module, actor_network=module.actor(), num_chunks=1)

    _, (_, batch) = batches(MIXED, "rmt", 9, 2, lambda module: module.postproc(estimator(module)))
    assert batch["advantage"].isfinite().all() and not holds_memory(batch)


@collects
@pytest.mark.parametrize("cut", [slice(1, None), slice(0, 3), [*range(9), *range(9)]], ids=["head", "tail", "twice"])
def test_rows_that_were_cut_along_time_are_rejected(cut):
    module, (_, batch) = batches(MIXED, "rmt", 9, 2)
    with set_recurrent_mode(True), pytest.raises(ValueError, match="along time"):
        module(batch[:, cut])


def test_missing_transforms_are_reported():
    env, policy = make(MIXED)
    with pytest.raises(KeyError, match="get_env_transforms_from_module"):
        TorchRLPolicy(policy)(TorchRLEnv(env).reset())


def from_torchrl(rows, id="CartPole-v1", **options):
    return FromTorchRL(SerialEnv(rows, lambda: GymEnv(id, **options)))


def test_an_environment_of_torchrl_keeps_our_contract_except_for_a_seed_per_row():
    wrong = {r.claim: r.found for r in check(lambda rows: from_torchrl(rows, "CartPole-v1")) if r.verdict == "wrong"}
    claim = "a row depends only on its own seed, not on the number of rows"
    assert list(wrong) == [claim] and "torchrl seeds its rows from one number" in wrong[claim]


def test_actions_of_torchrl_as_one_hot_vectors_and_as_numbers_give_equal_steps():
    hot, numbers = (from_torchrl(3, "CartPole-v1", categorical_action_encoding=given) for given in (False, True))
    assert hot.single_action_space == numbers.single_action_space == spaces.Discrete(2)
    assert torch.equal(hot.reset(seed=5)[0], numbers.reset(seed=5)[0])
    generator, ends = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        action = torch.randint(2, (3,), generator=generator)
        step = hot.step(action)[:4]
        assert all(map(torch.equal, step, numbers.step(action)[:4]))
        ends += int(step[2].sum())
    assert ends > 3


def test_conversion_to_torchrl_and_back_changes_nothing():
    task = config.TMazeConfig(length=4, min_length=2)
    there_and_back, ours = FromTorchRL(TorchRLEnv(make_from_config(task, 5))), make_from_config(task, 5)
    obs, seen = there_and_back.reset(seed=3)[0]["observation"], ours.reset(seed=3)[0]
    generator = torch.Generator().manual_seed(0)
    ends = 0
    for _ in range(60):
        assert torch.equal(obs, seen)
        action = torch.randint(4, (5,), generator=generator)
        found, reward, terminated, truncated, info = there_and_back.step(action)
        seen, reward_, terminated_, truncated_, info_ = ours.step(action)
        assert torch.equal(reward, reward_.float().double())  # torchrl's rewards are float32
        assert torch.equal(terminated, terminated_) and torch.equal(truncated, truncated_)
        assert torch.equal(info["final_obs"]["observation"], info_["final_obs"])
        assert torch.equal(info["_final_obs"], info_["_final_obs"])
        obs, ends = found["observation"], ends + int(terminated.sum())
    assert ends > 20


def test_a_policy_learns_on_an_environment_of_torchrl():
    env, task = from_torchrl(4), config.GymConfig(id="CartPole-v1")
    torch.manual_seed(0)
    policy = ActorCritic(make_spec(env, task, config.LSTMConfig(width=16)))
    options = config.PPOConfig(num_envs=4, rollout=32, minibatches=2)
    collector, ppo = Collector(env, policy, 0, rng.generator(0, "act")), PPO(policy, options)
    for _ in range(3):
        rollout, _ = collector.collect(32)
        assert ppo.update(rollout, 0.0)["gradient_norm"] > 0


def test_environments_without_rows_or_with_unknown_specs_are_rejected():
    with pytest.raises(ConfigError, match=r"expected one axis of rows, as torchrl\.envs.SerialEnv"):
        FromTorchRL(GymEnv("CartPole-v1"))
    with pytest.raises(ConfigError, match="observation: the spec NonTensor of shape"):
        _space(data.NonTensor(shape=(2,)), "observation")


def test_without_torchrl_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchrl", None)
    for name in ("rmt_rl.torchrl", "rmt_rl.torchrl.envs", "rmt_rl.torchrl.policies"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'rmt_rl\[torchrl\]'"):
        import rmt_rl.torchrl  # noqa: F401


@pytest.mark.parametrize("kind", [TorchRLEnv, FromTorchRL, TorchRLPolicy])
def test_an_object_of_another_type_is_rejected(kind) -> None:
    with pytest.raises(TypeError, match="str was given; expected a "):
        kind("CartPole-v1")
