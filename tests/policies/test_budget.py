"""policy.params: the width that comes nearest, for every policy."""

import dataclasses

import pytest

from rmt_rl import config
from rmt_rl.config import ConfigError
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic, policy_spec
from rmt_rl.policies.budget import fit_width

TASK = config.TMaze()


def parameters(policy_config):
    policy = ActorCritic(policy_spec(make_from_config(TASK), TASK, policy_config))
    return sum(p.numel() for p in policy.parameters())


@pytest.mark.parametrize("wish", [3_000, 50_000, 200_000])
@pytest.mark.parametrize("name", config.GROUPS["policy"])
def test_no_other_width_comes_nearer_to_the_budget(name, wish):
    usual = config.GROUPS["policy"][name](params=wish)
    fitted = fit_width(make_from_config(TASK), TASK, usual)
    unit = 2 * usual.heads if isinstance(usual, config.Transformer) else 1
    miss = abs(parameters(fitted) - wish)
    for width in (fitted.width - unit, fitted.width + unit):
        if width > 0:
            assert miss <= abs(parameters(dataclasses.replace(fitted, width=width)) - wish)


def test_without_a_budget_nothing_changes():
    assert fit_width(make_from_config(TASK), TASK, config.RMT(width=24)) == config.RMT(width=24)


def test_a_budget_that_no_width_meets_is_told_in_one_line():
    with pytest.raises(ConfigError, match=r"policy\.params=1000: width \d+ has [\d,]+ parameters already"):
        fit_width(make_from_config(TASK), TASK, config.RMT(params=1000, layers=50))
