"""The documentation site: it builds without a warning, loads nothing from the network, and looks right in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

#: Opens pages in a frame of a telephone's width and prints how wide their contents are, then searches as a reader does.
WRAPPER = """<body style="margin:0"><iframe id="frame" style="width:390px;height:800px;border:0"></iframe>
<p id="found"></p><script>
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const open = (page) => new Promise((done) => { frame.onload = done; frame.src = page; });
(async () => {
  for (const page of PAGES) {
    await open(page);
    const root = frame.contentDocument.documentElement;
    found.textContent += `${page} ${root.scrollWidth} of ${root.clientWidth}; `;
  }
  const inside = frame.contentWindow, box = frame.contentDocument.querySelector("input.md-search__input");
  box.focus();
  box.value = "floor";
  for (const name of ["keyup", "input"]) box.dispatchEvent(new inside.Event(name, { bubbles: true }));
  for (let turn = 0; turn < 100 && !frame.contentDocument.querySelector(".md-search-result__link"); turn++) await pause(100);
  found.textContent += `search: ${frame.contentDocument.querySelectorAll(".md-search-result__link").length} results`;
})();
</script>"""
LOOKED_AT = ["index.html", "configuration/policy-rmt.html", "notebooks/train.html", "api.html", "tasks.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site: one for all processes of pytest-xdist, which share these tests among them."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'rmt_rl[docs]'")
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(shared / "site.lock"):
        if not (shared / "site").exists():
            done = build(shared / "site-being-built")
            assert done.returncode == 0, done.stdout + done.stderr
            (shared / "site-being-built").rename(shared / "site")
    return shared / "site"


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_no_page_loads_anything_from_the_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 60
    loads = re.compile(
        r"<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*\b(?:src|href|data)=[\"']?(?:https?:)?//[^\s\"'>]+"
        r"|(?:@import|url\()\s*[\"']?(?:https?:)?//[^\s\"')]+"
    )
    styles = sorted(site.rglob("*.css"))
    found = {str(path): loads.findall(path.read_text(encoding="utf-8")) for path in [*pages, *styles]}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.slow
def test_every_page_of_the_folder_and_every_notebook_is_in_the_site(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    sources = {path.stem for path in (ROOT / "docs").glob("*.md")} | {f"notebooks/{path.stem}" for path in NOTEBOOKS}
    assert sources - pages == set()
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
def test_links_of_the_front_page_and_of_notebooks_lead_to_pages(site: Path) -> None:
    for name in ("index.html", "notebooks/train.html", "using.html"):
        page = site / name
        links = re.findall(r'<a [^>]*href="(?!https?:|mailto:)([^"#]+)', page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_pages_fit_a_telephone_search_works_from_files_and_nothing_is_logged(site: Path, tmp_path: Path) -> None:
    (site / "wrapper.html").write_text(WRAPPER.replace("PAGES", json.dumps(LOOKED_AT), 1))
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [
        "--virtual-time-budget=60000",
        f"--user-data-dir={tmp_path}",
        "--allow-file-access-from-files",
        "--dump-dom",
    ]
    command.append((site / "wrapper.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    found = re.findall(r'<p id="found">(.*?)</p>', done.stdout)[0]
    widths = re.findall(r"(\S+) (\d+) of (\d+);", found)
    assert [name for name, _, _ in widths] == LOOKED_AT, found
    assert [(name, wide) for name, wide, there in widths if wide != there] == []
    assert int(re.findall(r"search: (\d+) results", found)[0]) > 0
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


def test_notebooks_have_outputs_and_no_path_of_a_machine() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"train", "compare", "memory"}
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", [])]
        assert outputs, f"{path.name}: no outputs; run docs/site/run_notebooks.py"
        printed = "".join("".join(out.get("text", [])) for out in outputs)
        assert re.findall(r"(?:^|[\s'\"(])(?:/|~|\.\./)[\w.-]+/\S*", printed) == [], path.name
        assert '"stderr"' not in text


@pytest.mark.slow
def test_notebooks_run() -> None:
    """As written, with their outputs thrown away."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'rmt_rl[dev]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'rmt_rl[dev]'")
    command = [sys.executable, ROOT / "docs/site/run_notebooks.py", "--check"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count(" cells") == len(NOTEBOOKS)
