"""The report of a comparison: its page, tables and files."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from comparison_folders import cell, failed, matrix, score, write

import rmt_rl
from rmt_rl.common.errors import ConfigError, RunError
from rmt_rl.compare import _finish as finish
from rmt_rl.comparison import figures
from rmt_rl.comparison.cells import expand
from rmt_rl.comparison.figures import learning_curves, shade
from rmt_rl.comparison.overview import describe, eval_points, table
from rmt_rl.comparison.report import file_names, write_report
from rmt_rl.comparison.request import parse_compare
from rmt_rl.comparison.results import load, short_names
from rmt_rl.comparison.statistics import Estimate
from rmt_rl.comparison.store import read_cells
from rmt_rl.comparison.tables import (
    aggregations,
    best_of,
    efficiency_rows,
    results_tex,
    settings,
    summary_table,
    task_table,
    tex,
    text_of,
)

ERROR = "the loss is not finite <b>&</b>"
HOSTILE = "<script>alert(1)</script>", 'a_b%c&d#$e^{f}~\\g"\x07\n', "n" * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*matrix(), failed("tmaze", "lstm", 7, ERROR)]
    return write(tmp_path_factory.mktemp("comparison"), rows)


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return write_report([folder], folder / "report").parent


@pytest.fixture(scope="module")
def text(report: Path) -> str:
    return (report / "index.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag, and every address that a page would load or link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.slow
def test_a_report_has_the_documented_files(report: Path) -> None:
    figures = {
        f"{name}.{end}"
        for name in ("curves-tmaze", "curves-hunt", "matrix", "profile")
        for end in ("pdf", "png", "svg")
    }
    others = {"index.html", "speed.html", "speed.csv", "results.csv", "results.tex"}
    assert {path.name for path in report.iterdir()} == figures | others


def test_the_page_loads_nothing_and_is_well_formed(text: str) -> None:
    page = Tags(text)
    assert page.open == []
    assert not page.tags & {"script", "img", "iframe", "object"}
    assert all(
        address.startswith("#") or re.fullmatch(r"[\w.-]+\.(html|csv|pdf|png|svg)|data:,", address)
        for address in page.addresses
    )
    assert "url(http" not in text


def test_ids_of_the_page_are_different_and_every_reference_has_its_target(text: str) -> None:
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)) <= {(one, "") for one in ids} | {
        ("", one) for one in ids
    }


def test_figures_take_the_colours_of_the_page(text: str, report: Path) -> None:
    assert "#1b1f25" in (report / "matrix.svg").read_text()
    assert "fill: var(--ink)" in text and text.count("#1b1f25") == 1  # where the colour is defined


def test_the_figures_for_publications_embed_truetype_fonts_and_have_no_date(report: Path) -> None:
    for path in report.glob("*.pdf"):
        data = path.read_bytes()
        assert data.startswith(b"%PDF-") and b"/FontFile2" in data and b"/Type3" not in data
        assert b"CreationDate" not in data and b"Producer" not in data


@pytest.mark.slow
def test_equal_results_give_equal_bytes_in_any_order_and_at_any_cost(
    folder: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(figures.STYLE, "pdf.fonttype", 42)  # as in `report`, which is made outside of the tests
    rows = [row | {"cost": {"cpu_s": 99.0, "cpu": "another"}} for row in [*matrix(), failed("tmaze", "lstm", 7, ERROR)]]
    other = write_report([write(tmp_path / "elsewhere", rows, order=1)], tmp_path / "out").parent
    different = {path.name for path in report.iterdir() if path.read_bytes() != (other / path.name).read_bytes()}
    assert different == {"speed.csv", "speed.html"}


def test_failed_runs_stand_in_one_block_with_their_reason(text: str) -> None:
    assert '<section id="failed" class="failed">' in text
    assert "lstm in tmaze, seed 7: </b>the loss is not finite &lt;b&gt;&amp;&lt;/b&gt;" in text


def test_the_page_has_every_command_and_every_section(text: str) -> None:
    assert text.count("python -m rmt_rl.train") == 13
    for id_ in (
        "compared",
        "results",
        "aggregates",
        "curves",
        "matrix",
        "profile",
        "improvement",
        "efficiency",
        "settings",
        "runs",
    ):
        assert f'<section id="{id_}">' in text, id_
    assert "hunt is left out of the aggregates: its floor or its ceiling is not known." in text
    assert "exact: 2 episodes" in text and "20 episodes" in text and "10 distinct" in text


def test_the_results_file_has_one_line_for_every_run_test_and_kind(report: Path) -> None:
    with (report / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 2 * 2 + 6
    first = rows[0]
    assert (first["task"], first["test"], first["label"], first["which"], first["value"]) == (
        "tmaze",
        "training",
        "rmt",
        "final",
        "1.0",
    )
    assert float(first["normalised"]) == 1.0 and 0.7 < float(first["low"]) < 1
    exact = next(row for row in rows if row["exact"] == "True")
    assert exact["low"] == ""  # all episodes were played: there is nothing to estimate


@pytest.mark.slow
def test_names_cannot_add_anything_to_page_figures_or_latex(tmp_path: Path) -> None:
    rows = matrix(HOSTILE)
    for row in rows:
        row["key"], row["task"] = (
            f"{row['task']}-{HOSTILE.index(row['policy'])}-s{row['seed']}",
            f"{row['task']} {HOSTILE[0]}",
        )
    index = write_report([write(tmp_path / "<i>", [*rows, failed("x", HOSTILE[0], 0, HOSTILE[0])])], tmp_path / "out")
    text = index.read_text(encoding="utf-8")
    assert "script" not in Tags(text).tags and "<i>" not in text
    assert "&lt;script&gt;" in text and "\x07" not in text
    for path in index.parent.glob("*.svg"):
        ElementTree.fromstring(path.read_bytes())
    latex = (index.parent / "results.tex").read_text()
    rows = [line for line in latex.splitlines() if "&" in line]
    assert len(rows) == 2 * 2 + 2 * 3
    for line in rows:
        assert not re.search(r"(?<!\\)[%#_$^~]", line.replace("$-$", "")), line


def test_latex_has_its_special_characters_escaped() -> None:
    assert tex(r"a_b%c&d#e") == r"a\_b\%c\&d\#e"
    assert tex("\\{$~^}") == r"\textbackslash{}\{\$\textasciitilde{}\textasciicircum{}\}"
    assert tex("名") == "?"


def test_a_row_of_latex_cannot_begin_with_an_argument(folder: Path) -> None:
    assert "\n{rmt} & 0.967" in results_tex(load([folder]))


def test_two_folders_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    """Equal keys: the folder's name; other options: too; more seeds with equal options: one label."""
    more = [row for row in matrix(("rmt", "lstm"), 6) if row["seed"] > 2]
    one = load([folder, write(tmp_path / "more", more)])
    assert one.labels == ("rmt", "lstm") and len(one.runs["tmaze", "rmt"]) == 6
    wide = [row | {"options": row["options"] | {"policy.width": 128}} for row in more if row["policy"] == "rmt"]
    two = load([folder, write(tmp_path / "wide", wide)])
    assert two.labels == ("lstm", f"rmt ({folder.name})", "rmt (wide)") or set(two.labels) == {
        "lstm",
        f"rmt ({folder.name})",
        "rmt (wide)",
    }
    same = load([folder, write(tmp_path / "same", matrix()), folder])
    assert set(same.labels) == {f"{policy} ({name})" for policy in ("rmt", "lstm") for name in (folder.name, "same")}


