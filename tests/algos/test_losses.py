"""The losses against numbers on paper and against torchrl's ClipPPOLoss."""

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import nn
from torchrl.objectives import ClipPPOLoss

from rmt_rl.algos.losses import approximate_kl, clipped_surrogate, standardise, value_loss
from rmt_rl.policies.heads import CategoricalHead


def surrogate(ratio, advantage):
    return float(clipped_surrogate(torch.tensor([ratio]).double().log(), torch.tensor([advantage]).double(), 0.2))


@pytest.mark.parametrize(
    "ratio, advantage, loss",
    [
        (1.1, 2.0, -1.1 * 2.0),  # inside the clip range nothing is cut
        (0.9, 2.0, -0.9 * 2.0),
        (1.1, -2.0, 1.1 * 2.0),
        (0.9, -2.0, 0.9 * 2.0),
        (1.5, 2.0, -1.2 * 2.0),  # good and already likelier: cut
        (0.5, -2.0, 0.8 * 2.0),  # bad and already rarer: cut
        (0.5, 2.0, -0.5 * 2.0),  # good but rarer: not cut, the way back stays open
        (1.5, -2.0, 1.5 * 2.0),  # bad but likelier: not cut
    ],
)
def test_one_step_by_hand(ratio, advantage, loss):
    assert surrogate(ratio, advantage) == pytest.approx(loss)


def test_the_surrogate_is_the_mean_over_steps():
    log_ratio = torch.tensor([[1.1, 1.5], [0.5, 0.5]]).double().log()
    advantage = torch.tensor([[2.0, 2.0], [-2.0, 2.0]]).double()
    expected = -(1.1 * 2.0 + 1.2 * 2.0 - 0.8 * 2.0 + 0.5 * 2.0) / 4
    assert float(clipped_surrogate(log_ratio, advantage, 0.2)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "ratio, advantage, slope", [(1.5, 2.0, 0.0), (0.5, -2.0, 0.0), (1.5, -2.0, 3.0), (0.5, 2.0, -1.0)]
)
def test_a_cut_step_has_no_gradient_and_an_uncut_one_has_it_all(ratio, advantage, slope):
    log_ratio = torch.tensor([ratio], dtype=torch.float64).log().requires_grad_()
    clipped_surrogate(log_ratio, torch.tensor([advantage], dtype=torch.float64), 0.2).backward()
    assert float(log_ratio.grad) == pytest.approx(slope)


def test_value_loss_by_hand():
    value, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.5, 2.0], [1.0, 5.0]])
    assert float(value_loss(value, target)) == pytest.approx(0.5 * (0.5**2 + 0.0**2 + 2.0**2 + 1.0**2) / 4)


