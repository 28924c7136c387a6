"""What the network makes of an observation and of its previous action, computed by hand from its weights."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional as F

from rmt_rl import config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.encoders import ObservationEncoder
from rmt_rl.policies.spec import PolicySpec, UnregisteredEnv

WIDTH = 6


def encoder_of(space):
    torch.manual_seed(0)
    return ObservationEncoder(space, WIDTH)


def linear_of(x, linear):
    return x @ linear.weight.T + linear.bias


@pytest.mark.parametrize("channels_last", [True, False])
@torch.no_grad()
def test_a_picture_is_divided_by_255_before_its_convolutions(channels_last):
    encoder = encoder_of(spaces.Box(0, 255, (36, 40, 3) if channels_last else (3, 36, 40), np.uint8))
    picture = torch.randint(256, (2, 3, 36, 40), generator=torch.Generator().manual_seed(0)).byte()
    x = picture.float() / 255
    for number, stride in ((0, 4), (2, 2), (4, 1)):
        convolution = encoder.encoder.convolutions[number]
        x = F.conv2d(x, convolution.weight, convolution.bias, stride=stride).clamp(min=0)
    shown = picture.permute(0, 2, 3, 1) if channels_last else picture
    torch.testing.assert_close(encoder(shown), linear_of(x.flatten(1), encoder.encoder.linear))


@torch.no_grad()
def test_a_white_picture_is_ones_and_a_black_one_zeros():
    encoder = encoder_of(spaces.Box(0, 255, (36, 36, 1), np.uint8))
    for value, expected in ((255, 1.0), (0, 0.0), (51, 0.2)):
        seen = []
        hook = encoder.encoder.convolutions.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        encoder(torch.full((1, 36, 36, 1), value, dtype=torch.uint8))
        hook.remove()
        torch.testing.assert_close(seen[0], torch.full((1, 1, 36, 36), expected))


@torch.no_grad()
def test_a_choice_is_one_column_of_the_weights():
    encoder = encoder_of(spaces.Discrete(5))
    linear = encoder.encoder.linear
    for value in range(5):
        torch.testing.assert_close(encoder(torch.tensor([value]))[0], linear.weight[:, value] + linear.bias)


@torch.no_grad()
def test_several_choices_are_the_sum_of_one_column_for_each():
    encoder = encoder_of(spaces.MultiDiscrete([2, 3, 4]))
    linear = encoder.encoder.linear
    columns = linear.weight[:, [1, 2 + 0, 2 + 3 + 3]].sum(1)
    torch.testing.assert_close(encoder(torch.tensor([[1, 0, 3]]))[0], columns + linear.bias)


@torch.no_grad()
def test_small_whole_numbers_are_counted_from_their_lowest():
    encoder = encoder_of(spaces.Box(-3, 4, (2,), np.int64))
    linear = encoder.encoder.linear
    columns = linear.weight[:, 0] + linear.weight[:, 8 + 7]
    torch.testing.assert_close(encoder(torch.tensor([[-3, 4]]))[0], columns + linear.bias)


@torch.no_grad()
def test_a_grid_of_choices_is_one_column_for_each_cell_and_one_for_each_value_that_occurs():
    encoder = encoder_of(spaces.Box(0, 2, (1, 2, 2), np.uint8))  # 2 cells of 2 channels of 3 values
    picture = encoder.encoder
    obs = torch.tensor([[[[1, 0], [1, 2]]]], dtype=torch.uint8)
    cells = picture.linear.weight[:, [1, 3 + 0, 6 + 1, 9 + 2]].sum(1) + picture.linear.bias
    present = picture.anywhere.weight[:, [1, 3 + 0, 3 + 2]].sum(1)
    torch.testing.assert_close(encoder(obs)[0], cells + present)


@torch.no_grad()
def test_real_numbers_without_bounds_are_passed_as_they_are():
    encoder = encoder_of(spaces.Box(-np.inf, np.inf, (3,), np.float32))
    x = torch.tensor([[700.0, -0.5, 3.0]])
    torch.testing.assert_close(encoder(x), linear_of(x, encoder.encoder.linear))


@torch.no_grad()
def test_real_numbers_with_bounds_are_scaled_from_minus_one_to_one():
    encoder = encoder_of(spaces.Box(np.array([-1, 10], np.float32), np.array([3, 20], np.float32)))
    x = torch.tensor([[0.0, 18.0]])
    torch.testing.assert_close(encoder(x), linear_of(torch.tensor([[-0.5, 0.6]]), encoder.encoder.linear))


@torch.no_grad()
def test_a_small_picture_has_mean_zero_and_deviation_one():
    encoder = encoder_of(spaces.Box(0, 255, (2, 2, 1), np.uint8))
    x = torch.tensor([0.0, 0.0, 100.0, 100.0])
    shown = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    found = encoder(x.byte().view(1, 2, 2, 1))
    torch.testing.assert_close(found, linear_of(shown, encoder.encoder.linear), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("previous_action", [True, False])
@pytest.mark.parametrize("actions", [spaces.Discrete(3), spaces.Box(-2, 4, (2,), np.float32)], ids=["choice", "box"])
def test_the_backbones_input_is_the_normed_sum_of_observation_and_previous_action(actions, previous_action):
    torch.manual_seed(0)
    options = config.RMTConfig(width=WIDTH, heads=1, previous_action=previous_action)
    observations = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    policy = ActorCritic(PolicySpec(options, observations, actions, UnregisteredEnv("outside", {})))
    for parameter in policy.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    if isinstance(actions, spaces.Discrete):
        action, shown = torch.tensor([[2, 0, 1]]), torch.eye(3)[[2, 0]]
    else:  # counted from the middle in units of half the distance of the bounds, and clipped to them
        action = torch.tensor([[[1.0, 4.0], [-9.0, 2.5], [0.0, 0.0]]])
        shown = torch.tensor([[0.0, 1.0], [-1.0, 0.5]])
    obs, first = torch.randn(1, 3, 3), torch.tensor([[True, False, False]])
    x = linear_of(obs[0], policy.encoder.encoder.linear)
    if previous_action:
        x[0] += policy.no_action
        x[1:] += shown @ policy.action_embedding.weight.T
    centred = x - x.mean(1, keepdim=True)
    expected = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * policy.norm.weight
    torch.testing.assert_close(policy.embed(obs, policy._previous(action, policy.initial_state(1)), first)[0], expected)
