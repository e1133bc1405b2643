"""What MkDocs does beside the pages in `docs/`: generated pages, the tutorial, links to sources.

A link that leaves `docs/` leads to a copy of the file in the site, so that none is dead. Pages of
results are made from their JSON files by `mtard_tf.reporting`. Nothing imports TensorFlow.
"""

from __future__ import annotations

import json
import pathlib
import posixpath
import re
import tempfile
from typing import Any

import command_flags
import gin_selectors
import python_api
from mkdocs.structure.files import File, Files

from mtard_tf.reporting import pages

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Pages that lie elsewhere: page -> file. Links to the file lead to the page.
ELSEWHERE = {
    "start.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
_FENCED = re.compile(r"^(```.*?^```)", re.M | re.S)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are not in `docs/`."""
    generated = {
        "reference/commands.md": command_flags.page(),
        "reference/gin.md": gin_selectors.page(),
        "reference/api.md": python_api.page(),
        "tutorial.md": _notebook(ROOT / "docs" / "tutorial.ipynb"),
        **{page: (ROOT / path).read_text("utf-8") for page, path in ELSEWHERE.items()},
    }
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    for path in _linked(files):
        files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
    for path, content in _pages_of_results().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links to files outside of `docs/` to their pages or copies."""
    here = page.file.src_uri
    if pathlib.Path(ROOT, "docs", here).with_suffix("").joinpath("stages.json").exists():
        name = pathlib.PurePath(here).stem
        markdown += f"\n[The page of a run, as `mtard-eval` writes it]({name}/page.html)\n"
    return _outside_code(markdown, lambda text: _LINK.sub(lambda m: _turned(here, m), text))


def _outside_code(markdown: str, change: Any) -> str:
    parts = _FENCED.split(markdown)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def _turned(here: str, match: re.Match) -> str:
    opening, target, anchor, closing = match.groups()
    path = _in_repository(here, target)
    if path is None:
        return match[0]
    places = {source: page for page, source in ELSEWHERE.items()}
    places |= {"docs/tutorial.ipynb": "tutorial.md", "docs/results": "index.md"}
    inside = path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}"
    found = posixpath.relpath(places.get(path, inside), posixpath.dirname(here) or ".")
    return f"{opening}{found}{anchor or ''}{closing}"


def _in_repository(here: str, target: str) -> str | None:
    """The path from the repository's root that a link on a page means; None for an address."""
    if re.match(r"\w+:", target):
        return None
    base = ELSEWHERE.get(here, f"docs/{here}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), target))


def _linked(files: Files) -> list[str]:
    """Files outside of `docs/` that pages link to and that are no pages."""
    found = set()
    for file in files.documentation_pages():
        for match in _LINK.finditer(_FENCED.sub("", file.content_string)):
            path = _in_repository(file.src_uri, match[2])
            if path and not path.startswith("docs/") and (ROOT / path).is_file():
                found.add(path)
    return sorted(found - set(ELSEWHERE.values()))


def _notebook(path: pathlib.Path) -> str:
    """The cells of a notebook as one page."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts)


def _pages_of_results() -> dict[str, str]:
    """The HTML pages of the runs whose JSON files lie in `docs/results`, by path in the site."""
    found = {}
    for noted in sorted((ROOT / "docs" / "results").glob("*/stages.json")):
        with tempfile.TemporaryDirectory() as folder:
            written = pages.write(noted.parent, pathlib.Path(folder, "page.html"))
            found[f"results/{noted.parent.name}/page.html"] = written.read_text("utf-8")
    return found
