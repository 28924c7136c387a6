"""policy.params: the width that comes nearest, for every policy."""

import dataclasses
from types import SimpleNamespace

import pytest

from rmt_rl import config
from rmt_rl.common.errors import ConfigError
from rmt_rl.envs.registry import make_from_config
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.budget import WIDEST, fit_width
from rmt_rl.policies.spec import make_spec

TASK = config.TMazeConfig()


def parameters(policy_config):
    policy = ActorCritic(make_spec(make_from_config(TASK), TASK, policy_config))
    return sum(p.numel() for p in policy.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("wish", [20_000, 50_000, 200_000])
@pytest.mark.parametrize("name", config.GROUPS["policy"])
def test_no_other_width_comes_nearer_to_the_budget(name, wish):
    finer = {"heads": 1} if name == "hierarchical" else {}  # with two heads no width comes within a tenth of 20,000
    usual = config.GROUPS["policy"][name].config(params=wish, **finer)
    fitted = fit_width(make_from_config(TASK), TASK, usual)
    unit = usual.width_multiple()
    miss = abs(parameters(fitted) - wish)
    for width in (fitted.width - unit, fitted.width + unit):
        if width > 0:
            assert miss <= abs(parameters(dataclasses.replace(fitted, width=width)) - wish)


@pytest.fixture
def square(monkeypatch):
    """A network of width n has n * n parameters, which takes no time to count."""

    def network(spec):
        return SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: spec.policy.width**2)])

    monkeypatch.setattr("rmt_rl.policies.budget.ActorCritic", network)


@pytest.mark.parametrize(
    ("wish", "width"),
    [(100, 10), (110, 10), (111, 11), (121, 11), (1, 1), (WIDEST**2, WIDEST), (WIDEST**2 + 9, WIDEST)],
)
def test_the_nearer_of_the_widths_around_the_budget_is_taken(wish, width, square):
    fitted = fit_width(make_from_config(TASK), TASK, config.MLPConfig(params=wish))
    assert fitted == config.MLPConfig(width=width)


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        (900, "1,024 at width 32;"),
        (
            2_000,
            "1,024 at width 32 and 4,096 at width 64; widths are multiples of 32, fewer policy.heads make them finer",
        ),
        (10**10, "267,387,904 at width 16352 and 268,435,456 at width 16384;"),
    ],
)
def test_the_message_names_the_widths_around_a_budget_that_none_meets(wish, found, square):
    with pytest.raises(ConfigError) as caught:
        fit_width(make_from_config(TASK), TASK, config.RMTConfig(params=wish, heads=16, positions="rotary"))
    assert f"policy.params={wish}: no width comes within a tenth of it; this task has {found}" in str(caught.value)


@pytest.mark.parametrize(("wish", "meets"), [(91, True), (90, False), (111, True), (112, False)])
def test_a_tenth_of_the_budget_is_near_enough(wish, meets, monkeypatch):
    """Of 100 parameters, whatever the width."""
    network = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 100)])
    monkeypatch.setattr("rmt_rl.policies.budget.ActorCritic", lambda spec: network)
    if meets:
        assert fit_width(make_from_config(TASK), TASK, config.MLPConfig(params=wish)).params is None
    else:
        with pytest.raises(ConfigError, match="no width comes within a tenth of it"):
            fit_width(make_from_config(TASK), TASK, config.MLPConfig(params=wish))


def test_without_a_budget_nothing_changes():
    assert fit_width(make_from_config(TASK), TASK, config.RMTConfig(width=24)) == config.RMTConfig(width=24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"params": 1_000, "layers": 50, "positions": "rotary"},
            r"policy\.params=1000: no width comes within .* task has [\d,]+ at width 4;",
        ),
        ({"params": 10**10}, r"policy\.params=10000000000: no width comes within .*[\d,]+ at width 16384"),
        (
            {"params": 60_000, "heads": 16, "positions": "rotary"},
            r"[\d,]+ at width 32 and [\d,]+ at width 64; widths are multiples of 32, fewer",
        ),
    ],
)
def test_a_budget_that_no_width_meets_raises_one_line(options, message):
    with pytest.raises(ConfigError, match=message):
        fit_width(make_from_config(TASK), TASK, config.RMTConfig(**options))
