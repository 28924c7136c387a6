"""Which cells a comparison has: pure functions of what was typed."""

from __future__ import annotations

import dataclasses
import re
import shlex
import unittest.mock

import numpy as np
import pytest
import torch

import rmt_rl
from rmt_rl import PPOConfig
from rmt_rl.common.errors import ConfigError, Stopped
from rmt_rl.compare import command_of
from rmt_rl.comparison import worker
from rmt_rl.comparison.cells import expand, key_of, notes
from rmt_rl.comparison.request import from_python, parse_compare
from rmt_rl.comparison.rows import failed_row
from rmt_rl.comparison.store import from_dict, to_dict
from rmt_rl.config.cli import parse
from rmt_rl.config.registry import PLUGINS


def matrix_of(*arguments):
    matrix = parse_compare(arguments)[1]
    assert matrix is not None
    return matrix


def keys(*arguments):
    return [cell.key for cell in expand(matrix_of(*arguments))]


BASE = ("env=tmaze", "policy=rmt,lstm", "seeds=1")

EXPANSIONS = {
    ("env=tmaze", "policy=rmt", "seeds=2"): ["tmaze-rmt-s0", "tmaze-rmt-s1"],
    ("env=tmaze", "policy=rmt", "seeds=3,7"): ["tmaze-rmt-s3", "tmaze-rmt-s7"],
    ("env=tmaze", "policy=rmt", "seeds=[3]"): ["tmaze-rmt-s3"],
    # all policies with the first seed come first
    ("env=tmaze", "policy=rmt,lstm", "seeds=2"): ["tmaze-rmt-s0", "tmaze-lstm-s0", "tmaze-rmt-s1", "tmaze-lstm-s1"],
    ("env=tmaze,copy", "policy=rmt", "seeds=1"): ["tmaze-rmt-s0", "copy-rmt-s0"],
    # an axis does not multiply the cells of policies that do not have the option
    (*BASE, "policy.segment=4,8"): ["tmaze-rmt-policy.segment=4-s0", "tmaze-rmt-policy.segment=8-s0", "tmaze-lstm-s0"],
    (*BASE, "policy.segment=4"): ["tmaze-rmt-s0", "tmaze-lstm-s0"],
    ("env=tmaze,bandit", "policy=mlp", "seeds=1", "env.min_length=1,2"): [
        "tmaze-mlp-env.min_length=1-s0",
        "tmaze-mlp-env.min_length=2-s0",
        "bandit-mlp-s0",
    ],
    ("env=tmaze", "policy=gru", "seeds=1", "algo.gamma=0.9,0.99"): [
        "tmaze-gru-algo.gamma=0.9-s0",
        "tmaze-gru-algo.gamma=0.99-s0",
    ],
    ("env=tmaze", "policy=gru", "seeds=1", "algo.gamma=0.9,0.99", "env.length=3,4"): [
        "tmaze-gru-algo.gamma=0.9-env.length=3-s0",
        "tmaze-gru-algo.gamma=0.9-env.length=4-s0",
        "tmaze-gru-algo.gamma=0.99-env.length=3-s0",
        "tmaze-gru-algo.gamma=0.99-env.length=4-s0",
    ],
    # values are read before they become a name
    ("env=tmaze", "policy=gru", "seeds=1", "steps=2e3,3_000"): ["tmaze-gru-steps=2000-s0", "tmaze-gru-steps=3000-s0"],
    ("env=tmaze", "policy=gru", "seeds=1", "env.min_length=null,2"): [
        "tmaze-gru-env.min_length=null-s0",
        "tmaze-gru-env.min_length=2-s0",
    ],
}


@pytest.mark.parametrize("arguments", EXPANSIONS, ids=" ".join)
def test_the_cells_of_a_comparison(arguments):
    assert keys(*arguments) == EXPANSIONS[arguments]


