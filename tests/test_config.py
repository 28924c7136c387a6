"""Claims about the command line: what is accepted, what is rejected, and in which words.

Files are in test_config_files.py, the three ways in and their precedence in test_make_config.py, the help in test_help.py.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rmt_rl import config as cfg
from rmt_rl.common.errors import ConfigError
from rmt_rl.common.process import command_line
from rmt_rl.config.algos import PPOConfig
from rmt_rl.config.cli import parse, parse_evaluate, resolve_env
from rmt_rl.config.commands import EvaluateConfig, TrainConfig
from rmt_rl.config.envs import EnvConfig, GymConfig, MiniGridMemoryConfig, TMazeConfig
from rmt_rl.config.memory import MemoryConfig
from rmt_rl.config.policies import RMTConfig
from rmt_rl.config.registry import GROUPS
from rmt_rl.config.resolve import validate

#: The options of every policy.
COMMON = ", ".join(item.name for item in dataclasses.fields(cfg.PolicyConfig))
PARTS = [entry.config for entries in GROUPS.values() for entry in entries.values()]
COMMANDS = [TrainConfig, EvaluateConfig, cfg.PlayConfig, cfg.ExportConfig, cfg.CollectConfig, cfg.ReturnConditioning]
RECIPES = {name: entry.recipe.options for name, entry in GROUPS["env"].items() if entry.recipe.options}


def rejection(line: str) -> str:
    """The message for a command line; the arguments are separated by blanks."""
    with pytest.raises(ConfigError) as caught:
        parse(line.split(" "))
    return one_line(caught.value)


def one_line(error: ConfigError) -> str:
    message = str(error)
    assert message and message.isprintable() and len(message.splitlines()) == 1
    return message


@dataclasses.dataclass(frozen=True)
class Unregistered(TMazeConfig):
    """Options that no environment was registered with."""


def usual(**changes: Any) -> TrainConfig:
    """A run of the usual policy with its recipe."""
    parts: dict[str, Any] = {"env": TMazeConfig(), "algo": PPOConfig(), "policy": RMTConfig(**recipe_of_rmt("policy"))}
    return TrainConfig(**({**parts, "memory": MemoryConfig(**recipe_of_rmt("memory"))} | changes))


def recipe_of_rmt(group: str) -> dict[str, Any]:
    options = GROUPS["policy"]["rmt"].recipe.options
    return {key.partition(".")[2]: value for key, value in options.items() if key.startswith(f"{group}.")}


# -------------------------------------------------------------------------------------------------- what is accepted


def test_the_published_command_gives_typed_dataclasses() -> None:
    config = parse(["env=minigrid-memory", "algo=ppo", "policy.width=128", "steps=100000"])
    assert type(config) is TrainConfig and config.steps == 100_000
    assert (
        type(config.env) is MiniGridMemoryConfig and type(config.algo) is PPOConfig and type(config.policy) is RMTConfig
    )
    assert config.policy.width == 128


def test_a_task_without_a_recipe_gives_the_defaults_of_the_dataclasses() -> None:
    assert "tmaze" not in RECIPES
    assert parse(["env=tmaze"]) == validate(usual(env=TMazeConfig()))


def test_no_argument_at_all_gives_the_usual_task_with_its_recipe() -> None:
    recipe = {**RECIPES["minigrid-memory"], **GROUPS["env"]["minigrid-memory"].recipe.policies["rmt"].options}

    def part(group: str) -> dict[str, Any]:
        return {key.partition(".")[2]: value for key, value in recipe.items() if key.startswith(f"{group}.")}

    expected = usual(
        env=MiniGridMemoryConfig(),
        algo=PPOConfig(**part("algo")),
        policy=RMTConfig(**part("policy")),
        memory=MemoryConfig(),
        steps=recipe["steps"],
    )
    assert parse([]) == validate(expected)


def test_a_recipe_leaves_out_what_the_chosen_policy_does_not_have() -> None:
    assert "policy.positions" in RECIPES["minigrid-memory"]
    assert parse(["policy=lstm"]).policy == validate(cfg.LSTMConfig(), "policy.")
    assert parse(["policy=lstm"]).steps == RECIPES["minigrid-memory"]["steps"]


@pytest.mark.parametrize("name", [f"{group}={choice}" for group, parts in GROUPS.items() for choice in parts])
def test_every_registered_choice_can_be_chosen(name: str) -> None:
    group, _, choice = name.partition("=")
    # a task without a recipe, and a policy without one
    arguments = [name] if group == "env" else ["env=tmaze", *(["policy=lstm"] if group != "policy" else []), name]
    recipe = recipe_of_rmt("policy") if name == "policy=rmt" else {}
    assert getattr(parse(arguments), group) == GROUPS[group][choice].config(**recipe)


def test_the_recipe_of_the_rmt_is_for_gated_tokens_that_an_algorithm_acts_with_in_single_episodes() -> None:
    def carried(*arguments: str) -> float:
        return parse(["env=tmaze", *arguments]).memory.carry

    assert carried() == carried("policy.memory_update=gate") == 0.8 and parse(["env=tmaze"]).memory.ramp == "success"
    assert carried("memory.carry=0.3") == 0.3 and parse(["env=tmaze", "policy.write_cost=0"]).policy.write_cost == 0
    for change in (
        "policy.memory_update=replace",
        "policy.memory_update=mrv",
        "policy.memory_tokens=0",
        "policy.memory_kind=slots",
        "memory.scope=trial",
        "memory.scope=run",
        "policy=lstm",
    ):
        assert carried(change) == 0
    assert cfg.make_config(env="tmaze", policy=RMTConfig()).memory == MemoryConfig()
    for options in ({"memory": MemoryConfig()}, {"memory": MemoryConfig(scope="trial")}, {"init": "runs/some"}):
        assert (
            cfg.make_config({"env": "tmaze", **options}).policy == RMTConfig()
        )  # the two parts of the recipe go together
    assert carried("policy.memory_tokens=00") == 0
    assert cfg.make_config(cfg.make_config(policy="trxl"), policy="rmt").policy.write_cost == 0
    offline = parse(["env=tmaze", "algo=rate", "data=x/y-v0"])
    assert offline.memory == MemoryConfig() and offline.policy.memory_update == "replace"


def test_a_given_part_of_the_ramp_takes_the_rest_with_it() -> None:
    def ramp(*arguments: str) -> tuple[str, float, float]:
        memory = parse(["env=tmaze", *arguments]).memory
        return memory.ramp, memory.ramp_start, memory.ramp_end

    assert ramp() == ("success", 0.8, 0.95)
    assert ramp("memory.ramp_end=0.5") == ("success", 0.5, 0.5) and ramp("memory.ramp_end=0") == ("steps", 0, 0)
    assert ramp("memory.ramp_start=0.99") == ("success", 0.99, 0.99)
    assert ramp("memory.ramp=success") == ("success", 0.8, 0.95)
    assert ramp("memory.ramp=best_success") == ("best_success", 0.8, 0.95)
    assert ramp("memory.ramp=steps", "memory.ramp_end=0.5") == ("steps", 0, 0.5)
    assert ramp("memory.carry=0", "policy.write_cost=0") == ("steps", 0, 0)
    assert ramp("memory.carry=0") == ("success", 0.8, 0.95)


@pytest.mark.parametrize(
    "task", ["env=bandit", "env=dark-room", "env=gym", "env=minigrid-memory", "env=tmaze-rate algo=rate"]
)
def test_recipes_of_tasks_give_way_to_another_kind_of_memory(task: str) -> None:
    for change in ("policy.memory_kind=slots", "policy.memory_kind=associative", "policy.memory_tokens=0"):
        policy = parse([*task.split(), change]).policy
        assert isinstance(policy, RMTConfig) and policy.memory_update == RMTConfig.memory_update
    cached = parse([*task.split(), "policy.cache=8"]).policy
    assert isinstance(cached, RMTConfig) and cached.cache == 8 and cached.positions == "none"


def test_the_order_of_the_arguments_means_nothing() -> None:
    assert parse(["env.length=7", "seed=3", "env=tmaze"]) == parse(["env=tmaze", "env.length=7", "seed=3"])


def test_the_result_cannot_be_changed() -> None:
    config = parse([])
    parts: list[Any] = [config, config.env, config.algo, config.policy]
    for part in parts:
        with pytest.raises(dataclasses.FrozenInstanceError):
            part.name = "x"


@pytest.mark.parametrize("text", ["2000000", "2e6", "2_000_000", "2.0e6", "'2e6'"])
def test_a_whole_number_may_be_written_as_people_write_it(text: str) -> None:
    steps = parse([f"steps={text}"]).steps
    assert steps == 2_000_000 and type(steps) is int


@pytest.mark.parametrize("text", ["1", "1.0", "1e0"])
def test_a_number_with_a_fraction_is_always_a_float(text: str) -> None:
    gamma = parse([f"algo.gamma={text}"]).algo.gamma
    assert gamma == 1.0 and type(gamma) is float


@pytest.mark.parametrize("name", ["1e5", "2026_11_22", "true", "'null'", "a b", "lr=0.1,(x)", "über", "it's"])
def test_a_name_stays_the_text_that_was_typed(name: str) -> None:
    assert parse([f"run={name}"]).run == name.strip("'")


def test_null_is_none_where_it_is_allowed() -> None:
    assert parse(["env=tmaze", "env.min_length=null", "run=null"]).env.min_length is None


def test_options_of_gymnasium_are_a_dictionary_or_single_keys() -> None:
    config = parse(["env=gym", "env.options={a: 1, b: {c: [x, 2.5]}}", "env.options.b.d=true", "env.options.e=null"])
    assert config.env == GymConfig(options={"a": 1, "b": {"c": ["x", 2.5], "d": True}, "e": None})


def test_a_dictionary_value_that_is_no_number_or_collection_is_text() -> None:
    assert parse(["env=gym", "env.options.a=choice(1,2)"]).env.options == {"a": "choice(1,2)"}


@pytest.mark.parametrize("name", cfg.MINIGRID_IDS)
def test_a_registered_minigrid_id_means_what_minigrid_registered(name: str) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("minigrid")
    registered = gymnasium.spec(name).kwargs
    env = parse([f"env.id={name}"]).env
    assert (env.id, env.size, env.random) == (name, registered["size"], registered.get("random_length", False))
    assert validate(MiniGridMemoryConfig(id=name)) == env
    assert validate(env) == env


# --------------------------------------------------------------------------------------------------- what is rejected


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("stpes=3", "steps"),
        ("STEPS=3", "steps"),
        ("evn=tmaze", "env"),
        ("policy.widht=3", "policy.width"),
        ("polcy.width=3", "policy.width"),
        ("width=3", "policy.width"),
        ("length=3", "env.length"),
        ("algo.lerning_rate=1e-3", "algo.learning_rate"),
        ("env@x=tmaze", "env"),
        ("env=tmazee", "tmaze"),
        ("env=TMaze", "tmaze"),
        ("policy=ltsm", "lstm"),
        ("policy=lstm,gru", "lstm"),
        ("policy.memory_update=gat", "gate"),
        ("algo.schedule=liner", "linear"),
        ("env=gym env.workers=asyn", "async"),
        ("env.id=minigrid-memoryS13Rndom-v0", "MiniGrid-MemoryS13Random-v0"),
        ("env.name=tmaze", "env=<name>"),
    ],
)
def test_a_misspelling_is_reported_with_the_nearest_name(line: str, meant: str) -> None:
    message = rejection(line)
    assert message.startswith(line.split(" ")[-1] + ": ")
    assert message.endswith(f"; did you mean {meant}?")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # no such option
        ("foo=3", "foo=3: no such option, expected one of env, algo, policy, memory, until, seed, steps"),
        ("foo=3", f"(see {command_line('rmt_rl.train')} --help)"),
        ("hydra.run.dir=x", "no such option"),
        ("seed.x=3", "no such option"),
        (
            "policy.width.x=3",
            f"policy=rmt has no such option, it has {COMMON}, width, layers, heads",
        ),
        (
            "policy=lstm policy.segment=4",
            f"policy=lstm has no such option, it has {COMMON}, width, layers; ",
        ),
        ("memory.episodes=3", "memory.episodes=3: has no effect with memory.scope=episode; expected trial or run"),
        *(
            (f"policy.memory_tokens=0 policy.{option}", f"policy.{option}: has no effect without memory")
            for option in (
                "memory_update=gate",
                "memory_place=front",
                "memory_norm=true",
                "write_from=memory",
                "bptt_segments=2",
            )
        ),
        (
            "policy.cache=6 policy.positions=rotary policy.bptt_segments=1 policy.cache_gradient=4",
            "policy.cache_gradient=4: has no effect with policy.bptt_segments=1",
        ),
        (
            "algo.normalize_advantage=false algo.advantage_floor=50",
            "algo.advantage_floor=50: has no effect with algo.normalize_advantage=false",
        ),
        ("env=gym env.on_fault=restart", "env.on_fault: applies to worker processes only; expected env.workers=async"),
        ("env=gym env.deadline=5", "env.deadline: applies to worker processes only; expected env.workers=async"),
        ("policy.params=200000 policy.width=64", "policy.width=64 is given too; give only one of them"),
        ("policy.layers=1 policy.value_residual=true", "policy.value_residual=true: has no effect with one layer"),
        ("policy.params=50000 policy.width=32", "policy.width=32 is given too; give only one of them"),
        ("policy=trxl policy.heads=5", "policy.heads=5: expected a divisor of policy.width=64"),
        ("env=tmaze policy.positions=learned policy.cache=8", "policy.cache=8: needs policy.positions=rotary or none"),
        ("policy.cache=2 policy.cache_gradient=3", "policy.cache_gradient=3: expected at most policy.cache=2"),
        ("policy=lstm policy.segment=4", "; segment is an option of policy=rmt"),
        ("env=gym env.options..a=1", "env=gym has no such option"),
        ("env=gym env.options.=1", "env=gym has no such option"),
        ("env=gym env.options={a:[1]} env.options.a.b=1", "env.options.a.b: expected something that fits"),
        # options that do not fit this algorithm or this run
        ("data=a/b-v0", "data=a/b-v0: has no effect with algo=ppo; expected algo=rate"),
        ("algo=rate memory.scope=trial", "memory.scope=trial: algo=rate learns from single episodes"),
        (
            "algo=rate policy=lstm algo.cut=varied",
            "algo.cut=varied: works on segments, which policy=lstm does not have",
        ),
        (
            "algo=rate algo.returns=false algo.target_return=1",
            "algo.target_return=1.0: has no effect with algo.returns=false",
        ),
        (
            "algo=rate algo.detach_memory=true policy.bptt_segments=2",
            "policy.bptt_segments: has no effect with algo.detach_memory=true",
        ),
        ("until.success=0.9", "until.success=0.9: needs evaluations during training; give evaluate_every=<steps>"),
        ("until.mean_return=3", "until.mean_return=3.0: needs evaluations during training"),
        ("until.success=90 evaluate_every=10", "until.success=90: expected a number, above 0 and at most 1"),
        # plugins and files
        ("plugins=", "plugins=: expected modules separated by commas"),
        ("plugins=a-b", "plugins=a-b: expected modules separated by commas"),
        ("plugins=..a", "plugins=..a: expected modules separated by commas"),
        ("plugins=no_such_module", "plugins=no_such_module: importing no_such_module failed: ModuleNotFoundError"),
        ("config=", "cannot be read"),
        ("config=absent.yaml", "absent.yaml: cannot be read: No such file or directory"),
        ("env=mine", "or one that plugins=<module> registers"),
        # not name=value
        ("env", "env: expected name=value"),
        ("=3", "=3: expected name=value"),
        ("", "expected name=value"),
        ("+steps=3", "+steps=3: expected steps=3, without +"),
        ("++env.x=3", "++env.x=3: expected env.x=3, without ++"),
        ("~policy=rmt", "~policy=rmt: expected policy=rmt, without ~"),
        ("~policy", "~policy: expected name=value"),
        ("--steps=3", "--steps=3: expected steps=3, without --"),
        ("--multirun", "--multirun: expected name=value"),
        # twice
        ("env=tmaze env=gym", "env=gym: env is given twice, tmaze before"),
        ("steps=1 steps=2", "steps=2: steps is given twice, 1 before"),
        # a value of the wrong kind
        ("policy.width=abc", "policy.width=abc: expected a whole number, at least 1 and at most 65536"),
        ("policy.width=32,64", "expected a whole number"),
        ("policy.width=${policy.heads}", "expected a whole number"),
        ("policy.width=", "policy.width=: expected a whole number"),
        ("steps=1.5", "steps=1.5: expected a whole number"),
        ("steps=true", "steps=true: expected a whole number"),
        ("seed=null", "seed=null: expected a whole number"),
        ("algo.gamma=high", "algo.gamma=high: expected a number, above 0 and at most 1"),
        ("tensorboard=yes", "tensorboard=yes: expected true or false"),
        ("tensorboard=1", "expected true or false"),
        ("policy=null", "policy=null: expected one of rmt, trxl, gtrxl, window, lstm, gru, mlp"),
        ("env=[tmaze,gym]", "env=[tmaze,gym]: expected one of"),
        ("memory=trial", "memory=trial: expected one of memory; did you mean memory.scope=trial?"),
        ("policy=replace", "; did you mean policy.memory_update=replace?"),
        ("env.size=8", "env.size=8: expected one of 7, 9, 11, 13, 17"),
        ("env.actions=4", "env.actions=4: expected one of 3, 7"),
        ("env=gym env.options=a:1", "env.options=a:1: expected plain values"),
        ("env=gym env.options={1:2}", "expected plain values"),
        ("env=gym env.options={a:", "expected plain values"),
        ("env=gym env.options.a=nan", "expected plain values"),
        ("env=gym env.options.a=${seed}", "expected plain values"),
        ("env=gym env.id=", "env.id=: expected an id"),
        ("device=gpu", "device=gpu: expected cpu, cuda, cuda:N or auto"),
        ("device=cuda:", "expected cpu, cuda, cuda:N or auto"),
        # out of range
        ("seed=-1", "seed=-1: expected a whole number, at least 0 and at most 2147483647"),
        ("algo.clip=1", "algo.clip=1: expected a number, above 0 and below 1"),
        ("env=tmaze env.length=10000001", "=10000001: expected a whole number, at least 1 and at most 10000000"),
        ("env=tmaze env.min_length=0", "env.min_length=0: "),
        # too large for any machine word
        ("policy.width=1e300", "policy.width=1e300: "),
        ("steps=1e999", "steps=1e999: "),
        ("steps=" + "9" * 5000, "9...: expected a whole number"),
        ("env=gym env.options.a=" + "9" * 5000, "9...: expected plain values"),
        # a name that is no folder name
        ("run=", "run=: expected a folder name"),
        ("run=a/b", "run=a/b: expected a folder name without slashes"),
        ("run=a\\b", "expected a folder name"),
        ("run=..", "run=..: expected a folder name without slashes that does not start with a dot"),
        ("run=a\nb", "expected a folder name"),
        ("run=a\udcffb", "expected a folder name"),
        ("run=${seed}", "expected a folder name"),
        ("run=" + "x" * 201, "expected at most 200 bytes, found 201"),
        # options that exclude each other
        ("policy.width=64 policy.heads=3", "policy.heads=3: expected a divisor of policy.width=64, such as 2"),
        ("algo.num_envs=12 algo.minibatches=5", "minibatches=5: expected a divisor of algo.num_envs=12, such as 4"),
        ("env.view=4", "env.view=4: expected an odd number"),
        ("env.size=11 env.random=true", "env.random=true: env.size=11 has no random corridor"),
        ("env=tmaze env.length=5 env.min_length=6", "env.min_length=6: expected at most env.length=5"),
        ("env.id=MiniGrid-MemoryS13-v0 env.size=7", "env.size=7: env.id=MiniGrid-MemoryS13-v0 means env.size=13"),
        ("env.size=17 env.id=MiniGrid-MemoryS13-v0", "env.size=17: env.id=MiniGrid-MemoryS13-v0 means env.size=13"),
        ("env.id=MiniGrid-MemoryS13Random-v0 env.random=false", "means env.random=true"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_what_was_found_and_what_is_expected(line: str, message: str) -> None:
    assert message in rejection(line)


OUT_OF_RANGE = """
    steps=0 seed=2147483648 threads=0 threads=1025 evaluate_episodes=-1 algo.rollout=0 algo.epochs=0 algo.num_envs=2e9
    algo.minibatches=0 algo.gamma=0 algo.gamma=1.0001 algo.gae_lambda=-0.1 algo.gae_lambda=1.1 algo.clip=0 algo.clip=-1
    algo.learning_rate=0 algo.max_grad_norm=0 algo.value_coef=-1 policy.segment=0 policy.memory_tokens=-1 policy.heads=0
    policy.width=0 policy.width=65537 policy.layers=0 policy.layers=1001 env.view=1 env.view=101