def test_folders_of_one_name_get_their_parents_name(tmp_path: Path) -> None:
    results = load([write(tmp_path / name / "run", matrix(("rmt",))) for name in ("a", "b")])
    assert set(results.labels) == {"rmt (a/run)", "rmt (b/run)"}


def test_swept_options_of_the_policy_name_policies_and_those_of_the_task_name_tasks(tmp_path: Path) -> None:
    rows = [
        cell(
            "tmaze", "rmt", 0, 1.0, key=f"k{segment}{length}", variant={"policy.segment": segment, "env.length": length}
        )
        for segment in (16, 4)
        for length in (100, 20)
    ]
    results = load([write(tmp_path, rows)])
    assert results.labels == ("rmt segment=4", "rmt segment=16")
    assert results.tasks == ("tmaze length=20", "tmaze length=100")
    assert short_names(["a.x", "b.x", "b.y"]) == {"a.x": "a.x", "b.x": "b.x", "b.y": "y"}


def test_carry_over_is_training_and_makes_no_other_task_but_how_long_memory_lasts_does(tmp_path: Path) -> None:
    rows = [cell("tmaze", "mlp", 0, 0.5)] + [
        cell("tmaze", "gru", 0, 1.0, key=f"k{carry}{scope}", variant={"memory.carry": carry, "memory.scope": scope})
        for carry in (0.0, 0.8)
        for scope in ("episode", "trial")
    ]
    results = load([write(tmp_path, rows)])
    assert set(results.labels) == {"mlp", "gru carry=0.0", "gru carry=0.8"}
    assert set(results.tasks) == {"tmaze", "tmaze scope=episode", "tmaze scope=trial"}


