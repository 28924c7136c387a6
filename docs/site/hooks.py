"""Hooks of mkdocs: pages that exist only in the site, and links that differ between a git host and the site.

The front page is README.md, the reference is made of the code (reference.py), and notebooks become pages. All of them are made in
memory: nothing is written to docs/.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # the package beside this file, however mkdocs was started

import reference  # noqa: E402


def on_config(config: Any) -> Any:
    """Fill the menu below Configuration, and let notebooks be the pages that are made of them."""
    for section in config.nav:
        for title, entries in section.items():
            if title == "Configuration":
                section[title] = reference.menu()
            else:
                section[title] = [_with_notebook_pages(entry) for entry in entries]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made of README.md, of the code, and of notebooks."""
    made = {"index.md": front_page(), **reference.pages()}
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        made[f"notebooks/{notebook.stem}.md"] = notebook_page(notebook)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """README.md is the front page here, and notebooks are pages."""
    markdown = re.sub(r"\]\(\.\./README\.md", "](index.md", markdown)
    return (
        markdown
        if page.file.src_uri.startswith("notebooks/")
        else re.sub(r"(\]\([\w/]+)\.ipynb\)", r"\1.md)", markdown)
    )


def front_page() -> str:
    """README.md, with links that start in docs/."""
    return re.sub(r"\]\(docs/", "](", (ROOT / "README.md").read_text(encoding="utf-8"))


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and what the code printed and drew."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\.ipynb\)", ".md)", source))
        elif source.strip():
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in cell["outputs"]]
    parts.append(f"[This page as a notebook]({path.name})")
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    """One output of a cell: a picture inside the page, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"]).replace("\n", "")
        base64.b64decode(picture, validate=True)
        return f'<img alt="output of the code above" src="data:image/png;base64,{picture}">'
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f'<pre class="output"><code>{html.escape(text.rstrip())}</code></pre>'


def _with_notebook_pages(entry: Any) -> Any:
    if isinstance(entry, dict):
        return {title: path.replace(".ipynb", ".md") for title, path in entry.items()}
    return entry
