"""The report in a headless browser, where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from comparison_folders import matrix, write

from rmt_rl.comparison.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: Loads the report in a frame of a telephone's width and prints how wide its contents are.
WRAPPER = """<body style="margin:0"><iframe id="frame" src="report/index.html" style="width:390px;height:800px;border:0"></iframe>
<p id="found"></p><script>
frame.onload = () => { const page = frame.contentDocument.documentElement;
  found.textContent = `width ${page.scrollWidth} of ${page.clientWidth}, ${page.querySelectorAll("svg").length} figures`; };
</script>"""


def browse(page: Path, profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
    ]
    command = [
        BROWSER,
        *options,
        f"--user-data-dir={profile}",
        "--allow-file-access-from-files",
        *arguments,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_the_report_fits_a_telephone_and_logs_no_error(tmp_path: Path) -> None:
    write_report([write(tmp_path, matrix(("rmt", "lstm", "n" * 300)))], tmp_path / "report")
    (tmp_path / "wrapper.html").write_text(WRAPPER)
    result = browse(tmp_path / "wrapper.html", tmp_path / "profile", "--dump-dom")
    # the frame's scroll bar takes a part of its 390 pixels
    assert re.search(r"width (3[79]\d) of \1, 4 figures", result.stdout)
    assert "CONSOLE" not in result.stderr