def test_a_report_does_not_go_into_the_folder_of_a_comparison(tmp_path: Path) -> None:
    folder = write(tmp_path, [cell("tmaze", "rmt", 0, 1.0)])
    with pytest.raises(ConfigError, match="is the folder of a comparison; choose another one for the report"):
        rmt_rl.compare(report=str(folder), out=str(folder))


def test_a_comparison_without_a_finished_run_has_a_page(tmp_path: Path) -> None:
    page = write_report([write(tmp_path, [failed("tmaze", "rmt", 0, "no memory")])], tmp_path / "report").read_text()
    assert "No run has finished yet." in page and "no memory" in page
    (tmp_path / "cells.jsonl").unlink()
    assert "No run has finished yet." in write_report([tmp_path], tmp_path / "report").read_text()
    assert summary_table(tmp_path) == "no run has finished yet"


@pytest.mark.slow
def test_one_seed_without_a_curve_has_values_without_intervals(tmp_path: Path) -> None:
    bare = cell("tmaze", "lstm", 0, 0.8, curve={}, best=None, versions=None, options=None, parameters=None, cost=None)
    out = tmp_path / "report"
    page = write_report([write(tmp_path, [cell("tmaze", "rmt", 0, 1.0), bare])], out).read_text(encoding="utf-8")
    assert "With fewer than 3 runs there is no interval: rmt in tmaze (1 run), lstm in tmaze (1 run)." in page
    assert "no curve" in page and "nan" not in page.lower() and "None" not in page
    alone = write_report([write(tmp_path, [bare])], out).read_text(encoding="utf-8")
    assert "No learning curve was recorded in tmaze." in alone
    assert not (out / "curves-tmaze.svg").exists()  # of the earlier report


def test_numbers_that_are_not_finite_are_missing(tmp_path: Path) -> None:
    rows = [
        cell("tmaze", "rmt", seed, 1.0, final={"training": score(1.0) | {"value": float("nan")}}) for seed in range(3)
    ]
    rows[0]["final"] = {"training": score(0.9)}
    rows[0]["curve"] = {"eval_steps": [1, 2, 3], "eval": [0.5, float("nan"), 0.7]}
    results = load([write(tmp_path, rows)])
    assert results.values("tmaze", "rmt", "training").tolist() == [0.9]
    assert results.runs["tmaze", "rmt"][0].curves["eval"][1].tolist() == [0.5, 0.7]


