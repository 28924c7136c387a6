"""Observations without bounds are normalised by the moments of all that were seen in training."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rmt_rl
from rmt_rl.common.errors import ConfigError
from rmt_rl.policies.encoders import ObservationEncoder
from rmt_rl.policies.moments import ActionScale, RunningMoments
from rmt_rl.policies.saving import load_policy

MIXED = spaces.Box(np.array([-1, -np.inf], np.float32), np.array([3, np.inf], np.float32))


def test_moments_of_batches_are_those_of_all_rows():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1e3, 1e-3]) + 7
    moments = RunningMoments(torch.ones(3, dtype=torch.bool))
    for part in x.split([5, 1, 44]):
        moments.add(part)
    expected = (x - x.double().mean(0)) / x.double().std(0, correction=0)
    torch.testing.assert_close(moments(x).double(), expected, rtol=1e-2, atol=1e-3)  # the smallest deviation is 1e-3
    torch.testing.assert_close(moments(x)[:, :2].double(), expected[:, :2], rtol=1e-4, atol=1e-5)


def test_five_numbers_by_hand():
    moments = RunningMoments(torch.tensor([True]))
    moments.add(torch.tensor([[1.0], [2.0], [3.0], [4.0], [5.0]]))  # mean 3, variance 2
    found = moments(torch.tensor([[3.0], [5.0], [-1e6]]))
    torch.testing.assert_close(found, torch.tensor([[0.0], [2**0.5], [-10.0]]))


def test_without_observations_nothing_changes():
    x = torch.tensor([[5.0, -7.0]])
    assert torch.equal(RunningMoments(torch.ones(2, dtype=torch.bool))(x), x)


def test_a_number_that_never_changes_becomes_zero():
    moments = RunningMoments(torch.tensor([True]))
    moments.add(torch.full((9, 1), 1000.0))
    assert float(moments(torch.tensor([[1000.0]]))) == 0


def test_elements_with_bounds_are_scaled_by_them():
    encoder = ObservationEncoder(MIXED, 8, normalize=True)
    encoder.add(torch.tensor([[[0.0, 90.0]], [[0.0, 110.0]]]))
    vector = encoder.encoder
    found = vector.moments(vector.scaled(torch.tensor([[3.0, 120.0]])))
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0]]))


def test_entries_of_a_dictionary_are_normalised_each_by_its_own_moments():
    space = spaces.Dict({"a": spaces.Box(-np.inf, np.inf, (1,)), "b": spaces.Discrete(3), "c": spaces.Box(-1, 1, (1,))})
    encoder = ObservationEncoder(space, 8, normalize=True)
    assert encoder.without_moments()
    obs = {"a": torch.tensor([[4.0], [6.0]]), "b": torch.tensor([0, 1]), "c": torch.zeros(2, 1)}
    encoder.add(obs)
    assert not encoder.without_moments()
    assert [name for name in encoder.state_dict() if "moments" in name] == [
        f"encoder.encoders.0.moments.{name}" for name in ("count", "mean", "squares")
    ]


@pytest.mark.parametrize("normalize", [True, False])
def test_units_of_observations_do_not_matter_if_they_are_normalised(normalize):
    """The same numbers in other units give the same vectors."""
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    vectors = []
    for scale, shift in ((1.0, 0.0), (1000.0, 5000.0)):
        torch.manual_seed(0)
        encoder = ObservationEncoder(spaces.Box(-np.inf, np.inf, (2,)), 8, normalize)
        encoder.add(x * scale + shift)
        vectors.append(encoder(x * scale + shift))
    assert torch.allclose(*vectors, atol=1e-2) == normalize


def test_moments_are_learned_before_the_first_update_and_saved_with_the_policy(tmp_path):
    options = {
        "env.id": "CartPole-v1",
        "policy.width": 16,
        "algo.num_envs": 4,
        "algo.rollout": 8,
        "algo.minibatches": 2,
    }
    result = rmt_rl.train(env="gym", policy="lstm", steps=64, root=tmp_path, evaluate_episodes=2, **options)
    moments = result.policy.encoder.encoder.moments
    assert float(moments.count) == 3 * 4 * 8  # a rollout for the moments alone, then two to learn from
    loaded = load_policy(result.folder / "policy").encoder.encoder.moments
    assert torch.equal(loaded.mean, moments.mean.cpu()) and torch.equal(loaded.squares, moments.squares.cpu())
    assert list(moments.chosen) == [False, True, False, True]  # velocities have no bounds


def test_the_scale_of_the_last_elements_of_an_action_is_that_of_these_elements():
    assert ActionScale((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)).of_last(2) == ActionScale((2.0, 3.0), (5.0, 6.0))


def test_the_scale_of_actions_is_restored_from_plain_values():
    scale = ActionScale((1.0, -2.0), (4.0, 0.5))
    assert ActionScale.from_json(scale.to_json(), 2) == scale and ActionScale.from_json(None, 2) is None


@pytest.mark.parametrize(
    "saved",
    [
        {"mean": [0.0, 1.0], "deviation": [1.0, 0.0]},
        {"mean": [0.0, 1.0], "deviation": [1.0, -1.0]},
        {"mean": [0.0], "deviation": [1.0]},
        {"mean": [0.0, 1.0], "deviation": [1.0, 1e39]},
        {"mean": [0.0, "1"], "deviation": [1.0, 1.0]},
        {"mean": [0.0, 1.0]},
        {"mean": [0.0, 1.0], "deviation": [1.0, 1.0], "more": 1},
        [0.0, 1.0],
    ],
    ids=str,
)
def test_a_scale_of_actions_that_no_run_writes_is_rejected(saved):
    with pytest.raises(ConfigError, match=r"expected null, or mean and deviation with 2 numbers each, above 0 in dev"):
        ActionScale.from_json(saved, 2)
