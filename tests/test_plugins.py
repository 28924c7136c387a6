"""Claims about registration from outside: a user's own environment, policy and algorithm work like the built-in ones.

The module of the user lies in a folder of its own and is used from other processes, as a user would.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run

import rmt_rl
from rmt_rl import config as cfg
from rmt_rl.config.cli import parse, parse_evaluate
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.help import help_text
from rmt_rl.config.registry import GROUPS
from rmt_rl.policies.saving import env_config
from rmt_rl.policies.spec import UnregisteredEnv

MODULE = '''
"""A task, a policy and an algorithm of a user."""

from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
from torch import nn

import rmt_rl
from rmt_rl.envs.episodic import EpisodicEnv


@dataclass(frozen=True)
class EchoConfig(rmt_rl.EnvConfig):
    """Echo: repeat the bit that the first observation showed."""

    length: int = rmt_rl.option(3, "steps of an episode", low=1, high=1_000)
    loud: bool = rmt_rl.option(False, "show the bit as 2 and -2")

    def problems(self):
        if self.loud and self.length == 1:
            yield "env.loud=true: has no effect with env.length=1"


@rmt_rl.register_env("echo", EchoConfig, recipe={"algo.gamma": 0.5, "steps": 64})
class Echo(EpisodicEnv):
    floor, ceiling, task = 0.5, 1.0, "echo: remember one bit"

    def __init__(self, num_envs, device="cpu", *, length=3, loud=False):
        self.length, self.scale = length, 2 if loud else 1
        super().__init__(num_envs, device, gymnasium.spaces.Box(-2, 2, (1,), np.float32), 2)

    def _begin(self, key_B):
        return {"bit": key_B & 1}

    def _advance(self, state, action_B):
        ended = state["t"] + 1 == self.length
        success = ended & (action_B == state["bit"])
        return {}, success.double(), ended, {"success": success}

    def _observe(self, state):
        return ((state["t"] == 0) * (2 * state["bit"] - 1) * self.scale).float()[:, None]


@dataclass(frozen=True)
class LeakyConfig(rmt_rl.PolicyConfig):
    """Leaky average of the past."""

    width: int = rmt_rl.option(16, "width of the network", low=1, high=1_000)
    decay: float = rmt_rl.option(0.9, "share of the average that stays", low=0, below=1)
    kind: str = rmt_rl.option("plain", "plain or squashed", choices=("plain", "squashed"))


@dataclass(frozen=True)
class LeakyState:
    """average: [B, D]"""

    average: torch.Tensor


@rmt_rl.register_policy("leaky", LeakyConfig)
class Leaky(rmt_rl.Backbone):
    def __init__(self, config):
        super().__init__()
        self.decay, self.layer = config.decay, nn.Linear(config.width, config.width)
        self.description = "an average"

    def initial_state(self, batch):
        return LeakyState(torch.zeros(batch, self.layer.out_features))

    def step(self, x_BD, state, first_B):
        before = torch.where(first_B[:, None], 0.0, state.average)
        after = self.decay * before + self.layer(x_BD)
        return after, LeakyState(after)

    def unroll(self, x_BTD, state, first_BT):
        outputs = []
        for t in range(x_BTD.shape[1]):
            y, state = self.step(x_BTD[:, t], state, first_BT[:, t])
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


@dataclass(frozen=True)
class ReinforceConfig(rmt_rl.AlgoConfig):
    """Policy gradient without a critic."""

    num_envs: int = rmt_rl.option(4, "rows", low=1, high=1_000)
    gamma: float = rmt_rl.option(1.0, "discount", above=0, high=1)
    rate: float = rmt_rl.option(0.01, "step size", above=0, high=1)


@rmt_rl.register_algo("reinforce", ReinforceConfig)
class Reinforce(rmt_rl.Learner):
    def __init__(self, run, env, policy, data=None):
        super().__init__(run, env, policy)
        self.collector = rmt_rl.Collector(env, policy, run.seed)
        self.optimizer = torch.optim.SGD(policy.parameters(), run.algo.rate)

    def collect(self, progress):
        return self.collector.collect(8)[0]

    def update(self, batch, progress):
        parameters, _, _ = self.policy.unroll(batch.obs, batch.action, batch.state, batch.first)
        loss = -(self.policy.head.log_prob(parameters, batch.action) * batch.reward.sum(1, keepdim=True)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss.detach())}

    def state_dict(self):
        return {"policy": self.policy.state_dict(), "collector": self.collector.state_dict()}

    def load_state_dict(self, state):
        self.policy.load_state_dict(state["policy"])
        self.collector.load_state_dict(state["collector"])
'''


#: The same without torch, for what does not run: two classes and a script.
LIGHT = '''
from dataclasses import dataclass
import rmt_rl

@dataclass(frozen=True)
class LightConfig(rmt_rl.PolicyConfig):
    """Light."""
    width: int = rmt_rl.option(16, "width of the network", low=1, high=1_000)

@rmt_rl.register_policy("light", LightConfig)
class Light:
    pass

if __name__ == "__main__":
    from rmt_rl.config.cli import parse
    print(parse(["plugins=PLUGIN", "policy=light"]).policy.width)
'''


def python(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A fresh Python in `folder`, which finds the modules there and, with `path`, those in another folder."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **({} if path is None else {"PYTHONPATH": str(path)})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


def train(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Forked, see commands.py; PYTHONPATH as for `python`."""
    done = run("-m", "rmt_rl.train", *arguments, cwd=folder, env=None if path is None else {"PYTHONPATH": str(path)})
    assert done.returncode == 0, done.stderr
    return done