def test_a_name_has_only_plain_characters_and_no_two_cells_share_it():
    assert re.fullmatch(r"[a-z0-9._=-]+", key_of("gym", "RMT", {"env.id": "CartPole-v1", "x": "a/b c"}, 3))
    names = [
        key_of("tmaze", "active-rmt", {}, 0),
        key_of("tmaze-active", "rmt", {}, 0),
        key_of("tmaze", "Rmt", {}, 0),
        key_of("tmaze", "rmt", {}, 0),
        key_of("tmaze", "rmt", {"a": "1-b=2"}, 0),
        key_of("tmaze", "rmt", {"a": "1", "b": 2}, 0),
        key_of("tmaze", "rmt", {"a": "x" * 300}, 0),
        key_of("tmaze", "rmt", {"a": "x" * 301}, 0),
    ]
    assert len({*names}) == len(names) and all(len(name) < 160 for name in names)


def test_commas_inside_brackets_and_quotes_make_no_axis():
    matrix = matrix_of("env=gym", "policy=mlp", "seeds=1", "env.options={a: 1, b: 2}", "metrics='a,b'")
    assert matrix.axes == {} and matrix.options == {"env.options": {"a": 1, "b": 2}, "metrics": "a,b"}


def test_policies_get_equal_budgets_unless_the_user_gives_widths():
    assert {cell.config.policy.params for cell in expand(matrix_of(*BASE))} == {110_000}
    assert {cell.config.policy.params for cell in expand(matrix_of(*BASE, "params=5e4"))} == {50_000}
    for given in ("params=none", "policy.width=32", "policy.width=32,64"):
        assert {cell.config.policy.params for cell in expand(matrix_of(*BASE, given))} == {None}


def test_a_cell_is_evaluated_twenty_times_during_training_unless_the_user_says_how_often():
    assert expand(matrix_of(*BASE, "steps=4000"))[0].config.evaluate_every == 200
    assert expand(matrix_of(*BASE, "steps=4000", "evaluate_every=500"))[0].config.evaluate_every == 500


def test_the_command_of_a_cell_repeats_its_training():
    cell = expand(matrix_of(*BASE, "policy.segment=4,8", "env.length=7", "steps=4000"))[1]
    words = cell.command().split()
    assert words[:3] == ["python", "-m", "rmt_rl.train"]
    typed = parse(words[3:])
    assert (typed.policy, typed.env, typed.algo) == (cell.config.policy, cell.config.env, cell.config.algo)
    assert (typed.steps, typed.seed, typed.evaluate_every) == (4000, 0, 200)


def test_the_row_of_a_cell_has_the_episodes_that_the_comparison_plays():
    matrix = matrix_of(*BASE, "evaluate_episodes=7")
    assert failed_row(matrix, expand(matrix)[0], "an error")["options"]["evaluate_episodes"] == 7


def test_a_cell_whose_environment_exits_is_a_failed_cell_and_one_that_a_signal_ends_is_none(tmp_path, monkeypatch):
    matrix = matrix_of(*BASE)
    for end in (SystemExit(0), Stopped(143)):
        monkeypatch.setattr(worker, "train_cell", unittest.mock.Mock(side_effect=end))
        if isinstance(end, Stopped):
            with pytest.raises(Stopped):
                worker.locked_row(tmp_path, matrix, expand(matrix)[0])
        else:
            row = worker.locked_row(tmp_path, matrix, expand(matrix)[0])
            assert row is not None and row["error"].startswith("SystemExit: 0; ")


def test_tests_are_all_combinations_of_their_options_for_tasks_that_have_them():
    given = ("test.env.length=5,9", "test.env.end_at_turn=true,false", "test.env.min_length=null")
    tmaze, bandit = expand(matrix_of("env=tmaze,bandit", "policy=mlp", "seeds=1", *given))
    assert [*tmaze.tests] == ["training"] + [
        f"env.length={n},env.end_at_turn={end}" for n in (5, 9) for end in ("true", "false")
    ]
    assert tmaze.tests["env.length=9,env.end_at_turn=true"] == {
        "env.length": 9,
        "env.end_at_turn": True,
        "env.min_length": None,
    }
    assert [*bandit.tests] == ["training", "env.length=5", "env.length=9"]