"""


@pytest.mark.parametrize("argument", OUT_OF_RANGE.split())
def test_a_number_out_of_its_range_is_rejected(argument: str) -> None:
    assert rejection(argument).startswith(f"{argument}: expected a")


@pytest.mark.parametrize("name", ["learning_rate", "gamma", "gae_lambda", "clip", "value_coef", "entropy_coef"])
@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
def test_nan_and_infinity_are_rejected(name: str, text: str) -> None:
    assert rejection(f"algo.{name}={text}").startswith(f"algo.{name}={text}: expected a number, ")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("policy.memory_tokens=0", "memory_tokens"),
        ("env=tmaze env.length=10_000_000", "length"),
        ("algo.gamma=1", "gamma"),
    ],
)
def test_the_bounds_of_a_range_are_allowed(line: str, name: str) -> None:
    parse(line.split())


def test_a_mistake_in_python_is_rejected_like_one_on_the_command_line() -> None:
    for bad in (
        usual(seed=True),
        usual(seed=10**5000),
        usual(env=None),
        usual(env=PPOConfig()),
        usual(env=Unregistered()),
        usual(env=EnvConfig()),
        usual(env=GymConfig(options={"a": object()})),
        usual(env=MiniGridMemoryConfig(id="MiniGrid-MemoryS13-v0", size=11)),
        usual(policy=RMTConfig(width=64, heads=3)),
        usual(run=3),
    ):
        with pytest.raises(ConfigError) as caught:
            validate(bad)
        one_line(caught.value)


# -------------------------------------------------------------------------------------------------------- the fields


@pytest.mark.parametrize(
    "cls",
    [*COMMANDS, *PARTS],
)
def test_every_field_has_a_help_of_one_line_and_allowed_defaults(cls: type) -> None:
    fixed = {"env_overrides", "memory_given"}  # not for users to set
    for field in dataclasses.fields(cls):
        text = field.metadata.get("help", "")
        assert (field.name in fixed) != (text.isprintable() and len(text) > 5), field.name
    for name, known in cfg.options(cls).items():
        assert known.default is dataclasses.MISSING or cfg.read(name, known, known.default) == known.default


@pytest.mark.parametrize(
    "cls",
    [*COMMANDS, *PARTS],
)
def test_every_number_has_two_bounds_and_every_text_a_form(cls: type) -> None:
    for name, known in cfg.options(cls).items():
        ends = [bound for bound in known.bounds.values() if bound is not None]
        assert known.kind in (bool, dict) or known.choices or known.form or len(ends) == 2, name


def test_every_dataclass_is_registered_under_its_own_name() -> None:
    for group, entries in GROUPS.items():
        for name, entry in entries.items():
            assert entry.config.name == name and cfg.choose(group, name) is cfg.entry_of(entry.config())


# --------------------------------------------------------------------------------------------------------- evaluation


def test_an_evaluation_keeps_its_environment_options_for_the_trained_environment() -> None:
    config = parse_evaluate(["policy=runs/my run (1)/policy", "env.length=10000", "episodes=3", "deterministic=true"])
    assert config.policy == "runs/my run (1)/policy" and config.env is None
    assert config.env_overrides == ("env.length=10000",)
    assert config.episodes == config.num_envs == 3 and config.deterministic


def test_an_evaluation_changes_the_trained_environment() -> None:
    trained = TMazeConfig(length=20, end_at_turn=True)
    assert resolve_env(trained, None, ["env.length=1e4"]) == TMazeConfig(length=10_000, end_at_turn=True)
    assert resolve_env(trained, None, []) == trained


def test_an_evaluation_that_names_an_environment_starts_from_its_defaults() -> None:
    assert resolve_env(TMazeConfig(end_at_turn=True), "tmaze", ["env.length=30"]) == TMazeConfig(length=30)
    assert resolve_env(TMazeConfig(), "gym", ["env.options.a=1"]) == GymConfig(options={"a": 1})


def test_an_evaluation_does_not_change_the_environment_it_was_given() -> None:
    trained = GymConfig(options={"a": {"b": 1}})
    assert resolve_env(trained, None, ["env.options.a.c=2"]).options == {"a": {"b": 1, "c": 2}}
    assert trained.options == {"a": {"b": 1}}


def test_in_an_evaluation_the_size_that_is_given_replaces_the_trained_one() -> None:
    trained = validate(MiniGridMemoryConfig(id="MiniGrid-MemoryS13Random-v0", view=5))
    larger = resolve_env(trained, None, ["env.size=17"])
    assert (larger.id, larger.size, larger.random, larger.view) == (None, 17, True, 5)
    fixed = resolve_env(trained, None, ["env.id=MiniGrid-MemoryS11-v0"])
    assert (fixed.id, fixed.size, fixed.random, fixed.view) == ("MiniGrid-MemoryS11-v0", 11, False, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("episodes=3", "policy: missing; expected policy=<the folder of a trained policy, or zoo:<name>>"),
        ("policy=", "policy=: expected the folder of a trained policy"),
        ("policy=p episods=3", "did you mean episodes?"),
        ("policy=p length=3", "did you mean env.length?"),
        (
            "policy=p env=tmazee",
            f"env=tmazee: expected one of {', '.join(GROUPS['env'])}, or null; did you mean tmaze?",
        ),
        ("policy=p env=tmaze env.lenght=3", "did you mean env.length?"),
        ("policy=p env=tmaze env.length=0", "env.length=0: expected a whole number"),
        ("policy=p env=tmaze env.length=5 env.min_length=6", "expected at most env.length=5"),
        ("policy=p env.length=3 env.length=4", "given twice"),
        ("policy=p deterministic=yes", "expected true or false"),
        ("policy=p episodes=0", "episodes=0: "),
        ("policy=p device=gpu", "device=gpu: expected cpu, cuda, cuda:N or auto"),
        ("policy=p --episodes=3", "without --"),
    ],
)
def test_a_mistake_in_an_evaluation_is_reported(line: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_evaluate(line.split(" "))
    assert message in one_line(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["env.size=9"],
            "env=tmaze has no such option, it has length, min_length, end_at_turn, distractors; size is an option",
        ),
        (["env.length=3"], "env.min_length=5: expected at most env.length=3"),
        (["env.length"], "expected name=value"),
        (["seed=3"], "seed=3: no such option"),
    ],
)
def test_an_option_that_does_not_fit_the_trained_environment_is_rejected(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_env(TMazeConfig(length=10, min_length=5), None, overrides)
    assert message in one_line(caught.value)


# ------------------------------------------------------------------------------------------------- any command line

NAMES = [
    f"{group}.{n}" for group, parts in GROUPS.items() for entry in parts.values() for n in cfg.options(entry.config)
]
VALUES = [
    "1",
    "0",
    "-1",
    "1e3",
    "0.5",
    "nan",
    "true",
    "null",
    "",
    "???",
    "${seed}",
    "{a: 1}",
    "[x]",
    "'",
    "tmaze",
    "lstm",
]
WORDS = st.sampled_from(VALUES) | st.text(max_size=9)
WILD = st.one_of(
    st.builds("{}={}".format, st.sampled_from([*GROUPS, *cfg.options(TrainConfig), *NAMES]), WORDS),
    st.builds("env.options.{}={}".format, st.text(max_size=4), WORDS),
    st.builds("{}={}".format, st.text("env.policy~+-@/:", max_size=9), WORDS),
    st.text(max_size=12),
)


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A choice for every group, options that these choices have, values that are mostly right, one wild argument."""
    argv = []
    for group, parts in GROUPS.items():
        choice = draw(st.sampled_from(sorted(parts)))
        argv.append(f"{group}={choice}")
        known = cfg.options(parts[choice].config)
        for name in draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=2)):
            ends = [end for end in known[name].bounds.values() if end is not None]
            right = st.sampled_from([cfg.show(value) for value in (known[name].default, *known[name].choices, *ends)])
            argv.append(f"{group}.{name}={draw(st.one_of(right, right, right, WORDS))}")
    return list(draw(st.permutations(argv + draw(st.lists(WILD, max_size=1)))))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(argv=command_lines() | st.lists(WILD, max_size=3))
@example(argv=["env=gym", "env.options.a=" + "[" * 3000])
@example(argv=["env=gym", "env.options={a: ???}"])
@example(argv=["\udcff=\u2028"])
@example(argv=["env=gym", "env.options.\n=1"])
def test_any_arguments_give_a_configuration_or_one_line(argv: list[str]) -> None:
    try:
        config = parse(argv)
    except ConfigError as error:
        one_line(error)
    else:
        assert type(config) is TrainConfig
        assert cfg.from_dict(json.loads(json.dumps(cfg.to_dict(config)))) == config


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(argv=st.lists(WILD, max_size=3), env=st.sampled_from(["", *(f"env={name}" for name in GROUPS["env"])]))
def test_any_arguments_give_an_evaluation_or_one_line(argv: list[str], env: str) -> None:
    try:
        config = parse_evaluate(["policy=p", *([env] if env else []), *argv])
    except ConfigError as error:
        one_line(error)
    else:
        assert type(config) is EvaluateConfig
