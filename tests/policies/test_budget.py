"""policy.params: the width that comes nearest, for every policy."""

import dataclasses

import pytest

from rmt_rl import config
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import fit_width
from rmt_rl.policies.spec import make_spec

TASK = config.TMazeConfig()


def parameters(policy_config):
    policy = ActorCritic(make_spec(make_from_config(TASK), TASK, policy_config))
    return sum(p.numel() for p in policy.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("wish", [20_000, 50_000, 200_000])
@pytest.mark.parametrize("name", config.GROUPS["policy"])
def test_no_other_width_comes_nearer_to_the_budget(name, wish):
    usual = config.GROUPS["policy"][name].config(params=wish)
    fitted = fit_width(make_from_config(TASK), TASK, usual)
    unit = usual.width_multiple()
    miss = abs(parameters(fitted) - wish)
    for width in (fitted.width - unit, fitted.width + unit):
        if width > 0:
            assert miss <= abs(parameters(dataclasses.replace(fitted, width=width)) - wish)


def test_without_a_budget_nothing_changes():
    assert fit_width(make_from_config(TASK), TASK, config.RMTConfig(width=24)) == config.RMTConfig(width=24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": 1_000, "layers": 50}, r"policy\.params=1000: no width comes within .* task has [\d,]+ at width 4;"),
        ({"params": 10**10}, r"policy\.params=10000000000: no width comes within .*[\d,]+ at width 16384"),
        (
            {"params": 60_000, "heads": 16},
            r"[\d,]+ at width 32 and [\d,]+ at width 64; widths are multiples of 32, fewer",
        ),
    ],
)
def test_a_budget_that_no_width_meets_raises_one_line(options, message):
    with pytest.raises(ConfigError, match=message):
        fit_width(make_from_config(TASK), TASK, config.RMTConfig(**options))