def test_options_that_do_not_apply_everywhere_are_named():
    found = notes(matrix_of("env=tmaze,dark-room", "policy=rmt,lstm,mlp", "policy.segment=4,8", "test.env.length=5"))
    assert found == [
        "policy.segment=4,8: does not apply to lstm, mlp, which have no such option",
        "test.env.length: does not apply to dark-room, which has no such option",
    ]


def test_a_policy_without_memory_carries_none_over():
    matrix = matrix_of("env=tmaze", "policy=gru,mlp", "seeds=1", "memory.carry=0,0.5", "memory.ramp_end=0.9")
    found = [
        (cell.policy, cell.config.memory.carry, cell.config.memory.ramp_end)
        for cell in expand(
            matrix_of("env=tmaze", "policy=gru,mlp", "seeds=1", "memory.carry=0.5", "memory.ramp_end=0.9")
        )
    ]
    assert found == [("gru", 0.5, 0.9), ("mlp", 0.0, 0.0)]
    assert notes(matrix) == [
        "memory.carry=0.0,0.5: does not apply to mlp, which has no memory",
        "memory.ramp_end=0.9: does not apply to mlp, which has no memory",
    ]


def test_an_mlp_that_sees_its_previous_action_carries_it_over():
    given = ("env=tmaze", "policy=mlp", "seeds=1", "memory.carry=0.5", "policy.previous_action=true")
    assert [cell.config.memory.carry for cell in expand(matrix_of(*given))] == [0.5]


def test_an_ablation_without_carry_over_has_no_ramp():
    ramp = ("memory.ramp=success", "memory.ramp_start=0.8", "memory.ramp_end=0.95")
    without, carries = expand(matrix_of("env=tmaze", "policy=gru", "seeds=1", "memory.carry=0,0.5", *ramp))
    assert (without.config.memory.ramp, without.config.memory.ramp_end) == ("steps", 0)
    assert (carries.config.memory.ramp, carries.config.memory.ramp_end) == ("success", 0.95)


