"""Pages of the site that are made of the code: every option of every command, task, policy and algorithm, and the public names.

Each function returns Markdown. Nothing here imports torch: options are dataclasses, and docstrings are read from the source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import rmt_rl
from rmt_rl.config.commands import TrainConfig
from rmt_rl.config.comparison import BudgetConfig, CompareConfig, RayConfig, SlurmConfig, TuneConfig
from rmt_rl.config.fields import options, show
from rmt_rl.config.help import EXAMPLES, MATRIX, PROGRAMS, SPACE, SUMMARIES
from rmt_rl.config.registry import GROUPS, Entry

DOCS = Path(__file__).parent.parent
ROOT = DOCS.parent
#: Groups with pages of their own: their titles in the menu, and the hand-written page about them.
PAGES = {"policy": ("Policies", "policies.md"), "env": ("Tasks", "tasks.md"), "algo": ("Algorithms", "")}
#: The page about an algorithm, for the link from its options.
ALGOS = {
    "ppo": "architecture.md#ppo-rate-and-supervised-learning",
    "rate": "rate.md",
    "supervised": "sources.md#the-papers-tasks",
}


def pages() -> dict[str, str]:
    """Every generated page by its path under docs/."""
    found = {f"configuration/{_command(command)}.md": command_page(command) for command in SUMMARIES}
    for group in PAGES:
        found |= {f"configuration/{group}-{name}.md": choice_page(group, name) for name in GROUPS[group]}
    return {"configuration/index.md": overview(), **found, "api.md": api_page()}


def menu() -> list[Any]:
    """The entries of the menu below "Configuration"."""
    entries: list[Any] = ["configuration/index.md"]
    entries.append({"Commands": [{_command(one): f"configuration/{_command(one)}.md"} for one in SUMMARIES]})
    for group, (title, _) in PAGES.items():
        entries.append({title: [{name: f"configuration/{group}-{name}.md"} for name in GROUPS[group]]})
    return entries


def overview() -> str:
    """The page that lists all others."""
    lines = [
        "# Configuration reference",
        "",
        "Every option with its default and its allowed values, made of the code when this site is built."
        " `python -m rmt_rl.train --help env=<task> policy=<name>` prints the same in a terminal, with the values that a run"
        " will use.",
        "",
        "Options are written `name=value`. Those that are given win over the recipe of the task, and the recipe wins over the"
        " defaults listed here.",
        "",
        "| command | does |",
        "|---|---|",
    ]
    lines += [f"| [{_command(one)}]({_command(one)}.md) | {_cell(text)} |" for one, text in SUMMARIES.items()]
    for group, (title, page) in PAGES.items():
        more = f"All of them beside each other: [{page}](../{page})." if page else ""
        lines += ["", f"## {title}", "", more, "", f"| `{group}=` | |", "|---|---|"]
        lines += [
            f"| [{name}]({group}-{name}.md) | {_cell(_texts(entry)[0])} |" for name, entry in GROUPS[group].items()
        ]
    return "\n".join(lines)


def command_page(command: type) -> str:
    """The options of one command, with those of the groups that have no choice."""
    program = f"python -m {PROGRAMS[command]}"
    lines = [f"# rmt_rl.{_command(command)}", "", SUMMARIES[command], "", "```sh"]
    lines += [*(f"{program} {example}" for example in EXAMPLES[command]), "```", "", "## Options", ""]
    chosen = [item for item in fields(command) if item.metadata.get("group") in PAGES_OF_CHOICES]
    if chosen:
        lines += [_group_table(chosen), ""]
    lines += [option_table(command), ""]
    if command is CompareConfig:
        lines += [MATRIX, "", "## `budget.`", "", (BudgetConfig.__doc__ or "").partition("\n")[0], ""]
        lines += [option_table(BudgetConfig, "budget."), ""]
    if command is TuneConfig:
        lines += [SPACE, ""]
    if command in (CompareConfig, TuneConfig):
        for name, config in (("slurm", SlurmConfig), ("ray", RayConfig)):
            lines += [f"## `{name}.`", "", (config.__doc__ or "").partition("\n")[0], ""]
            lines += [option_table(config, f"{name}."), ""]
    if command is TrainConfig:
        for group in GROUPS:
            if list(GROUPS[group]) == [group]:
                entry = GROUPS[group][group]
                lines += [f"## `{group}.`", "", _texts(entry)[0], "", option_table(entry.config, f"{group}."), ""]
    if "env_overrides" in command.__dataclass_fields__:
        lines += ["Options of the task, `env.<option>=`, change the task that the policy was trained on.", ""]
    lines += ["`plugins=my_module,...` imports modules that register environments, policies or algorithms.", ""]
    return "\n".join(lines)


def choice_page(group: str, name: str) -> str:
    """What one task, policy or algorithm is, how it is chosen, its options, and its recipe with the measurement behind it."""
    entry = GROUPS[group][name]
    summary, more = _texts(entry)
    lines = [f"# {group}={name}", "", summary, "", more, "", "```sh", _usage(group, name), "```", ""]
    if link := _hand_written(group, name):
        lines += [f"Described in [{link.partition('#')[0]}](../{link}).", ""]
    lines += ["## Options", "", option_table(entry.config, f"{group}.") or "None.", ""]
    if isinstance(entry.source, Path):
        lines += _recipe(name, entry)
    if group == "env" and (rules := _docstring(entry)):
        lines += ["## Rules", "", "From the docstring of the class.", "", "```text", rules, "```", ""]
    return "\n".join(lines)


def option_table(cls: type, prefix: str = "") -> str:
    """One row for each option: name, default, allowed values, meaning; empty where there are none."""
    rows = []
    for name, known in options(cls).items():
        default = "required" if known.default is MISSING else f"`{show(known.default)}`"
        rows.append(f"| `{prefix}{name}` | {default} | {_cell(known.expected)} | {_cell(known.help)} |")
    head = ["| option | default | allowed | meaning |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) if rows else ""


def api_page() -> str:
    """The public names: functions first, then classes. mkdocstrings puts signatures and docstrings in their places."""
    names = [name for name in dir(rmt_rl) if not name.startswith("_")]
    lines = [
        "# API reference",
        "",
        "Everything that `import rmt_rl` makes public, that is `dir(rmt_rl)`. Letters in shapes: B rows (environments), T steps"
        " in a rollout, S steps in a segment, D width. `rmt_rl.__version__` is the version.",
        "",
    ]
    for name in sorted(names, key=lambda name: (name[0].isupper(), name)):
        module = rmt_rl._PUBLIC[name] or f"rmt_rl.{name}"
        heading = f"rmt_rl.{name}"
        lines += [f"::: {module}.{name}", "    options:", f"      heading: {heading}", f"      toc_label: {name}", ""]
    return "\n".join(lines)


#: Defaults of the groups that have more than one choice.
PAGES_OF_CHOICES = {name for group in PAGES for name in GROUPS[group]}


def _group_table(items: Iterable[Any]) -> str:
    rows = ["| group | default | meaning |", "|---|---|---|"]
    for item in items:
        usual = item.metadata["group"]
        rows.append(f"| `{item.name}=` | [{usual}]({item.name}-{usual}.md) | {_cell(item.metadata['help'])} |")
    return "\n".join(rows)


def _command(command: type) -> str:
    return PROGRAMS[command].removeprefix("rmt_rl.")


def _usage(group: str, name: str) -> str:
    more = {"env=gym": " env.id=CartPole-v1", "algo=rate": " env=tmaze-rate"}.get(f"{group}={name}", "")
    return f"python -m rmt_rl.train {group}={name}{more}"


def _texts(entry: Entry) -> tuple[str, str]:
    """The first line of the docstring of the options, and what follows it before the list of options."""
    first, _, rest = (entry.config.__doc__ or "").partition("\n")
    return first, rest.partition("\nOptions:")[0].strip()


def _recipe(task: str, entry: Entry) -> list[str]:
    """The recipe file of a task as it is: the reason of every option stands beside it."""
    lines = [
        "## Recipe",
        "",
        f"What `env={task}` changes unless you say otherwise, with the reason for every option and the command, seeds and score"
        " of the measurement:",
        "",
        "```yaml",
        entry.source.read_text(encoding="utf-8").rstrip(),
        "```",
        "",
    ]
    if page := entry.recipe.provenance.get("page", "").removeprefix("docs/"):
        lines += [f"Measured: {_cell(entry.recipe.provenance['score'])} ([{page.partition('#')[0]}](../{page})).", ""]
    return lines


def _hand_written(group: str, name: str) -> str:
    """Page and anchor of the section about a choice, the one whose heading names it."""
    page = PAGES[group][1]
    if not page:
        return ALGOS.get(name, "")
    headings = re.findall(r"^#+ (.*)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    named = [heading for heading in headings if f"`{name}`" in heading]
    return f"{page}#{slug(named[0])}" if named else page


def slug(heading: str) -> str:
    """The anchor of a heading, as git hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _docstring(entry: Entry) -> str:
    """The docstring of the class behind a name, without importing it."""
    if not isinstance(entry.target, str) or ":" not in entry.target:
        return ""
    module, _, name = entry.target.partition(":")
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def _cell(text: str) -> str:
    """Text in the cell of a table: no character of it is read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|<>])", r"\\\1", text)
