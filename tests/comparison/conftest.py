import pytest

from rmt_rl.comparison import figures


@pytest.fixture(autouse=True)
def fonts_that_are_embedded_fast(monkeypatch):
    """A subset of a TrueType font takes half the time of a report. The report that `test_report.py` makes once has real ones."""
    monkeypatch.setitem(figures.STYLE, "pdf.fonttype", 3)
