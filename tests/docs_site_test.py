"""The docs as a site: no dead link or anchor, nothing from elsewhere, and defaults as they are."""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser

import pytest

from mtard_tf import registry
from mtard_tf.config import bindable

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "generator"))
import command_flags  # noqa: E402
import gin_selectors  # noqa: E402

# The build, and then whether it imported TensorFlow.
BUILD = """
import sys
from mkdocs.__main__ import cli
cli(["build", "--quiet", "--site-dir", sys.argv[1]], standalone_mode=False)
print("imported:", *({"tensorflow", "keras", "matplotlib"} & set(sys.modules)))
"""


class _Page(HTMLParser):
    """The anchors, links and parts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("img", "script", "link", "iframe", "source"):
            if given.get("rel") not in ("canonical", "prev", "next"):
                self.loaded += [given[name] for name in ("src", "href") if name in given]


def dead(site: pathlib.Path) -> list[str]:
    """Links and parts of a site's pages that are not in the site, with their page."""
    pages = {path: _Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}
    missing = []
    for path, page in pages.items():
        if path.name == "404.html":
            continue  # its links are absolute: it is shown at any address
        for link in page.links + page.loaded:
            target = urllib.parse.urlsplit(link)
            if target.scheme or target.netloc:
                continue
            place = pathlib.Path(os.path.normpath(path.parent / urllib.parse.unquote(target.path)))
            place = path if not target.path else place
            anchor = urllib.parse.unquote(target.fragment)
            known = pages[place].anchors | {"", "__tabbed"} if place in pages else {""}
            if not place.is_file() or anchor not in known:
                missing.append(f"{path.relative_to(site)}: {link}")
    return missing


def test_a_dead_link_and_a_dead_anchor_are_found(tmp_path) -> None:
    (tmp_path / "one.html").write_text('<p id="here"><a href="two.html#there">', "utf-8")
    (tmp_path / "two.html").write_text(
        '<a href="one.html#here"><a href="#no"><a href="https://x.y"><img src="a.png">', "utf-8"
    )
    found = dead(tmp_path)
    assert found == ["one.html: two.html#there", "two.html: #no", "two.html: a.png"]


@pytest.fixture(scope="module")
def selectors() -> dict[str, gin_selectors.Selector]:
    return {selector.name: selector for selector in gin_selectors.selectors()}


def test_every_selector_is_listed(selectors) -> None:
    registry.load()
    plugins = {f"{kind}.{name}" for kind, table in registry.BUILT_INS.items() for name in table}
    assert set(selectors) == plugins | set(bindable.BINDABLE)
    assert {selector.kind for selector in selectors.values()} == set(gin_selectors.TITLES)


def test_parameters_and_defaults_are_those_that_python_has(selectors) -> None:
    """Read from the source without an import, and here compared with the imported parts."""
    count = 0
    for name, selector in selectors.items():
        kind, _, own = name.rpartition(".")
        plugin = kind in registry.KINDS
        target = registry.target(kind, own) if plugin else bindable.BINDABLE[name]
        given = gin_selectors.GIVEN.get(kind, ())
        there = {
            parameter.name: parameter.default
            for parameter in inspect.signature(target).parameters.values()
            if parameter.name not in given and parameter.kind is not parameter.VAR_KEYWORD
        }
        assert list(selector.parameters) == list(there), name
        for parameter, (default, meaning) in selector.parameters.items():
            assert meaning, f"{name}.{parameter} is not described"
            assert (default is None) == (there[parameter] is inspect.Parameter.empty), name
            if isinstance(there[parameter], int | float | str | tuple | None):
                module = inspect.getmodule(target)
                assert eval(default or "None", vars(module)) == there[parameter] or default is None
                count += 1
    assert count > 350


@pytest.mark.parametrize("command", command_flags.COMMANDS)
def test_every_flag_is_listed(command) -> None:
    section = command_flags.page().partition(f"#{command}}}")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `--(?:\[no\])?(\w+)(=...)?` \| (.*) \| .+ \|$", section, re.M)
    fields = {f.metadata.get("name", f.name): f for f in command_flags.flags(command)}
    assert [name for name, _, _ in rows] == sorted(fields)
    for name, value, default in rows:
        assert bool(value) == (fields[name].type != "bool")
        assert (default == "*required*") == bool(fields[name].metadata.get("required"))


@pytest.mark.slow
def test_the_site_builds_and_has_no_dead_link(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # strict, and no warning
    assert done.stdout == "imported:\n"
    site = tmp_path / "site"
    assert dead(site) == []
    pages = [_Page(path.read_text("utf-8")) for path in site.rglob("*.html")]
    assert len(pages) > 45
    assert not [link for page in pages for link in page.loaded if "//" in link]
    assert sum(len(page.links) for page in pages) > 3000
