"""The pages of the site that are made of the code name every option and every public name. No mkdocs is needed for them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import rmt_rl
from rmt_rl.config.fields import OTHER_NAMES, options, show
from rmt_rl.config.help import SUMMARIES
from rmt_rl.config.registry import GROUPS

ROOT = Path(__file__).parents[2]
#: The groups with a page for every choice, and those whose options are on the page of rmt_rl.train.
CHOICES = [(group, name) for group in ("policy", "env", "algo") for name in GROUPS[group]]
MOVING = (ROOT / "docs/moving.md").read_text(encoding="utf-8")


def load_reference() -> ModuleType:
    """docs/site/reference.py, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/site/reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return load_reference().pages()


def row(page: str, option: str) -> list[str]:
    """The cells of the row of an option: default, allowed values, meaning; without escapes."""
    found = re.findall(rf"^\| `{re.escape(option)}` \| (.*) \| (.*) \| (.*) \|$", page, re.MULTILINE)
    assert len(found) == 1, f"{option}: {len(found)} rows"
    return [re.sub(r"\\([\\`*_\[\]|<>])", r"\1", cell) for cell in found[0]]


def assert_all_options(page: str, config: type, prefix: str) -> None:
    for name, known in options(config).items():
        default, allowed, meaning = row(page, prefix + name)
        assert (default == "required") or default == f"`{show(known.default)}`"
        assert (allowed, meaning) == (known.expected, known.help)


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_the_reference_has_every_option_of_every_choice(group: str, name: str, pages: dict[str, str]) -> None:
    assert_all_options(pages[f"configuration/{group}-{name}.md"], GROUPS[group][name].config, f"{group}.")


@pytest.mark.parametrize("command", SUMMARIES, ids=lambda command: command.__name__)
def test_the_reference_has_every_option_of_every_command(command: type, pages: dict[str, str]) -> None:
    reference = load_reference()
    page = pages[f"configuration/{reference._command(command)}.md"]
    assert_all_options(page, command, "")
    if reference._command(command) == "train":
        for group in ("memory", "until"):
            assert_all_options(page, GROUPS[group][group].config, f"{group}.")


def test_the_recipe_of_a_task_is_on_its_page_with_its_reasons(pages: dict[str, str]) -> None:
    page = pages["configuration/env-bandit.md"]
    assert "algo.kl_coef: 0.0  # the penalty is for the T-maze" in page
    assert "Measured: payout 0.774" in page


def test_every_choice_links_to_its_section_of_the_written_pages(pages: dict[str, str]) -> None:
    assert "(../tasks.md#tmaze-endless)" in pages["configuration/env-tmaze-endless.md"]
    assert "(../policies.md#options-of-rmt)" in pages["configuration/policy-rmt.md"]


def test_the_menu_has_every_generated_page_once(pages: dict[str, str]) -> None:
    def paths(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [path for part in parts for path in paths(part)]  # type: ignore[attr-defined]

    assert sorted(paths(load_reference().menu())) == sorted(path for path in pages if path != "api.md")


def test_the_reference_has_every_public_name(pages: dict[str, str]) -> None:
    headings = re.findall(r"^ +heading: rmt_rl\.(\w+)$", pages["api.md"], re.MULTILINE)
    assert sorted([*headings, "__version__"]) == sorted(dir(rmt_rl))


def test_options_of_the_page_about_moving_exist() -> None:
    known = {
        f"{group}.{key}" for group, choices in GROUPS.items() for one in choices.values() for key in options(one.config)
    }
    named = set(re.findall(r"(?<![\w/.])(?:algo|policy|env|memory|until)\.[a-z_]+(?=[`=])", MOVING))
    calls = {"policy.act", "policy.initial_state", "policy.explore", "policy.value", "policy.unroll"}
    assert len(named) > 25
    assert named - known - calls == set()


def test_the_page_about_moving_has_every_name_that_an_error_translates() -> None:
    assert [name for name in OTHER_NAMES if name != "lr" and f"{name}" not in MOVING] == []


@pytest.mark.slow
def test_names_of_torchrl_on_the_page_about_moving_exist() -> None:
    for package in ("torchrl.envs", "torchrl.modules", "torchrl.collectors", "torchrl.objectives"):
        pytest.importorskip(package, reason="torchrl is not installed: pip install 'rmt_rl[torchrl]'")
    from torchrl import collectors, envs, modules, objectives
    from torchrl.envs import utils
    from torchrl.objectives import value

    section = MOVING[MOVING.index("## torchrl") :]
    left = "".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    names = set(re.findall(r"\b[A-Z]\w*[a-z]\w*(?=[(.,`])", left)) | {"set_recurrent_mode", "check_env_specs"}
    places = (collectors, envs, modules, objectives, utils, value)
    assert len(names) > 12
    assert [name for name in sorted(names) if not any(hasattr(place, name) for place in places)] == []


@pytest.mark.slow
def test_options_of_sb3_on_the_page_about_moving_exist() -> None:
    pytest.importorskip("sb3_contrib", reason="sb3-contrib is not among the requirements")
    import inspect

    from sb3_contrib import RecurrentPPO
    from sb3_contrib.ppo_recurrent.policies import RecurrentActorCriticPolicy

    table = MOVING[MOVING.index("| RecurrentPPO (default)") : MOVING.index("### Calls")]
    left = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    known = {*inspect.signature(RecurrentPPO).parameters, *inspect.signature(RecurrentActorCriticPolicy).parameters}
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", left)) - {"total_timesteps", "n_envs", "make_vec_env"}
    assert len(named) > 15
    assert named - known == set()
