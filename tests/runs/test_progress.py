"""The progress line: it fits a terminal, and keeps the latest value of every number."""

import io
import re

import pytest

from rmt_rl.runs import metrics
from rmt_rl.runs.metrics import BAR, LINE, Progress

LONGEST = {"success": 0.123456, "return": -123456.789, "eval": 0.123456}


@pytest.mark.parametrize("total", [288, 750_000, 999_999_999, 10**12])
@pytest.mark.parametrize("shown", [LONGEST, {"loss": 123.456789, "accuracy": 0.5}, {"return": -1e12}, {}])
@pytest.mark.parametrize("seconds", [0.01, 60, 360_000])
def test_the_line_and_the_bar_fit_80_columns(total, shown, seconds, monkeypatch):
    progress = Progress(total)
    monkeypatch.setattr(metrics.time, "monotonic", lambda: progress.started + seconds)
    progress._shown |= shown
    line = progress._line(total // 3)
    assert len(line) <= LINE and BAR + 1 + LINE < 80
    assert re.match(r"\S+/\S+ steps  ", line) and line.endswith(" left")
    if shown:
        assert next(iter(shown)) in line  # the first number is never left out


def test_the_bar_takes_one_line_of_a_terminal_of_80_columns(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with Progress(10**9) as progress:
        progress.update(123_456_789, LONGEST)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())  # without colours and movements
    (line,) = [line for line in re.split(r"[\r\n]", text) if "steps" in line]
    assert line.startswith("━") and line.rstrip().endswith("left") and len(line.rstrip()) < 80


def test_a_number_that_is_missing_in_an_update_keeps_its_latest_value(capsys, monkeypatch):
    monkeypatch.setattr(metrics, "PLAIN_INTERVAL", 0.0)
    progress = Progress(100)
    progress.update(10, {"success": 0.25, "eval": None})
    progress.update(20, {"success": None})
    progress.update(30, {"success": 0.5, "eval": 0.75})
    first, second, third = capsys.readouterr().out.splitlines()
    assert "success 0.250" in first and "eval" not in first
    assert "success 0.250" in second
    assert "success 0.500  eval 0.750" in third