MISTAKES = {
    ("env=tmaze", "policy=mlp", "memory.carry=0,0.5"): "memory.carry: no policy of the comparison has a memory",
    ("policy=rmt",): "env: missing",
    ("env=tmaze",): "policy: missing",
    ("env=tmaze", "policy=rmtt"): "policy=rmtt: .*did you mean rmt",
    ("env=tmaze", "policy=lstm,mlp", "policy.segment=4,8"): "policy.segment: no cell of the comparison has this option",
    ("env=tmaze", "policy=rmt", "polcy.segment=4"): "polcy.segment: no cell .* no such option",
    ("env=tmaze", "policy=rmt", "width=4"): "width: no cell .*did you mean policy.width",
    ("env=tmaze", "policy=rmt", "test.env.lenth=4"): "test.env.lenth: no task .*did you mean env.length",
    ("env=tmaze", "policy=rmt", "test.policy.width=4"): "only options of the task can be tested",
    ("env=tmaze", "policy=rmt", "test.env.length=0"): "env.length=0: expected a whole number, at least 1",
    (
        "env=tmaze",
        "policy=rmt",
        "env.min_length=5",
        "test.env.length=3",
    ): "cell tmaze-rmt-s0: env.min_length=5: expected",
    ("env=tmaze", "policy=rmt", "algo.gamma=0.9,2"): "algo.gamma=2: expected",
    ("env=tmaze", "policy=rmt", "policy.width=15,16"): "cell tmaze-rmt-policy.width=15-s0: policy.heads=2",
    ("env=tmaze", "policy=rmt", "policy.segment=4,4"): "policy.segment=4,4: has a value twice",
    ("env=tmaze,tmaze", "policy=rmt"): "env=tmaze,tmaze: has a value twice",
    ("env=tmaze", "policy=rmt,"): "policy=rmt,: has an empty value",
    ("env=tmaze", "policy=rmt", "seeds=0"): "seeds=0: expected a number of seeds",
    ("env=tmaze", "policy=rmt", "seeds=a"): "seeds=a: expected a number of seeds",
    ("env=tmaze", "policy=rmt", "seeds=1,1"): "seeds=1,1: has a value twice",
    ("env=tmaze", "policy=rmt", "seed=1"): "seed=1: expected seeds=",
    ("env=tmaze", "policy=rmt", "run=x"): "run=x: every cell has a folder of its own",
    ("env=tmaze", "policy=rmt", "params=50000", "policy.width=16"): "policy.params=50000: .*give only one",
    ("env=tmaze", "policy=rmt", "budget.step=5"): "budget.step: .*did you mean budget.steps",
    ("env=tmaze", "policy=rmt", "budget.steps=5", "steps=5"): "budget.steps=5: steps=5 is given too",
    ("env=tmaze", "policy=rmt", "budget.cpu_s=0"): "budget.cpu_s=0: expected a number, above 0",
    ("env=tmaze", "policy=rmt", "evaluate_episodes=0"): "cell tmaze-rmt-s0: evaluate_episodes=0: expected at least 1",
    ("env=tmaze", "policy=rmt", "report=x"): "env: has no effect with report=",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_sentence(arguments):
    with pytest.raises(ConfigError, match=MISTAKES[arguments]) as found:
        expand(matrix_of(*arguments))
    assert "\n" not in str(found.value)


def test_python_and_the_command_line_ask_for_the_same():
    given = {"env": "tmaze,copy", "policy": ["rmt", "lstm"], "seeds": [3, 7], "params": None, "steps": 2000}
    given |= {"policy.segment": [4, 8], "test.env.length": [5, 9], "budget.cpu_s": 7, "env.length": 5}
    typed = ("env=tmaze,copy", "policy=rmt,lstm", "seeds=3,7", "params=none", "steps=2000", "policy.segment=4,8")
    assert from_python(given)[1] == matrix_of(*typed, "test.env.length=5,9", "budget.cpu_s=7", "env.length=5")


def test_a_matrix_survives_its_file_and_its_command():
    given = ("policy.segment=4,8", "metrics='a,b'", "test.env.length=5,9", "params=none", "seeds=4,2")
    matrix = matrix_of("env=tmaze", "policy=rmt,lstm", *given)
    assert from_dict(to_dict(matrix)) == matrix
    assert matrix_of(*shlex.split(command_of(matrix))[3:]) == matrix


def test_an_environment_that_workers_cannot_import_is_one_sentence():
    class Local(rmt_rl.TorchVectorEnv):
        def __init__(self, num_envs, device):
            pass

    for env in (Local, lambda num_envs, device: None, rmt_rl.make_env("tmaze"), 5):
        with pytest.raises(ConfigError, match=r"worker processes cannot import .*register_env"):
            from_python({"env": env, "policy": "rmt"})


@pytest.mark.parametrize(
    "given",
    [
        {"seeds": np.int64(2), "algo.gamma": np.float32(0.5), "env.length": torch.tensor(5)},
        {"seeds": np.arange(2), "algo.gamma": np.array([0.5]), "env.length": [np.int32(5)]},
        {"seeds": torch.arange(2), "algo.gamma": (0.5,), "env.length": range(5, 6), "init": None},
    ],
)
def test_python_may_give_numbers_and_lists_of_other_libraries(given):
    matrix = from_python({"env": "tmaze", "policy": "mlp", **given})[1]
    assert (matrix.seeds, matrix.options["algo.gamma"], matrix.options["env.length"]) == ((0, 1), 0.5, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"env": []}, r"env=\[\]: has no value; expected at least one"),
        ({"policy": ()}, r"policy=\[\]: has no value"),
        ({"policy": object}, "policy=.*object.*: expected its name; its options are given as policy.<option>"),
        ({"algo": PPOConfig()}, "algo=PPOConfig.*: expected its name; its options are given as algo.<option>"),
        ({"env.length": {3, 4}}, "env.length={3, 4}: expected a number, text, true, false"),
        ({"env.length": object()}, "env.length=<object object.*: expected a number, text"),
        ({"policy.width": 10**5000}, "policy.width=a number of thousands of digits: expected"),
        ({"policy.encoder_options": {5: 1}}, "policy.encoder_options={5: 1}: expected"),
        ({"seeds": [1.5, 2]}, "seeds=.*: expected a number of seeds, or seeds separated by commas"),
        ({"seeds": "9" * 5000}, "seeds=9+...: expected a number of seeds from 1"),
        ({"plugins": 5}, "plugins=5: expected modules separated by commas"),
        (
            {"env": None, "policy": None, "report": ["a", "b,c"]},
            "report=b,c: expected the path of a folder, without a comma",
        ),
    ],
)
def test_what_python_cannot_type_is_one_sentence(given, message):
    with pytest.raises(ConfigError, match=message) as found:
        from_python({"env": "tmaze", "policy": "mlp", **given})
    assert "\n" not in str(found.value)


