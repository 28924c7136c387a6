"""Claims about `make_config`: the command line, a YAML file and Python give the same run, and what wins over what."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from rmt_rl import config as cfg
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.gymnasium_ids import without_version
from rmt_rl.config.cli import parse
from rmt_rl.config.envs import BanditConfig, GymConfig, TMazeConfig
from rmt_rl.config.fields import Option
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.policies import GRUConfig, LSTMConfig, RMTConfig
from rmt_rl.config.registry import GROUPS
from rmt_rl.train import resolve

RECIPES = {name: entry.recipe.options for name, entry in GROUPS["env"].items() if entry.recipe.options}
CHOICES = [(group, name) for group in ("env", "policy", "algo") for name in GROUPS[group]]


def from_file(folder: Path, options: dict[str, Any], *argv: str) -> cfg.TrainConfig:
    file = folder / "options.yaml"
    file.write_text(yaml.safe_dump(options))
    return parse([f"config={file}", *argv])


def other_values(known: Option) -> Iterator[Any]:
    """Allowed values of an option beside its default."""
    bounds = [known.kind(bound) for bound in known.bounds.values() if bound is not None and known.kind in (int, float)]
    middle = [known.default + 1, known.default * 2] if isinstance(known.default, int) else []
    for value in (*known.choices, True, False, *middle, *bounds, {"a": {"b": 1}}, "Other-v0"):
        if type(value) is known.kind and value != known.default and known.allows(value):
            yield value


def is_accepted(**options: Any) -> bool:
    try:
        cfg.make_config(**options)
    except ConfigError:
        return False
    return True


# ----------------------------------------------------------------------------------------- three ways in, one result


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_python_the_command_line_and_a_file_give_equal_runs(group: str, name: str, tmp_path: Path) -> None:
    """For the choice alone, and for every option of it that can be changed alone."""
    chosen = cfg.make_config(**{group: name})
    assert chosen == parse([f"{group}={name}"])
    assert chosen == from_file(tmp_path, {group: name}) == from_file(tmp_path, {group: {"name": name}})
    changed = 0
    for option, known in cfg.options(GROUPS[group][name].config).items():
        full = f"{group}.{option}"
        used = getattr(getattr(chosen, group), option)
        value = next((v for v in other_values(known) if v != used and is_accepted(**{group: name, full: v})), None)
        if value is None:  # only together with another option
            continue
        changed += 1
        expected = cfg.make_config(**{group: name, full: value})
        assert expected == cfg.make_config(**{group: {"name": name, option: value}}) != chosen
        assert expected == parse([f"{group}={name}", f"{full}={cfg.show(value)}"])
        assert expected == from_file(tmp_path, {group: {"name": name, option: value}})
        assert expected == from_file(tmp_path, {group: name}, f"{full}={cfg.show(value)}")
    assert changed


def test_the_other_options_are_given_in_the_same_three_ways(tmp_path: Path) -> None:
    expected = cfg.make_config(env="tmaze", seed=3, evaluate_every=500, **{"until.success": 0.9})
    assert expected == parse(["env=tmaze", "seed=3", "evaluate_every=500", "until.success=0.9"])
    given = {"env": "tmaze", "seed": 3, "evaluate_every": 500, "until": {"success": 0.9}}
    assert expected == from_file(tmp_path, given) == cfg.make_config(given)


@pytest.mark.parametrize("name", GROUPS["env"])
def test_a_saved_configuration_is_a_file_of_options(name: str, tmp_path: Path) -> None:
    config = cfg.make_config(env=name, policy="gru", seed=3)
    cfg.save_yaml(config, tmp_path / "config.yaml")
    assert parse([f"config={tmp_path / 'config.yaml'}"]) == config


def test_the_saved_configuration_of_a_run_is_complete_and_its_choices_can_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    cfg.save_yaml(cfg.make_config(env="tmaze", **{"policy.params": 50_000, "env.length": 20}), file)
    config = parse([f"config={file}"])
    assert (config.policy.params, config.env.length) == (50_000, 20)
    assert parse([f"config={file}", "policy=lstm", "env=bandit"]) == dataclasses.replace(
        config, policy=LSTMConfig(), env=BanditConfig()
    )
    file.write_text("format: 2\nenv: {name: bandit}\nalgo: {name: ppo}\npolicy: {name: rmt}\n")
    assert parse([f"config={file}"]).algo == cfg.PPOConfig(barrier_coef=0)  # as it is loaded to resume: no recipe


def test_a_typed_width_replaces_the_number_of_parameters_in_the_file_and_the_reverse(tmp_path: Path) -> None:
    by_size = from_file(tmp_path, {"policy": {"name": "lstm", "params": 50_000}}, "policy.width=128").policy
    assert (by_size.params, by_size.width) == (None, 128)
    by_width = from_file(tmp_path, {"policy": {"name": "lstm", "width": 32}}, "policy.params=50000").policy
    assert by_width == LSTMConfig(params=50_000)


@pytest.mark.parametrize("name", GROUPS["env"])
def test_train_resolves_its_options_like_the_command_line(name: str) -> None:
    assert resolve(None, {"env": name, "seed": 3}) == parse([f"env={name}", "seed=3"])


# -------------------------------------------------------------------------------------------------- what wins over what


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_wins_over_the_defaults(name: str) -> None:
    config, recipe = cfg.make_config(env=name), GROUPS["env"][name].recipe
    own = recipe.policies[config.policy.name].options if config.policy.name in recipe.policies else {}
    for key, value in {**recipe.options, **own}.items():
        group, _, option = key.rpartition(".")
        assert getattr(getattr(config, group) if group else config, option) == value


@pytest.mark.parametrize("name", RECIPES)
def test_a_file_wins_over_a_recipe(name: str, tmp_path: Path) -> None:
    config = from_file(tmp_path, {"env": name, "algo": {"num_envs": 24, "gamma": 0.5}, "steps": 77})
    assert (config.algo.num_envs, config.steps, config.algo.gamma) == (24, 77, 0.5)


@pytest.mark.parametrize("name", RECIPES)
def test_what_the_user_types_wins_over_a_recipe(name: str) -> None:
    config = parse([f"env={name}", "algo.num_envs=24", "steps=77", "algo.gamma=0.5"])
    assert (config.algo.num_envs, config.steps, config.algo.gamma) == (24, 77, 0.5)


def test_what_the_user_types_wins_over_the_file(tmp_path: Path) -> None:
    file = {"env": {"name": "tmaze", "length": 20, "end_at_turn": True}, "steps": 5, "seed": 2, "policy": "lstm"}
    config = from_file(tmp_path, file, "env.length=30", "steps=6", "policy=gru")
    assert (config.env, config.steps, config.seed) == (TMazeConfig(length=30, end_at_turn=True), 6, 2)
    assert config.policy.name == "gru"


def test_the_options_of_a_choice_in_the_file_are_not_dropped_silently_where_another_is_typed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"env\.length=20: env=dark-room has no such option"):
        from_file(tmp_path, {"env": {"name": "tmaze", "length": 20}}, "env=dark-room")


def test_what_is_typed_wins_over_a_dataclass_in_the_file() -> None:
    file = {"env": TMazeConfig(length=20), "policy": LSTMConfig(width=16)}
    assert cfg.make_config(file, env="gym").env == GymConfig()
    assert cfg.make_config(file, policy=LSTMConfig(width=8)).policy == LSTMConfig(width=8)
    assert cfg.make_config(file, **{"env.length": 30}).env == TMazeConfig(length=30)


def test_a_task_in_the_file_brings_its_recipe_and_a_typed_one_replaces_it(tmp_path: Path) -> None:
    assert from_file(tmp_path, {"env": "bandit"}).steps == RECIPES["bandit"]["steps"]
    assert from_file(tmp_path, {"env": "bandit"}, "env=tmaze").steps == cfg.TrainConfig.steps


def test_a_dataclass_is_complete() -> None:
    """No recipe changes a group that is given as a dataclass, nor anything where the task is one."""
    policy = cfg.make_config(policy=RMTConfig(segment=16))
    assert policy.policy == RMTConfig(segment=16) != cfg.make_config(**{"policy.segment": 16}).policy
    assert policy.algo.num_envs == RECIPES["minigrid-memory"]["algo.num_envs"]  # the recipe of the rest stays
    assert cfg.make_config(env=BanditConfig()) == dataclasses.replace(cfg.make_config(env="tmaze"), env=BanditConfig())


def test_single_options_change_a_dataclass() -> None:
    config = cfg.make_config(policy=RMTConfig(segment=16), **{"policy.width": 32})
    assert config.policy == RMTConfig(segment=16, width=32)


def test_dictionaries_are_merged_and_what_is_given_is_not_changed() -> None:
    given = {"a": {"b": 1}}
    expected = GymConfig(options={"a": {"b": 1, "c": 2}})
    assert cfg.make_config({"env": {"name": "gym", "options": given}}, **{"env.options.a.c": 2}).env == expected
    assert cfg.make_config(env=GymConfig(options=given), **{"env.options.a.c": 2}).env == expected
    assert cfg.make_config(env={"name": "gym", "options": given}, **{"env.options.a.c": 2}).env == expected
    assert given == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"env": "tmazee"}, "did you mean tmaze?"),
        ({"env": {"name": "tmaze", "lenght": 3}}, "env.lenght=3: env=tmaze has no such option"),
        ({"env": 3}, "env=3: expected one of"),
        ({"env": {"name": "tmaze", "length": 3}, "env.length": 4}, "env.length=4: is given twice, env.length=3 before"),
        ({"stpes": 3}, "stpes=3: no such option"),
        ({"steps": "many"}, "steps=many: expected a whole number"),
        ({"policy.width": True}, "policy.width=true: expected a whole number"),
        ({"init": "runs/a", "policy": "rmt"}, "policy=rmt: the policy of init comes with its own options"),
        ({"init": "runs/a", "policy.width": 8}, "policy.width=8: the policy of init comes with its own options"),
        (
            {"resume": "runs/a"},
            "resume=runs/a: a run is resumed with its own configuration; expected resume=<folder> alone",
        ),
        ({"seed": np.array([3])}, "seed=array([3]): expected a whole number"),
        ({"seed": np.array(3.5)}, "seed=array(3.5): expected a whole number"),
        ({"seed": b"3"}, "seed=b'3': expected a whole number"),
    ],
)
def test_a_mistake_in_python_is_reported_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cfg.make_config(**given)
    assert message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("file", [["tmaze"], "tmaze", 3, cfg.TMazeConfig()])
def test_options_that_are_no_dictionary_are_rejected(file: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"expected a dictionary of options, such as \{'env': 'tmaze'\}, or options by name"
    ):
        cfg.make_config(file)


def test_a_complete_configuration_can_be_changed() -> None:
    config = cfg.make_config(env="bandit", policy="lstm")
    assert cfg.make_config(config) == config
    assert cfg.make_config(config, seed=3, **{"env.length": 4}) == dataclasses.replace(
        config, seed=3, env=dataclasses.replace(config.env, length=4)
    )


class Colour(str, enum.Enum):
    RED = "red"


def test_values_of_other_libraries_become_plain_values(tmp_path: Path) -> None:
    """Otherwise config.yaml could not be written, or the run that it belongs to not be resumed."""
    shared = [np.float64(1.5)]
    config = cfg.make_config(
        env={"name": "gym", "options": {"a": np.int64(2), "b": shared, "c": shared, "d": Colour.RED}},
        init=tmp_path / "policy",
        run=np.str_("mine"),
        tensorboard=np.bool_(True),
        seed=np.array(3),
        **{"algo.entropy_coef": Decimal("0.03"), "algo.gamma": np.float32(0.5)},
    )
    assert config.env.options == {"a": 2, "b": [1.5], "c": [1.5], "d": "red"}
    assert (config.init, config.run, config.tensorboard, config.seed) == (str(tmp_path / "policy"), "mine", True, 3)
    assert (config.algo.entropy_coef, config.algo.gamma) == (0.03, 0.5)
    cfg.save_yaml(config, tmp_path / "config.yaml")
    assert cfg.load_yaml(tmp_path / "config.yaml") == config


def test_a_policy_beside_the_init_of_a_file_is_not_ignored(tmp_path: Path) -> None:
    for options, argv in (({"init": "a"}, ["policy=lstm"]), ({"init": "a", "policy": "lstm"}, [])):
        with pytest.raises(
            ConfigError, match="policy=lstm: the policy of init comes with its own options; leave it out"
        ):
            from_file(tmp_path, options, *argv)
        assert from_file(tmp_path, options, *argv, "init=null").policy.name == "lstm"
    assert from_file(tmp_path, {"policy": "lstm"}, "init=a").init == "a"
    saved = tmp_path / "config.yaml"
    cfg.save_yaml(dataclasses.replace(cfg.make_config(policy="lstm"), init="a"), saved)
    assert parse([f"config={saved}"]).init == "a"
    with pytest.raises(ConfigError, match=r"policy\.width=8: the policy of init comes with its own options"):
        parse([f"config={saved}", "policy.width=8"])


def test_a_file_cannot_resume_a_run_with_other_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"resume=runs/a: a run is resumed with its own configuration"):
        from_file(tmp_path, {"resume": "runs/a", "steps": 5})


def test_the_folder_of_a_run_that_cannot_be_looked_at_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"resume=aaa.*: cannot be read: File name too long; expected the folder of a run"
    ):
        parse(["resume=" + "a" * 5_000])


@pytest.mark.parametrize("env", ["tmaze", "minigrid-memory", "bandit"])
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7, 64, 128])
def test_the_minibatches_fit_any_number_of_rows_where_only_the_rows_are_given(env: str, rows: int) -> None:
    algo: Any = cfg.make_config(env=env, **{"algo.num_envs": rows}).algo
    recommended = RECIPES.get(env, {}).get("algo.minibatches", 4)
    wanted = recommended if rows % recommended == 0 else {1: 1, 2: 2, 3: 3, 6: 3, 7: 1}[rows]
    assert algo.minibatch_count() == wanted
    assert parse([f"env={env}", f"algo.num_envs={rows}"]).algo == algo == dataclasses.replace(algo)


def test_minibatches_that_were_given_and_do_not_divide_the_rows_are_an_error(tmp_path: Path) -> None:
    message = r"^algo\.minibatches=8: expected a divisor of algo\.num_envs=2, such as 2$"
    with pytest.raises(ConfigError, match=message):
        cfg.make_config(env="tmaze", **{"algo.num_envs": 2, "algo.minibatches": 8})
    with pytest.raises(ConfigError, match=message):
        from_file(tmp_path, {"algo": {"minibatches": 8}}, "algo.num_envs=2")


@pytest.mark.parametrize("env", ["tmaze", "minigrid-memory"])
def test_the_number_of_minibatches_is_as_before_where_no_rows_are_given(env: str) -> None:
    algo: Any = cfg.make_config(env=env).algo
    assert algo.minibatch_count() == {"tmaze": 4, "minigrid-memory": 8}[env]


def test_a_gymnasium_id_may_have_a_recipe_of_its_own() -> None:
    pendulum: dict[str, Any] = {"env.id": "Pendulum-v1"}
    assert cfg.make_config(env="gym", **pendulum).algo.gamma == 0.9
    assert cfg.make_config(env={"name": "gym", "id": "Pendulum-v1"}).algo.gamma == 0.9
    assert cfg.make_config({"env": "gym", **pendulum}).algo.gamma == 0.9
    assert cfg.make_config(env="gym", **pendulum, **{"algo.gamma": 0.95}).algo.gamma == 0.95
    assert cfg.make_config({"env": "gym", **pendulum}, **{"env.id": "CartPole-v1"}).algo.gamma == 0.99
    assert cfg.make_config(env="gym", **pendulum).algo.num_envs == cfg.make_config(env="gym").algo.num_envs == 16
    assert cfg.make_config(env=cfg.GymConfig(id="Pendulum-v1")).algo == cfg.PPOConfig()  # a dataclass is complete


@pytest.mark.parametrize(
    "id", ["Pendulum", "Pendulum-v1", "Pendulum-v12", "my.module:Pendulum-v1", "my_module:Pendulum"]
)
def test_the_recipe_of_an_id_applies_to_every_form_that_gymnasium_accepts(id: str) -> None:
    assert cfg.make_config(env="gym", **{"env.id": id}).algo.gamma == 0.9


@pytest.mark.parametrize("id", ["mine/Pendulum-v1", "PendulumNoVel-v1", "Pendulum-v1-easy", "pendulum-v1"])
def test_the_recipe_of_an_id_does_not_apply_to_another_environment(id: str) -> None:
    assert cfg.make_config(env="gym", **{"env.id": id}).algo.gamma == 0.99


def test_every_recipe_of_a_gymnasium_id_belongs_to_a_known_id() -> None:
    ids = GROUPS["env"]["gym"].recipe.ids
    assert ids and set(ids) <= {without_version(id) for id in gymnasium.registry}
    for name in ids:
        cfg.make_config(env="gym", **{"env.id": name})


def test_a_recipe_says_nothing_about_learning_from_recorded_episodes() -> None:
    assert cfg.make_config(env="gym", algo="rate").algo == cfg.RATEConfig()


def test_the_memory_options_given_beside_init_survive_saving(tmp_path: Path) -> None:
    """A value that happens to be the default still wins over that of the policy."""
    config = cfg.make_config(init="runs/some", **{"memory.carry": 0.0})
    saved = tmp_path / "config.yaml"
    cfg.save_yaml(config, saved)
    for again in (config, cfg.make_config(config), cfg.load_yaml(saved), parse([f"config={saved}"])):
        assert again.memory_given == ["carry"]
    assert parse([f"config={saved}", "memory.ramp=steps"]).memory_given == ["carry", "ramp"]
    assert cfg.make_config(config, init=None).memory_given is None
    edited = saved.read_text().replace("ramp_end: 0.0", "ramp_end: 0.9")
    saved.write_text(edited)
    assert parse([f"config={saved}"]).memory_given == ["carry", "ramp_end"]
    assert cfg.make_config(config, memory=MemoryConfig()).memory_given is None
    for wrong in ("[no-option]", "5", "carry", "[[carry]]", "[carry, 5]", "{carry: 1}"):
        saved.write_text(edited.replace("memory_given:\n- carry", f"memory_given: {wrong}"))
        for read in (cfg.load_yaml, lambda path: parse([f"config={path}"])):
            with pytest.raises(ConfigError, match=r"memory_given=.*: expected a list of names of options of memory"):
                read(saved)


def test_a_dataclass_wins_over_single_options_of_a_file() -> None:
    file = {"env": "tmaze", "policy": {"name": "gru", "width": 16}, "memory.carry": 0.1}
    config = cfg.make_config(file, policy=GRUConfig(width=32), memory=MemoryConfig())
    assert (config.policy.width, config.memory) == (32, MemoryConfig())
