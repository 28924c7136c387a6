"""The recipe files of the package, and those of users."""

import subprocess
import sys
from pathlib import Path

import pytest

import rmt_rl
from rmt_rl import config as cfg
from rmt_rl.common.errors import ConfigError
from rmt_rl.config.recipes import FOLDER, PROVENANCE, read_recipe
from rmt_rl.config.registry import GROUPS

FILES = sorted(FOLDER.glob("*.yaml"))
ROOT = Path(__file__).parent.parent
MEASURED = "provenance: {command: c, seeds: 0 to 4, date: not recorded, score: s, page: p}\n"


def group_of(file):
    return next(name for name in ("env", "algo", "policy") if file.stem in GROUPS[name])


def parts(recipe):
    return [recipe, *recipe.policies.values(), *recipe.ids.values()]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_option_of_a_recipe_exists_and_is_allowed(file):
    recipe, group = read_recipe(file), group_of(file)
    ids = [{}, *({"env.id": id} for id in recipe.ids)]
    for algo in GROUPS["algo"]:
        for policy in GROUPS["policy"]:
            for given in ids:
                choices = {"env": "tmaze", "algo": algo, "policy": policy, group: file.stem}
                cfg.make_config(**choices, **given)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_belongs_to_one_choice_and_names_existing_policies(file):
    assert [name for name in ("env", "algo", "policy") if file.stem in GROUPS[name]] == [group_of(file)]
    assert set(read_recipe(file).policies) <= set(GROUPS["policy"])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_page_of_a_provenance_has_the_section_that_it_names(file):
    for part in parts(read_recipe(file)):
        page, _, section = part.provenance["page"].partition("#")
        titles = [line.lstrip("# ") for line in (ROOT / page).read_text().splitlines() if line.startswith("#")]
        anchors = {"".join(c for c in t.lower() if c.isalnum() or c in " -_").replace(" ", "-") for t in titles}
        assert section in anchors


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_number_of_a_measured_score_is_in_the_documentation(file):
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    for part in parts(read_recipe(file)):
        words = part.provenance["score"].replace(",", " ").replace("[", " ").replace("]", " ").replace(";", " ").split()
        numbers = [word for word in words if word.lstrip("-").replace(".", "", 1).isdecimal() and "." in word]
        assert all(number in pages for number in numbers)


def test_every_builtin_recipe_says_where_it_was_measured():
    assert FILES and all(set(part.provenance) == set(PROVENANCE) for f in FILES for part in parts(read_recipe(f)))


def test_a_recipe_is_read_without_torch():
    code = "import sys, rmt_rl; rmt_rl.make_config(env='bandit'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_option_of_a_policy_wins_over_that_of_the_task(tmp_path, monkeypatch):
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"options: {{algo.gamma: 0.9, steps: 9}}\n{MEASURED}"
        f"policies: {{gru: {{options: {{algo.gamma: 5e-1}}, {MEASURED.strip()}}}}}"
    )
    monkeypatch.setitem(GROUPS["env"], "tmaze", type(GROUPS["env"]["tmaze"])(cfg.TMazeConfig, None, file))
    gamma = {policy: cfg.make_config(env="tmaze", policy=policy).algo.gamma for policy in ("rmt", "gru")}
    assert gamma == {"rmt": 0.9, "gru": 0.5} and cfg.make_config(env="tmaze", policy="gru").steps == 9
    assert cfg.make_config(env="tmaze", policy=cfg.GRUConfig()).algo.gamma == 0.5  # a dataclass has the name, too


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"found \[1\]; expected a dictionary with entries of options, provenance, policies, ids"),
        ("option: {}", "option: no such entry; expected options, .*did you mean options"),
        ("options: 3\n" + MEASURED, "options: found 3; expected a dictionary"),
        ("options: {}", "provenance: found null; expected a dictionary with entries of command"),
        ("provenance: {command: c}", "provenance: seeds=null: expected text, or `not recorded`"),
        (MEASURED.replace("not recorded", "3"), "provenance: date=3: expected text"),
        (MEASURED + "policies: {gru: 1}", "policies: gru: found 1; expected a dictionary"),
        (MEASURED + "ids: {a: {provenanc: 1}}", "ids: a: provenanc: no such entry.*did you mean provenance"),
        ("options: {a: 1, a: 2}\n" + MEASURED, "a is given twice"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_mistake_in_a_recipe_file_is_one_sentence(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_task_from_outside_may_have_a_recipe_file(tmp_path, monkeypatch):
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class FileConfig(rmt_rl.EnvConfig):
        """A task."""

    file = tmp_path / "mine.yaml"
    file.write_text("options: {algo.gamm: 0.9}\n" + MEASURED)
    monkeypatch.setattr("rmt_rl.config.registry.GROUPS", {**GROUPS, "env": (envs := dict(GROUPS["env"]))})
    monkeypatch.setattr("rmt_rl.config.resolve.GROUPS", {**GROUPS, "env": envs})
    rmt_rl.register_env("from-file", FileConfig, recipe=file)(object)
    with pytest.raises(ConfigError, match=r"recipe of env=from-file: algo\.gamm: .*did you mean algo\.gamma"):
        cfg.make_config(env="from-file")
    file.unlink()
    read_recipe.cache_clear()
    with pytest.raises(ConfigError, match="cannot be read"):  # when it is registered, not when a run starts
        rmt_rl.register_env("from-file", FileConfig, recipe=file)(object)