def test_an_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, matrix(("rmt",)))
    with (tmp_path / "cells.jsonl").open("a") as file:
        file.write('{"key": "half')
    assert len(load([tmp_path]).all_runs()) == 6


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "line 1 is a list"),
        ('{"key": "a"}', "line 1: task is None"),
        ('{"key": "a", "task": "t", "policy": "p", "seed": 0, "status": "odd"}', "status is 'odd'"),
        ('{"key": "a", "task": "t", "policy": "p", "seed": 0, "status": "failed", "cost": 3}', "cost is a int"),
        ("[" * 10**5, "line 1 is not JSON"),
        ("\\ud800 \x80", "line 1 is not JSON"),
        (json.dumps(failed("t", "p", 0, "\ud800")), "line 1 is not JSON"),
        (json.dumps(failed("t", "p", 0, "x") | {"error": None}), "line 1: error is None; expected text"),
        (json.dumps(failed("t", "p", True, "x")), "line 1: seed is true; expected a whole number"),
        (json.dumps(cell("t", "p", 0, 1.0, steps="many")), "line 1: steps is 'many'; expected a whole number"),
        (json.dumps(cell("t", "p", 0, 1.0, final={"training": 1})), "line 1: final training is a int"),
        (
            json.dumps(cell("t", "p", 0, 1.0, best={"training": score(1.0) | {"value": "1"}})),
            "best training value is '1'",
        ),
        (json.dumps(cell("t", "p", 0, 1.0, curve={"eval": 7})), "curve.eval is 7; expected a list"),
        (
            json.dumps(cell("t", "p", 0, 1.0, final={"x": score(1.0, episodes=1.5)})),
            "episodes is 1.5; expected a whole",
        ),
    ],
)
def test_a_line_that_is_no_run_is_one_sentence(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "cells.jsonl").write_text(line + "\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        write_report([tmp_path], tmp_path / "report")
    assert "\n" not in str(error.value) and not (tmp_path / "report").exists()


def test_numbers_that_no_float_can_hold_are_missing_in_report_and_overview(tmp_path: Path) -> None:
    huge = 10**400
    row = cell("tmaze", "rmt", 0, 1.0, final={"training": score(1.0) | {"value": huge}}, cost={"cpu_s": huge})
    row |= {"curve": {"eval_steps": [huge, 2], "eval": [0.5, huge]}, "best": None}
    results = load([write(tmp_path, [row])])
    assert results.tests["tmaze"] == () and not results.all_runs()[0].curves
    assert describe(read_cells(tmp_path)[0]) == "tmaze-rmt-s0: success -"
    assert eval_points(row) == []


def test_a_comparison_shows_rows_in_which_something_is_missing(tmp_path: Path) -> None:
    """As the report does: they may be of another version, or made by hand."""
    cells = expand(parse_compare(["env=tmaze", "policy=rmt,lstm", "seeds=1"])[1])
    bare = cell("tmaze", "lstm", 0, 0.8, curve=None, best=None, final=None, cost=None, variant=None)
    missing = cell("tmaze", "rmt", 0, 0.8, final={"training": {"measure": "success", "value": float("nan")}})
    rows = read_cells(write(tmp_path, [bare, missing]))
    assert describe(rows[0]) == "tmaze-lstm-s0: nothing was evaluated"
    assert [line.split() for line in table(rows, cells)] == [
        ["tmaze", "seeds", "as", "trained"],
        ["rmt", "1", "-"],
        ["lstm", "1", "-"],
    ]


def test_a_link_to_the_rows_is_followed_by_every_reader(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", matrix(("rmt",)))
    (tmp_path / "linked").mkdir()
    for name in ("cells.jsonl", "comparison.yaml"):
        (tmp_path / "linked" / name).symlink_to(mine / name)
    assert len(load([tmp_path / "linked"]).all_runs()) == len(read_cells(tmp_path / "linked")) == 6
    (mine / "cells.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"cells\.jsonl: cannot be read: No such file"):
        load([tmp_path / "linked"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected what a comparison was asked for, found a list"),
        ("format: 2", "format=2: this version of rmt_rl reads format 1"),
        ("a: &a [x, x]\nb: [*a, *a]", "YAML aliases"),
        ("format: 1\nformat: 1", "format is given twice"),
    ],
)
def test_a_request_that_is_none_is_one_sentence_of_a_report(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, matrix(("rmt",)))
    (tmp_path / "comparison.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load([tmp_path])


def test_a_finished_row_counts_rather_than_a_failed_one_in_any_order(tmp_path: Path) -> None:
    rows = [cell("tmaze", "rmt", 0, 1.0), failed("tmaze", "rmt", 0, "x"), failed("tmaze", "rmt", 1, "old")]
    rows.append(failed("tmaze", "rmt", 1, "new"))
    assert [(row["status"], row.get("error")) for row in read_cells(write(tmp_path, rows))] == [
        ("finished", None),
        ("failed", "new"),
    ]
    assert len(load([tmp_path]).all_runs()) == 1


def test_a_folder_without_a_comparison_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no comparison.yaml and no cells.jsonl"):
        write_report([tmp_path], tmp_path / "report")


@pytest.mark.parametrize("text", ["tasks: &a [x]\npolicies: [*a, *a]\n", "[" * 10_000, "a: ["])
def test_an_untrusted_comparison_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"comparison.yaml: (YAML aliases|has more than 32|not valid YAML)"):
        write_report([tmp_path], tmp_path / "report")


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, [failed("tmaze", "rmt", 0, "no memory")])
    (tmp_path / "report").write_text("a file")
    with pytest.raises(RunError, match="cannot write the report"):
        write_report([tmp_path], tmp_path / "report")


def test_a_policy_without_a_task_is_left_out_of_the_aggregates(tmp_path: Path) -> None:
    rows = [cell("tmaze", "rmt", 0, 1.0), cell("tmaze", "lstm", 0, 1.0), cell("other", "rmt", 0, 1.0)]
    trained, every = aggregations(load([write(tmp_path, rows)]))
    assert list(trained.scores) == ["rmt"] and [task.shape for task in every.scores["rmt"]] == [(1, 2), (1, 2)]
    assert trained.notes == ("lstm is left out of the aggregates: it has no finished run of other.",)


def test_a_floor_above_the_ceiling_is_normalised_and_reached_downwards(tmp_path: Path) -> None:
    loss = score(2.0, measure="return", floor=10.0, ceiling=0.0)
    rows = [cell("tmaze", "rmt", 0, 1.0, final={"training": loss}, curve={"eval_steps": [5, 9], "eval": [8.0, 0.5]})]
    results = load([write(tmp_path, rows)])
    assert aggregations(results)[0].scores["rmt"][0].tolist() == [[0.8]]
    assert [one.median for one in (efficiency_rows(results, "tmaze") or [])[0][1]] == [9, 9]


def test_best_is_an_interval_above_all_others() -> None:
    low, high, wide = Estimate(0.5, 0.4, 0.6), Estimate(0.8, 0.7, 0.9), Estimate(0.7, 0.55, 0.85)
    assert best_of([low, high]) is high
    assert best_of([low, high, wide]) is None
    assert best_of([high]) is None
    assert best_of([low, Estimate(0.9)]) is None


def test_settings_are_listed_once_and_differences_by_who_has_them(folder: Path) -> None:
    found = settings(load([folder]))
    assert found.common == {"steps": ("400", "")}
    assert found.different == {"policy.width": (("64", "rmt"), ("96", "lstm"))}
    assert found.per_run == ("seed",)


def test_the_table_for_a_terminal_has_tests_intervals_and_failures(folder: Path) -> None:
    lines = summary_table(folder).splitlines()
    assert lines[0].split() == ["tmaze", "as", "trained", "length=80", "runs"]
    assert lines[2].startswith("rmt") and "0.967 [0.900, 1.000]" in lines[2]
    assert lines[-1] == f"  tmaze-lstm-s7: {ERROR}"


def test_tests_stand_in_the_order_of_the_comparison(tmp_path: Path) -> None:
    tests = {"env.length=1000": score(0.6), "training": score(0.9), "env.length=80": score(0.7)}
    rows = [cell("tmaze", "rmt", 0, 1.0, final=tests, best={})]
    table = task_table(load([write(tmp_path, rows, tests={"env.length": [80, 1000]})]), "tmaze")
    assert [column.title for column in table.columns] == ["as trained", "length=80", "length=1000"]


def test_file_names_are_safe_and_different() -> None:
    assert file_names(["T-Maze", "t-maze", "../x", "…"]) == {
        "T-Maze": "t-maze",
        "t-maze": "t-maze-2",
        "../x": "x",
        "…": "task",
    }


@pytest.mark.parametrize(
    ("value", "measure", "shown"),
    [
        (1.0, "success", "1.000"),
        (-0.0001, "success", "0.000"),
        (87.0, "return", "87.00"),
        (-12345.6, "return", "-12,346"),
    ],
)
def test_numbers_have_a_fixed_number_of_digits(value: float, measure: str, shown: str) -> None:
    assert text_of(value, measure) == shown


def test_a_success_rate_is_drawn_from_0_to_1(tmp_path: Path) -> None:
    rows = [
        cell("tmaze", "rmt", seed, 0.9) | {"curve": {"steps": [100, 200], "train": [0.8, 0.9]}} for seed in range(2)
    ]
    picture = learning_curves(load([write(tmp_path, rows)]), "tmaze", "curves")
    assert picture is not None
    ticks = re.findall(r">(\d\.\d)</text>", picture.svg.decode())
    assert ticks == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]


@pytest.mark.parametrize(
    ("changes", "values", "shades"),
    [
        ({}, [0.5, 0.75, 1.0], [0.0, 0.5, 1.0]),
        ({"floor": None, "ceiling": None}, [1.0, 1.0, 0.9], [1.0, 1.0, 0.9]),
        ({"floor": None, "ceiling": None, "measure": "return"}, [3.0, 3.0, 3.0], [0.5, 0.5, 0.5]),
        ({"floor": None, "ceiling": None, "measure": "return"}, [1.0, 2.0, 3.0], [0.0, 0.5, 1.0]),
    ],
    ids=["floor and ceiling", "a success rate without them", "equal returns", "returns"],
)
def test_the_colours_of_the_matrix_go_from_the_worst_to_the_best(changes, values, shades, tmp_path: Path) -> None:
    rows = [
        cell("tmaze", policy, 0, 0.5) | {"final": {"training": score(0.5, **changes) | {"value": value}}, "best": {}}
        for policy, value in zip("abc", values, strict=True)
    ]
    results = load([write(tmp_path, rows)])
    assert shade(results, task_table(results, "tmaze"))[:, 0].tolist() == pytest.approx(shades)


def test_a_stopped_comparison_says_how_to_report_what_is_finished(tmp_path: Path, capsys) -> None:
    cells = expand(parse_compare(["env=tmaze", "policy=rmt,lstm", "seeds=1"])[1])
    finish(write(tmp_path, [cell("tmaze", "rmt", 0, 0.9)]), cells, 15)
    assert f"1 cells are not finished; the same command continues them\nreport={tmp_path}" in capsys.readouterr().out
