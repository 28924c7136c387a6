"""The report about a memory: on maps and memories whose fate is known."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from rmt_rl import config
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.envs.registry import make_from_config
from rmt_rl.memory import main
from rmt_rl.policies.actor_critic import ActorCritic
from rmt_rl.policies.saving import load_policy, make_task, save_policy
from rmt_rl.policies.spec import make_spec
from rmt_rl.viewing.diagnosis import _distances, _first, _from_which_on, _is_fitted, _spectral_radius, diagnose
from rmt_rl.viewing.diagnosis_report import describe

TASK = config.TMazeConfig(length=60, min_length=60)


@dataclasses.dataclass(frozen=True)
class Numbers:
    x: torch.Tensor


@pytest.mark.parametrize(
    "matrix, radius",
    [
        ([[0.9, 0.0], [0.0, 0.3]], 0.9),
        ([[1.2, 5.0], [0.0, 0.3]], 1.2),
        ([[0.0, -0.9], [0.9, 0.0]], 0.9),  # a pair of complex eigenvalues
        ([[0.0, -4.0], [0.16, 0.0]], 0.8),  # of which single steps grow by 4 and by 0.16
        ([[0.0, 1.0], [0.0, 0.0]], 0.0),
    ],
)
def test_the_top_eigenvalue_of_a_linear_map_is_found(matrix, radius):
    of = torch.tensor(matrix, dtype=torch.float64)
    found = _spectral_radius(lambda s: Numbers(s.x @ of.T), Numbers(torch.tensor([[1.0, 2.0]], dtype=torch.float64)))
    assert found == [pytest.approx(radius, abs=1e-6)]


def test_the_top_eigenvalue_is_that_at_the_given_point():
    at = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    found = _spectral_radius(lambda s: Numbers(torch.tanh(s.x)), Numbers(at))
    assert found == pytest.approx([1.0, 1 - math.tanh(1.0) ** 2], abs=1e-5)


def test_distances_within_and_between_values():
    memory = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 4.0], [5.0, 4.0]], dtype=torch.float64)
    found = _distances(memory, torch.tensor([0, 0, 7, 7]))
    assert found["within"] == pytest.approx(math.sqrt(2 / 8))  # two rows are off by 1 in one of eight numbers
    assert found["between"] == pytest.approx(math.sqrt((16 + 16) / 2))  # from (1, 0) to (5, 4)
    assert math.isnan(_distances(memory, torch.zeros(4))["between"])


@pytest.mark.parametrize(
    "held, lost",
    [
        ("111111", None),
        ("110111", None),  # one failure by chance
        ("110000", 2),
        ("1100000001000000", 2),  # one success by chance
        ("11 1 0 0", 5),  # spaces: steps without a read-out
        ("0000000000000010", 15),  # never before it was stored
        ("", None),
        ("000", None),
    ],
)
def test_a_variable_is_lost_where_nearly_all_later_read_outs_fail(held, lost):
    marks = np.array(list(held))
    assert _from_which_on(marks == "0", marks == "1", _first(marks == "1")) == lost


def test_read_outs_grow_sparse():
    assert all(_is_fitted(t) for t in range(256))
    assert [t for t in range(256, 1_100) if _is_fitted(t)][:3] == [256, 258, 260]
    assert sum(_is_fitted(t) for t in range(100_000)) < 3_000


def gru(keep):
    """A GRU that walks ahead. A cue of +1 sets its number 0 to 1, one of -1 its number 1 to -1; later both are multiplied by
    `keep` at every step. Its number 2 goes to 1 in the same way, whatever it sees."""
    env = make_from_config(TASK, 32)
    policy = ActorCritic(make_spec(env, TASK, config.GRUConfig(width=8, previous_action=False))).eval()
    for parameter in policy.parameters():
        parameter.data.zero_()
    policy.norm.weight.data.fill_(1.0)
    policy.encoder.encoder.linear.weight.data[0, 1] = 1.0  # the cue
    rnn = policy.backbone.rnn  # rows of its gates: 8 reset, 8 update, 8 new
    rnn.bias_ih_l0.data[8:16] = math.log(keep / (1 - keep))
    rnn.weight_ih_l0.data[8, 0], rnn.weight_ih_l0.data[9, 0] = -40.0, 40.0
    rnn.weight_ih_l0.data[16:18, 0] = 20.0
    rnn.bias_ih_l0.data[18] = 20.0
    return policy, env


def test_a_memory_that_decays_loses_the_cue_and_both_values_come_to_rest_at_one_place():
    found = diagnose(*gru(0.8), repeats=200)
    assert (found.part, found.numbers, found.period, found.distinct) == ("hidden state", 8, 1, 2)
    assert (found.lengths, found.hold, found.variable) == ((61, 61), 30, "cue")
    assert [rest.value for rest in found.rests] == ["down", "up"]
    for rest in found.rests:
        assert rest.eigenvalue == pytest.approx(0.8, abs=1e-6)
        assert rest.settled is not None and rest.apart < 1e-4 < rest.apart_before
    between = found.over_time.between["cue"]
    assert between[20] / between[10] == pytest.approx(0.8**10, rel=1e-4)
    # after t steps 0.8 ** t of the difference are left, which noise of five percent hides
    assert found.over_time.stored["cue"] == 0
    assert 5 < found.over_time.lost["cue"] < 40


def test_the_observation_is_not_repeated_before_the_memory_holds_the_variable():
    policy = load_policy("zoo:tmaze-rmt")
    env = make_task(policy, {"name": "tmaze", "length": 40, "min_length": None}, rows=32)
    found = diagnose(policy, env, repeats=5, steps=10)
    assert found.over_time.stored["cue"] == 7 > found.lengths[0] // 2
    assert found.hold == 7 and all(rest.apart_before > 0 for rest in found.rests)


def test_a_memory_that_knows_nothing_of_the_cue_never_stored_it():
    """Few episodes among distractors: at one of a hundred steps the read-out is right in three quarters, by luck."""
    task = config.TMazeConfig(length=100, distractors=True)
    for seed in range(4):
        torch.manual_seed(seed)
        env = make_from_config(task, 32)
        policy = ActorCritic(make_spec(env, task, config.GRUConfig(width=8))).eval()
        policy.encoder.encoder.linear.weight.data[:, 1] = 0.0  # the cue
        policy.head.linear.bias.data[2] = 50.0  # walk to the right
        found = diagnose(policy, env, seed=seed, repeats=2)
        assert float(np.nanmax(found.over_time.accuracy["cue"])) >= 0.75
        assert found.over_time.stored["cue"] is None


def test_a_memory_that_overflows_is_named():
    policy, env = gru(0.8)
    policy.backbone.rnn.weight_hh_l0.data.fill_(math.nan)
    with pytest.raises(RunError, match=r"the policy's memory is not finite after step 0 of an episode"):
        diagnose(policy, env, repeats=5)


def test_an_encoder_that_computes_in_float32_is_diagnosed_like_any_other():
    class Float32(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.linear = encoder.linear

        def forward(self, obs):
            return self.linear(obs.float())

    policy, env = gru(0.8)
    expected = diagnose(policy, env, repeats=5)
    policy.encoder.encoder = Float32(policy.encoder.encoder)
    assert diagnose(policy, env, repeats=5).rests == pytest.approx(expected.rests)


def test_a_variable_with_one_value_does_not_shorten_the_table():
    policy, env = gru(0.8)
    hidden = env.hidden
    env.hidden = lambda: hidden() | {"constant": torch.zeros(env.num_envs, dtype=torch.int64)}
    text = describe(diagnose(policy, env, repeats=5))
    assert len([line for line in text.splitlines() if line.strip()[:2].strip().isdigit()]) > 5
    assert "constant: not measured, it has one value or few episodes" in text


def test_variables_that_are_not_examined_are_counted():
    policy, env = gru(0.8)
    hidden = env.hidden
    env.hidden = lambda: {f"{i}": value for value in hidden().values() for i in range(11)}
    found = diagnose(policy, env, repeats=5, steps=3)
    assert len(found.over_time.stored) == 8 and "3 more variables were not examined" in describe(found)


def test_a_memory_that_keeps_everything_holds_the_cue():
    found = diagnose(*gru(1 - 1e-9), repeats=20)
    assert (found.over_time.stored["cue"], found.over_time.lost["cue"]) == (0, None)
    for rest in found.rests:
        assert rest.settled == 1 and rest.apart == pytest.approx(rest.apart_before) and rest.apart > 0.5
        assert rest.eigenvalue == pytest.approx(1.0, abs=1e-6)


def blank():
    """A GRU that never sees the cue, so that its memory is the same in all episodes."""
    policy, env = gru(0.8)
    policy.encoder.encoder.linear.weight.data.zero_()
    return policy, env


def test_the_noise_on_a_memory_that_says_nothing_is_not_read():
    for seed in range(8):  # with 16 episodes a fit to the noise alone is often good
        found = diagnose(blank()[0], make_from_config(TASK, 16), seed=seed, steps=6, repeats=3)
        assert found.over_time.stored["cue"] is None
        assert "would be forgotten" not in describe(found)  # it never was there


def test_a_variable_with_one_value_is_not_measured(monkeypatch):
    policy, env = gru(0.8)
    monkeypatch.setattr(env, "hidden", lambda: {"cue": torch.ones(env.num_envs, dtype=torch.int64)})
    found = diagnose(policy, env, steps=6, repeats=3)
    assert found.over_time.stored["cue"] is None
    assert "cue: not measured, it has one value or few episodes" in describe(found)


def test_all_values_see_the_same_observation_while_it_is_repeated():
    # the cue, repeated: each one alone would set its own number; seen by both memories, it makes them equal
    found = diagnose(*gru(0.8), repeats=200, hold=0)
    assert max(rest.apart for rest in found.rests) < 1e-4


def test_a_step_that_no_episode_has_is_not_held():
    with pytest.raises(
        ConfigError, match=r"hold=10: no episode has this step; expected 0 to 9, the last one of the longest"
    ):
        diagnose(*gru(0.8), repeats=5, steps=10, hold=10)


@pytest.mark.parametrize(
    "value, found",
    [
        (torch.tensor([-1, 1]), "the value -1"),
        (torch.tensor([0, 10**9]), "the value 1000000000"),
        (torch.tensor([0.5, 1.0]), "and type torch.float32;"),
        (torch.tensor([[0], [1]]), r"shape \[32, 1\]"),
    ],
)
def test_hidden_values_that_are_no_numbers_of_values_are_refused(monkeypatch, value, found):
    policy, env = gru(0.8)
    monkeypatch.setattr(env, "hidden", lambda: {"cue": value.repeat(env.num_envs // 2, *[1] * (value.ndim - 1))})
    with pytest.raises(
        ConfigError, match=rf"hidden: cue has .*{found}.* expected {env.num_envs} whole numbers from 0 to 99,999"
    ):
        diagnose(policy, env, steps=6, repeats=3)


@pytest.mark.parametrize("value", [[0, 1], None])
def test_hidden_values_that_are_no_tensors_are_refused(monkeypatch, value):
    policy, env = gru(0.8)
    for hidden, found in (({"cue": value}, "hidden: cue is a"), (value, "hidden: returned")):
        monkeypatch.setattr(env, "hidden", lambda hidden=hidden: hidden)
        with pytest.raises(ConfigError, match=found):
            diagnose(policy, env, steps=6, repeats=3)


@pytest.mark.parametrize("kind", [torch.bool, torch.int32])
def test_hidden_values_of_other_types_are_whole_numbers_too(monkeypatch, kind):
    policy, env = gru(0.8)
    usual, other = env.hidden, lambda: {name: value.to(kind) for name, value in usual().items()}
    expected = diagnose(policy, env, steps=6, repeats=3)
    monkeypatch.setattr(env, "hidden", other)
    assert diagnose(policy, env, steps=6, repeats=3).over_time.stored == expected.over_time.stored


@pytest.mark.slow
def test_the_observation_of_another_step_is_held():
    assert diagnose(*gru(0.8), repeats=5, hold=3).hold == 3
    # one cue opens one gate and closes the other, which then loses nothing
    assert diagnose(*gru(0.8), repeats=5, hold=0).rests[0].eigenvalue == pytest.approx(1.0, abs=1e-6)


@pytest.mark.slow
def test_the_command_writes_a_figure_a_table_and_the_numbers(tmp_path, capsys):
    policy, _ = gru(0.8)
    save_policy(policy, tmp_path / "policy")
    given = [f"policy={tmp_path / 'policy'}", "episodes=32", f"out={tmp_path / 'report'}"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "32 episodes of 61 to 61 steps, 2 of them different" in out
    assert "top eigenvalue 0.800; the same place as another value, so it would be forgotten" in out
    content = json.loads((tmp_path / "report/memory.json").read_text())
    assert f"cue: stored after step 0, lost after step {content['lost']['cue']}\n" in out
    head, first, *rows = (tmp_path / "report/memory.csv").read_text().splitlines()
    assert (
        head.split(",")[:4] == ["step", "running", "change", "size"] and first.startswith("0,32,") and len(rows) == 60
    )
    steps = {int(row.split(",")[0]) for row in (first, *rows)}
    assert {content["stored"]["cue"], content["lost"]["cue"]} <= steps
    assert (tmp_path / "report/memory.png").read_bytes().startswith(b"\x89PNG")
    assert main(given) == 2
    assert "report: exists already and is not overwritten; choose another out=" in capsys.readouterr().err


def test_a_policy_that_remembers_nothing_is_one_sentence(tmp_path, capsys):
    env = make_from_config(TASK, 2)
    save_policy(ActorCritic(make_spec(env, TASK, config.MLPConfig(width=8))), tmp_path / "policy")
    assert main([f"policy={tmp_path / 'policy'}", "episodes=32"]) == 2
    assert "has no memory of real numbers, which is all that can be examined" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["rmt", "gtrxl", "lstm", "hierarchical", "reformer", "routing", "deltanet"])
def test_every_memory_can_be_examined(policy):
    task = config.TMazeConfig(length=20, min_length=3)
    env = make_from_config(task, 16)
    torch.manual_seed(0)
    made = ActorCritic(make_spec(env, task, config.GROUPS["policy"][policy].config(width=16)))
    found = diagnose(made, env, steps=20, repeats=3)
    assert len(found.rests) == 2 and all(math.isfinite(rest.eigenvalue) for rest in found.rests)