def test_plugins_may_be_a_list():
    before = [*PLUGINS]
    try:
        matrix = from_python({"env": "tmaze", "policy": "mlp", "plugins": ["json", "csv"]})[1]
    finally:
        PLUGINS[:] = before
    assert matrix.plugins[-2:] == ("json", "csv")
    assert from_python({"env": "tmaze", "policy": "mlp", "plugins": []})[1].plugins == tuple(before)


def test_a_class_of_a_module_is_a_task():
    from rmt_rl.envs.tmaze.passive import TMaze

    (cell,) = expand(from_python({"env": TMaze, "policy": "mlp", "seeds": 1})[1])
    assert cell.task == "rmt_rl.envs.tmaze.passive:TMaze" and cell.config.env.name == cell.task


@pytest.mark.parametrize("name", ["compare", "train"])
def test_the_command_of_a_class_of_a_module_gives_the_class_to_python(name, monkeypatch):
    from rmt_rl.envs.objects import env_config_of
    from rmt_rl.envs.tmaze.passive import TMaze

    given = {"policy": ["rmt", "mlp"], "seeds": [4], "steps": 2000, "policy.segment": [4, 8], "metrics": "'a,b'"}
    matrix = from_python({"env": [TMaze, "copy"], **given})[1]
    command = command_of(matrix) if name == "compare" else expand(matrix)[0].command(matrix.plugins)
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    called = []
    monkeypatch.setattr(rmt_rl, name, lambda **options: called.append(options))
    exec(code)
    (options,) = called
    if name == "compare":
        assert from_python(options)[1] == matrix
    else:
        config = rmt_rl.make_config(**{**options, "env": env_config_of(options["env"])})
        assert config == dataclasses.replace(expand(matrix)[0].config, evaluate_episodes=400, run=None)


def test_a_registration_names_the_module_that_workers_import(tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text(
        "import dataclasses, rmt_rl\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class MineConfig(rmt_rl.EnvConfig):\n    'Mine.'\n"
        "from rmt_rl.envs.tmaze.passive import TMaze\n"
        "@rmt_rl.register_env('mine', MineConfig)\n"
        "class Mine(TMaze):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_tasks  # noqa: F401

    matrix = from_python({"env": "mine", "policy": "mlp", "seeds": 1})[1]
    assert matrix.plugins == ("own_tasks",)
    assert "plugins=own_tasks" in expand(matrix)[0].command(matrix.plugins)