def rejection(parser: Callable[[list[str]], Any], *arguments: str) -> str:
    """The message of a command line, which is one line."""
    with pytest.raises(rmt_rl.ConfigError) as caught:
        parser(list(arguments))
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder with the module `mine`."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "mine.py").write_text(MODULE)
    return folder


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    """Two runs: `own` with everything from the module, through the command line; `echo` with a policy of the package."""
    own = ["policy=leaky", "policy.params=2000", "algo=reinforce", "env.length=4"]
    train(folder, "plugins=mine", "env=echo", *own, "steps=64", "checkpoint_steps=32", "evaluate_episodes=8", "run=own")
    program = "import mine, rmt_rl; rmt_rl.train(env='echo', policy='gru', evaluate_episodes=8, run='echo')"
    done = run("-c", program, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.fixture
def registry() -> Iterator[None]:
    """Registrations of a test end with it."""
    before = {group: dict(entries) for group, entries in GROUPS.items()}
    yield
    for group, entries in before.items():
        GROUPS[group].clear()
        GROUPS[group].update(entries)


@pytest.fixture
def importable(registry: None, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """`plugins=mine` works in this process, until the end of the test."""
    monkeypatch.syspath_prepend(folder)
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("mine", "other", "broken", "mypkg"):
            del sys.modules[name]


# ------------------------------------------------------------------------------------------------- used like built-in


@pytest.mark.slow
def test_a_task_a_policy_and_an_algorithm_from_outside_train_and_save(runs: Path) -> None:
    saved = json.loads((runs / "own/policy/config.json").read_text())["spec"]
    result = json.loads((runs / "own/result.json").read_text())
    assert (result["env"], result["policy"], result["algo"]) == ("echo", "leaky", "reinforce")
    assert saved["env"] == {"name": "echo", "length": 4, "loud": False}
    assert result["steps"] == 64 and result["eval"]["episodes"] == 8


@pytest.mark.slow
def test_the_width_of_a_policy_from_outside_is_chosen_by_its_number_of_parameters(runs: Path) -> None:
    saved = json.loads((runs / "own/policy/config.json").read_text())["spec"]["policy"]
    assert saved["name"] == "leaky" and saved["params"] is None and saved["width"] not in (1, 16)


@pytest.mark.slow
def test_the_recipe_of_a_task_from_outside_is_used(runs: Path) -> None:
    assert "gamma: 0.5" in (runs / "echo/config.yaml").read_text()
    assert "steps: 64" in (runs / "echo/config.yaml").read_text()


@pytest.mark.slow
def test_a_policy_from_outside_is_evaluated_with_other_options_of_its_task(runs: Path) -> None:
    options = ["plugins=mine", "policy=runs/own", "env.length=5", "episodes=4"]
    done = run("-m", "rmt_rl.evaluate", *options, cwd=runs.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["env"] == {"name": "echo", "length": 5, "loud": False}


@pytest.mark.slow
def test_a_stopped_run_of_an_algorithm_from_outside_resumes_with_its_plugins(runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "stopped"
    shutil.copytree(runs / "own", run)
    shutil.rmtree(run / "checkpoints/step-64")
    (run / "result.json").unlink()
    train(runs.parent, "plugins=mine", f"resume={run}")
    trained = [(folder / "policy/model.safetensors").read_bytes() for folder in (run, runs / "own")]
    assert trained[0] == trained[1]


@pytest.mark.slow
def test_a_run_from_outside_cannot_be_resumed_without_its_plugins(runs: Path) -> None:
    message = rejection(parse, f"resume={runs / 'own'}")
    assert "config.yaml: env=echo: expected one of " in message and "plugins=<module>" in message


def test_help_shows_the_options_of_a_choice_from_outside(importable: None) -> None:
    text = help_text(TrainConfig, ["policy=leaky", "plugins=mine"])
    assert text.startswith("policy=leaky: Leaky average of the past.")
    assert "  policy.decay=0.9               share of the average that stays\n" in text
    text = help_text(TrainConfig, ["env=echo", "algo=reinforce"])
    assert "  steps=64 " in text and "  algo.gamma=0.5 " in text
    assert "| echo\n" in help_text() and "  leaky " in help_text(TrainConfig, ["policy"])


def test_a_choice_from_outside_is_given_in_the_same_three_ways(importable: None, tmp_path: Path) -> None:
    expected = parse(["plugins=mine", "env=echo", "env.length=4", "policy=leaky", "policy.decay=0.5"])
    assert (expected.env.length, expected.policy.decay, expected.steps) == (4, 0.5, 64)
    assert cfg.make_config(env={"name": "echo", "length": 4}, policy="leaky", **{"policy.decay": 0.5}) == expected
    (tmp_path / "run.yaml").write_text("env: {name: echo, length: 4}\npolicy: {name: leaky, decay: 0.5}\n")
    assert parse([f"config={tmp_path / 'run.yaml'}"]) == expected
    assert cfg.from_dict(cfg.to_dict(expected)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["policy=leaky", "policy.decay=1"], "policy.decay=1: expected a number, at least 0 and below 1"),
        (["policy=leaky", "policy.dekay=1"], "did you mean policy.decay?"),
        (
            ["policy=leaky", "policy.kind=plane"],
            "policy.kind=plane: expected one of plain, squashed; did you mean plain?",
        ),
        (["policy=leeky"], "did you mean leaky?"),
        (["policy=lstm", "policy.kind=plain"], "; kind is an option of policy=leaky"),
        (["env=echo", "env.length=0"], "env.length=0: expected a whole number, at least 1 and at most 1000"),
        (["env=echo", "env.loud=true", "env.length=1"], "env.loud=true: has no effect with env.length=1"),
        (["algo=reinforce", "algo.rollout=3"], "algo=reinforce has no such option, it has num_envs, gamma, rate"),
    ],
)
def test_wrong_options_of_a_choice_from_outside_are_reported_in_one_line(
    arguments: list[str], message: str, importable: None
) -> None:
    assert message in rejection(parse, "plugins=mine", *arguments)


# -------------------------------------------------------------------------------------------------- without the module


@pytest.mark.slow
def test_a_policy_from_outside_cannot_be_loaded_without_its_module(runs: Path) -> None:
    message = rejection(lambda _: rmt_rl.load_policy(runs / "own"))
    assert "policy=leaky: expected one of " in message and "plugins=<module>" in message


@pytest.mark.slow
def test_a_built_in_policy_acts_without_the_module_of_its_task(runs: Path) -> None:
    policy = rmt_rl.load_policy(runs / "echo")
    assert policy.spec.env == UnregisteredEnv("echo", {"name": "echo", "length": 3, "loud": False})
    action, _ = policy.act(torch.ones(2, 1), policy.initial_state(2), torch.ones(2, dtype=torch.bool))
    assert action.shape == (2,)
    assert "plugins=<module>" in rejection(lambda _: env_config(policy))
    # a class that was given in Python has no name that a module registers
    policy.spec = dataclasses.replace(policy.spec, env=UnregisteredEnv("mine:Maze", {}))
    assert "env=<the class>" in (message := rejection(lambda _: env_config(policy))) and "plugins" not in message


@pytest.mark.slow
def test_a_built_in_policy_is_saved_without_the_module_of_its_task(runs: Path, tmp_path: Path) -> None:
    policy = rmt_rl.load_policy(runs / "echo")
    rmt_rl.save_policy(policy, tmp_path)
    assert rmt_rl.load_policy(tmp_path).spec == policy.spec


@pytest.mark.slow
def test_an_evaluation_without_the_module_of_the_task_names_the_remedy(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rmt_rl import evaluate

    assert evaluate.main([f"policy={runs / 'echo'}"]) == 2  # type: ignore[attr-defined]
    error = capsys.readouterr().err
    assert error.startswith("error: env=echo: ") and "plugins=<module>" in error and error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------- finding modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("def broken(:", "SyntaxError: "),
        ("import rmt_rl\nrmt_rl.register_policy('x', int)", "policy=x: int is not a frozen dataclass derived from"),
    ],
)
def test_a_module_that_fails_to_import_is_reported_in_one_line(
    source: str, message: str, tmp_path: Path, importable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = rejection(parse, "plugins=broken")
    assert message in found and (found.startswith("plugins=broken: importing broken failed: ") or "policy=x" in found)


def test_the_command_finds_modules_in_the_current_folder_and_ends_with_one_line_where_one_fails(tmp_path: Path) -> None:
    (tmp_path / "light.py").write_text(LIGHT)
    (tmp_path / "broken.py").write_text("1 / 0")
    done = python(tmp_path, "-m", "rmt_rl.train", "--help", "policy=light", "plugins=light")
    assert (done.returncode, done.stderr) == (0, "") and "policy=light: Light." in done.stdout
    done = python(tmp_path, "-m", "rmt_rl.train", "plugins=light,broken")
    expected = "error: plugins=broken: importing broken failed: ZeroDivisionError: division by zero\n"
    assert (done.returncode, done.stderr) == (2, expected)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The folder of an installed package `mypkg` whose metadata name its module with registrations."""
    place = tmp_path / "site"
    (place / "mypkg-1.0.dist-info").mkdir(parents=True)
    (place / "mypkg-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (place / "mypkg-1.0.dist-info/entry_points.txt").write_text("[rmt_rl.plugins]\nmine = mypkg.tasks\n")
    (place / "mypkg").mkdir()
    (place / "mypkg/__init__.py").touch()
    (place / "mypkg/tasks.py").write_text(MODULE)
    return place


@pytest.mark.slow
def test_an_installed_package_is_found_by_its_entry_point(installed: Path, tmp_path: Path) -> None:
    train(tmp_path, "env=echo", "policy=leaky", "steps=64", "evaluate_episodes=8", "run=found", path=installed)
    assert "name: leaky" in (tmp_path / "runs/found/config.yaml").read_text()


@pytest.mark.parametrize(
    "choose",
    [
        lambda: parse(["policy=leaky", "policy.decay=0.5"]),
        lambda: parse_evaluate(["policy=p", "env=echo", "env.length=4"]),
        lambda: help_text(TrainConfig, ["policy=leaky"]),
        lambda: cfg.make_config(algo="reinforce"),
        lambda: rmt_rl.make_env("echo", length=2),
        lambda: cfg.part_from_dict("policy", {"name": "leaky"}),
    ],
)
def test_every_way_in_finds_installed_packages(
    choose: Callable[[], Any], installed: Path, importable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(rmt_rl.ConfigError):
        choose()
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr("rmt_rl.config.registry._entry_points_loaded", False)
    choose()


def test_an_installed_package_that_fails_to_import_is_named(
    installed: Path, importable: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installed / "mypkg/tasks.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setattr("rmt_rl.config.registry._entry_points_loaded", False)
    expected = "entry point mine of rmt_rl.plugins: importing mypkg.tasks failed: ModuleNotFoundError"
    assert rejection(parse, "policy=leaky").startswith(expected)


def test_a_name_belongs_to_one_class(importable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.py").write_text(MODULE)  # classes of the same names in another file
    monkeypatch.syspath_prepend(tmp_path)
    expected = "env=echo: is registered already, by mine.EchoConfig; choose another name"
    assert rejection(parse, "plugins=mine,other") == expected


def test_a_file_may_be_a_script_and_a_plugin_at_once(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(LIGHT.replace("PLUGIN", "both"))
    done = python(tmp_path, "both.py")
    assert (done.returncode, done.stdout) == (0, "16\n"), done.stderr


def test_a_script_does_not_replace_the_class_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "both.py").write_text(LIGHT)
    (tmp_path / "script.py").write_text(LIGHT.replace("PLUGIN", "both"))
    done = python(tmp_path, "script.py")
    assert done.returncode == 1 and "policy=light: is registered already, by __main__.LightConfig" in done.stderr


# ------------------------------------------------------------------------------------------------- wrong registrations


@dataclasses.dataclass(frozen=True)
class GoodConfig(cfg.PolicyConfig):
    width: int = rmt_rl.option(16, "width of the network", low=1, high=1_000)


@dataclasses.dataclass(frozen=True)
class OtherBaseConfig(cfg.EnvConfig):
    width: int = rmt_rl.option(16, "width of the network", low=1, high=1_000)


@dataclasses.dataclass(frozen=True)
class NoBaseConfig:
    width: int = 16


@dataclasses.dataclass
class NotFrozen:
    width: int = 16


class NotADataclass(GoodConfig):
    depth: int = rmt_rl.option(2, "layers", low=1, high=9)


@dataclasses.dataclass(frozen=True)
class NoWidthConfig(cfg.PolicyConfig):
    depth: int = rmt_rl.option(2, "layers", low=1, high=9)


@dataclasses.dataclass(frozen=True)
class PlainFieldConfig(GoodConfig):
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class NoDefaultConfig(cfg.EnvConfig):
    depth: int = rmt_rl.option(text="layers", low=1, high=9)


@dataclasses.dataclass(frozen=True)
class WrongDefaultConfig(GoodConfig):
    depth: int = rmt_rl.option(0, "layers", low=1, high=9)


@dataclasses.dataclass(frozen=True)
class WrongTypeConfig(GoodConfig):
    depths: tuple[int, ...] = rmt_rl.option((1, 2), "layers")


@dataclasses.dataclass(frozen=True)
class NameConfig(GoodConfig):
    name: str = rmt_rl.option("x", "its name", form=("a name", ".+"))  # type: ignore[misc]


@dataclasses.dataclass(frozen=True)
class TwoTypesConfig(GoodConfig):
    depth: int | str | None = rmt_rl.option(1, "layers")


@dataclasses.dataclass(frozen=True)
class MethodConfig(GoodConfig):
    problems: int = rmt_rl.option(1, "problems to solve")  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class NaNConfig(GoodConfig):
    scale: float = rmt_rl.option(float("nan"), "a number without bounds")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TwoTypesConfig, "TwoTypesConfig.depth is of several types; expected one of bool, int, float, str and dict"),
        (MethodConfig, "MethodConfig.problems: rmt_rl.PolicyConfig uses this name; expected another one"),
        (NaNConfig, "NaNConfig.scale=nan: expected a number"),
        *(
            (
                wrong,
                f"{getattr(wrong, '__name__', wrong)} is not a frozen dataclass derived from rmt_rl.PolicyConfig; expected",
            )
            for wrong in (OtherBaseConfig, NoBaseConfig, NotFrozen, NotADataclass, dict, 3)
        ),
        (NoWidthConfig, "NoWidthConfig has no option width; expected `width: int = rmt_rl.option(64, <help>)`"),
        (PlainFieldConfig, "PlainFieldConfig.depth is not an option; expected depth: <type> = rmt_rl.option("),
        (WrongDefaultConfig, "WrongDefaultConfig.depth=0: expected a whole number, at least 1 and at most 9"),
        (WrongTypeConfig, "WrongTypeConfig.depths is of type tuple; expected bool, int, float, str or dict"),
        (NameConfig, "NameConfig.name: `name` is what the user types to choose it; expected another name"),
    ],
)
def test_a_dataclass_that_cannot_hold_options_is_rejected_with_what_to_write(
    config: Any, message: str, registry: None
) -> None:
    with pytest.raises(rmt_rl.ConfigError) as caught:
        rmt_rl.register_policy("mine", config)
    assert str(caught.value).startswith("policy=mine: ") and message in str(caught.value)
    assert "mine" not in GROUPS["policy"]


def test_an_option_without_a_default_is_rejected(registry: None) -> None:
    with pytest.raises(
        rmt_rl.ConfigError, match=r"env=mine: NoDefaultConfig\.depth has no default; expected rmt_rl\.option"
    ):
        rmt_rl.register_env("mine", NoDefaultConfig)


@pytest.mark.parametrize(
    "name", ["", "a b", "a=b", "a/b", "../x", "a\n", "-x", "--help", "1", "null", "True", ".", 3, None]
)
def test_a_name_that_cannot_be_typed_is_rejected(name: Any, registry: None) -> None:
    with pytest.raises(rmt_rl.ConfigError, match="expected a name of letters, digits and"):
        rmt_rl.register_policy(name, GoodConfig)


def test_a_built_in_name_is_taken(registry: None) -> None:
    with pytest.raises(rmt_rl.ConfigError) as caught:
        rmt_rl.register_policy("lstm", GoodConfig)(object)
    owner = "rmt_rl.config.policies.LSTMConfig"
    assert str(caught.value) == f"policy=lstm: is registered already, by {owner}; choose another name"
    assert parse(["policy=lstm"]).policy == cfg.make_config(policy="lstm").policy


def test_a_class_may_be_registered_again_by_its_own_module(registry: None) -> None:
    """As when a module is reloaded, or a cell of a notebook runs again."""

    def register() -> type[cfg.PolicyConfig]:
        @dataclasses.dataclass(frozen=True)
        class AgainConfig(GoodConfig):
            """Again."""

        rmt_rl.register_policy("again", AgainConfig)(object)
        return AgainConfig

    register()
    latest = register()
    assert type(parse(["policy=again"]).policy) is latest


def test_a_dataclass_belongs_to_one_name(registry: None) -> None:
    """It knows its name: the second registration would rename the first choice, or a built-in one."""

    @dataclasses.dataclass(frozen=True)
    class OneConfig(GoodConfig):
        """One."""

    rmt_rl.register_policy("one", OneConfig)(object)
    with pytest.raises(
        rmt_rl.ConfigError, match="policy=two: OneConfig is the dataclass of policy=one already; expected one of"
    ):
        rmt_rl.register_policy("two", OneConfig)
    with pytest.raises(rmt_rl.ConfigError, match="policy=mine: LSTMConfig is the dataclass of policy=lstm already"):
        rmt_rl.register_policy("mine", cfg.LSTMConfig)
    assert (OneConfig.name, cfg.LSTMConfig.name) == ("one", "lstm")


def test_what_is_registered_is_a_class(registry: None) -> None:
    with pytest.raises(rmt_rl.ConfigError, match="policy=mine: 3 is registered; expected the class"):
        rmt_rl.register_policy("mine", GoodConfig)(3)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"algo.gamm": 0.9}, r"recipe of env=mine: algo\.gamm: algo=ppo has no such option.*did you mean algo\.gamma"),
        ({"stpes": 9}, "recipe of env=mine: stpes: no such option.*did you mean steps"),
        ({"algo.gamma": 5}, r"recipe of env=mine: algo\.gamma=5: expected a number"),
        ([1], r"env=mine: recipe=\[1\]: expected a dictionary of training options"),
        ({1: 2}, r"env=mine: recipe=\{1: 2\}: expected a dictionary of training options"),
    ],
)
def test_a_mistake_in_a_recipe_is_reported(recipe: Any, message: str, registry: None) -> None:
    @dataclasses.dataclass(frozen=True)
    class RecipeConfig(cfg.EnvConfig):
        """A task."""

    with pytest.raises(rmt_rl.ConfigError, match=message):
        rmt_rl.register_env("mine", RecipeConfig, recipe=recipe)(object)
        cfg.make_config(env="mine")


@dataclasses.dataclass(frozen=True)
class OneTensor:
    hidden: torch.Tensor


class Correct(rmt_rl.Backbone[Any]):
    """Remembers the previous input."""

    def __init__(self, config: GoodConfig) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(config.width, config.width)

    def initial_state(self, batch: int) -> Any:
        return OneTensor(self.linear.weight.new_zeros(batch, self.linear.in_features))

    def step(self, x_BD: torch.Tensor, state: Any, first_B: torch.Tensor) -> Any:
        return self.linear(x_BD) + torch.where(first_B[:, None], 0.0, state.hidden), OneTensor(x_BD)

    def unroll(self, x_BTD: torch.Tensor, state: Any, first_BT: torch.Tensor) -> Any:
        outputs = []
        for x_BD, first_B in zip(x_BTD.unbind(1), first_BT.unbind(1), strict=True):
            y_BD, state = self.step(x_BD, state, first_B)
            outputs.append(y_BD)
        return torch.stack(outputs, 1), state


@pytest.mark.parametrize(
    ("method", "wrong", "message"),
    [
        (
            "initial_state",
            lambda self, batch: {"hidden": 1},
            "initial_state.* returned a state of dict; expected",
        ),
        ("initial_state", lambda self, batch: None, "a state of NoneType; expected a frozen dataclass of tensors"),
        (
            "initial_state",
            lambda self, batch: OneTensor(torch.zeros(8, batch)),
            r"whose hidden is \[8, 2\]; expected the 2 rows",
        ),
        ("step", lambda self, x, state, first: x, r"step of its class returned a Tensor; expected \(outputs, state\)"),
        (
            "step",
            lambda self, x, state, first: (x[:, :3], state),
            r"outputs \[2, 3\] .*; expected outputs \[2, 8\]",
        ),
        ("step", lambda self, x, state, first: (x.double(), state), r"outputs \[2, 8\] of torch.float64; expected"),
        (
            "step",
            lambda self, x, state, first: (self.linear(x), OneTensor(state.hidden.add_(1))),
            "step of its class returned after it had changed state.hidden in place; expected new tensors",
        ),
        (
            "unroll",
            lambda self, x, state, first: (x + first.logical_not_()[..., None], state),
            "unroll of its class returned after it had changed first in place",
        ),
        (
            "unroll",
            lambda self, x, state, first: (x[:, 1:], state),
            r"outputs \[2, 2, 8\].*; expected outputs \[2, 3, 8\]",
        ),
        (
            "unroll_with_losses",
            lambda self, x, state, first: (x, state, {"a": torch.zeros(3)}),
            "expected a dictionary of scalar tensors as its third value",
        ),
        (
            "unroll_with_losses",
            lambda self, x, state, first: (x, state),
            r"2 values; expected \(outputs, state, losses\)",
        ),
    ],
)
def test_a_backbone_that_returns_other_things_is_reported_before_the_run(
    method: str, wrong: Any, message: str, registry: None, tmp_path: Path
) -> None:
    @dataclasses.dataclass(frozen=True)
    class ShapesConfig(GoodConfig):
        """Wrong shapes."""

    rmt_rl.register_policy("shapes", ShapesConfig)(type("Wrong", (Correct,), {method: wrong}))
    with pytest.raises(rmt_rl.ConfigError, match=f"policy=shapes: .*{message}"):
        rmt_rl.train(env="tmaze", policy="shapes", root=tmp_path, **{"policy.width": 8})
    assert not list(tmp_path.iterdir())