def test_value_targets_are_not_differentiated():
    value, target = torch.tensor([1.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    value_loss(value, target).backward()
    assert float(value.grad) == -2.0
    assert target.grad is None


# ------------------------------------------------------------------------------------------------------------ torchrl


@pytest.fixture
def batch():
    """Logits and values as a network would give them, and an older policy that is far enough away to be cut."""
    generator = torch.Generator().manual_seed(0)
    B, A = 256, 5
    logits, action = torch.randn(B, A, generator=generator), torch.randint(A, (B,), generator=generator)
    older = (logits + 0.5 * torch.randn(B, A, generator=generator)).log_softmax(-1)
    value, advantage, target = torch.randn(3, B, generator=generator)
    log_prob = older.gather(1, action[:, None])[:, 0]
    return TensorDict(
        {
            "logits_in": logits.requires_grad_(),
            "value_in": value[:, None].requires_grad_(),
            "action": action,
            "action_log_prob": log_prob,
            "advantage": advantage[:, None],
            "value_target": target[:, None],
        },
        [B],
    )


@pytest.fixture
def theirs(batch):
    """What ClipPPOLoss makes of the batch with entropy_coeff 0.01 and critic_coeff 0.7."""
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(nn.Identity(), ["logits_in"], ["logits"]),
        ProbabilisticTensorDictModule(
            ["logits"], ["action"], distribution_class=torch.distributions.Categorical, return_log_prob=True
        ),
    )
    critic = TensorDictModule(nn.Identity(), ["value_in"], ["state_value"])
    options = {"clip_epsilon": 0.2, "entropy_coeff": 0.01, "critic_coeff": 0.7, "loss_critic_type": "l2"}
    return ClipPPOLoss(actor, critic, **options)(batch)


def log_ratio_of(batch):
    new = batch["logits_in"].log_softmax(-1).gather(1, batch["action"][:, None])[:, 0]
    return new - batch["action_log_prob"]


def test_policy_loss_and_its_gradient_equal_torchrls(batch, theirs):
    ours = clipped_surrogate(log_ratio_of(batch), batch["advantage"][:, 0], 0.2)
    assert float(theirs["clip_fraction"]) > 0.2, "too little of the batch is cut for this test to mean anything"
    torch.testing.assert_close(ours, theirs["loss_objective"], rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(loss, batch["logits_in"])[0] for loss in (ours, theirs["loss_objective"])]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def test_value_loss_is_half_of_torchrls_squared_error(batch, theirs):
    """torchrl's l2 has no half in front: with critic_coeff c its loss is 2 c times ours."""
    ours = value_loss(batch["value_in"], batch["value_target"])
    torch.testing.assert_close(2 * 0.7 * ours, theirs["loss_critic"], rtol=0, atol=1e-5)


def test_entropy_term_equals_torchrls(batch, theirs):
    ours = CategoricalHead([5], (), 4).entropy(batch["logits_in"]).mean()
    torch.testing.assert_close(ours, theirs["entropy"], rtol=0, atol=1e-5)
    torch.testing.assert_close(-0.01 * ours, theirs["loss_entropy"], rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the smaller functions


def test_standardise_by_hand():
    deviation = math.sqrt((2.0**2 + 0.0**2 + 2.0**2) / 2)
    assert standardise(torch.tensor([1.0, 3.0, 5.0]), 0.1).tolist() == pytest.approx([-2 / deviation, 0, 2 / deviation])


def test_standardise_gives_mean_zero_and_deviation_one_over_all_elements():
    x = standardise(7 + 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), 0.1)
    assert float(x.mean()) == pytest.approx(0, abs=1e-6)
    assert float(x.std()) == pytest.approx(1, abs=1e-6)


def test_a_deviation_below_the_floor_is_not_blown_up():
    assert standardise(torch.tensor([1.0, 3.0, 5.0]), 10.0).tolist() == pytest.approx([-0.2, 0, 0.2])


def test_equal_advantages_become_zero_and_not_nan():
    assert standardise(torch.full((3, 2), 5.0), 1e-3).tolist() == [[0, 0], [0, 0], [0, 0]]


def test_a_single_advantage_becomes_zero_and_not_nan():
    assert standardise(torch.tensor([[5.0]]), 0.1).tolist() == [[0]]


def test_kl_by_hand():
    log_ratio = torch.tensor([0.5, -0.5]).double()
    expected = ((math.exp(0.5) - 1 - 0.5) + (math.exp(-0.5) - 1 + 0.5)) / 2
    assert float(approximate_kl(log_ratio)) == pytest.approx(expected)
    assert float(approximate_kl(torch.zeros(5))) == 0


@pytest.mark.parametrize("size", [1e-2, 0.1, 1.0, 5.0])
def test_kl_is_never_negative(size):
    log_ratio = size * torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    assert all(float(approximate_kl(x)) >= 0 for x in log_ratio)


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3])
def test_kl_is_never_negative_in_float32_near_zero(size):
    log_ratio = size * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert all(float(approximate_kl(x)) >= 0 for x in log_ratio)


def test_kl_estimates_the_divergence_of_the_old_policy_from_the_new():
    old, new = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.4, 0.4, 0.2]).double()
    per_action = torch.stack([approximate_kl(x) for x in (new / old).log()])
    assert float((old * per_action).sum()) == pytest.approx(float((old * (old / new).log()).sum()))
