"""Pages in headless Chromium: nothing is requested, nothing overflows, no script is needed.

Needs Debian's package `chromium`; where CI is set and it is missing, these tests fail.
"""

from __future__ import annotations

import os
import pathlib
import shutil

import fabricated_pages as fabricated
import pytest

from mtard_tf.reporting import pages

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PAGES = ("run", "autoattack", "masked", "comparison", "large", "hostile")


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: apt-get install chromium")
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("made")
    parts = ("apgd_ce", "apgd_t", "fab_t", "square")
    fabricated.run(folder / "run")
    fabricated.audit(folder / "autoattack", attacks=parts)
    fabricated.audit(folder / "masked", severity="masked")
    fabricated.comparison(folder / "comparison", rows=9)
    fabricated.comparison(folder / "large", rows=27)
    hostile = fabricated.HOSTILE
    fabricated.audit(
        folder / "hostile", hostile, classes=(hostile, *fabricated.CLASSES), dataset=hostile
    )
    return {name: pages.write(folder / name) for name in PAGES}


def _open(browser, path: pathlib.Path, width: int = 800, **context):
    """A page, and lists of what it requested and of what went wrong."""
    opened = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
    requests: list[str] = []
    wrong: list[str] = []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.goto(path.as_uri())
    return opened, requests, wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_requested_and_nothing_overflows(browser, made, name, width, scheme) -> None:
    page, requests, wrong = _open(browser, made[name], width, color_scheme=scheme)
    page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    found = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    colours = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    page.context.close()
    outside = [url for url in requests if not url.startswith("data:")]
    assert outside == [made[name].as_uri()]
    assert wrong == []
    assert found[0] <= found[1] == width
    dark_on_light = _light(colours[0]) < _light(colours[1])
    assert dark_on_light == (scheme == "light")
    assert abs(_light(colours[0]) - _light(colours[1])) > 150


def _light(colour: str) -> float:
    parts = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return sum(map(float, parts)) / 3


@pytest.mark.parametrize("name", PAGES)
def test_it_is_read_without_javascript(browser, made, name) -> None:
    page, _, wrong = _open(browser, made[name], java_script_enabled=False)
    text = page.inner_text("body")
    assert ("worst case" in text) and wrong == []
    assert "↕" not in text  # no button that does nothing
    for folded in page.locator("details").all():
        if folded.get_attribute("open") is None and folded.is_visible():
            inside = folded.locator("xpath=summary/following-sibling::*").first
            assert not inside.is_visible()
            folded.locator("xpath=summary").click()
            assert inside.is_visible()
    page.context.close()


def test_a_heading_sorts(browser, made) -> None:
    page, _, wrong = _open(browser, made["comparison"], 1400)
    read = "[...document.querySelectorAll('tbody tr')].map(r => +r.cells[3].dataset.value)"
    for order in (True, False):
        page.click("th:nth-child(4) button")
        values = page.evaluate(read)
        assert values == sorted(values, reverse=order)
    assert page.get_attribute("th:nth-child(4)", "aria-sort") == "ascending"
    page.click("th:nth-child(2) button")
    names = page.evaluate(
        "[...document.querySelectorAll('tbody tr')].map(r => r.cells[1].innerText)"
    )
    assert names == sorted(names, reverse=True)
    assert wrong == []
    page.context.close()


def test_hostile_names_are_text(browser, made) -> None:
    page, _, wrong = _open(browser, made["hostile"])
    assert fabricated.HOSTILE in page.inner_text("body")
    assert page.evaluate("document.scripts.length") == 2  # the JSON and the sorting
    assert page.evaluate("JSON.parse(document.getElementById('data').text).model") == (
        fabricated.HOSTILE
    )
    assert wrong == []
    page.context.close()


def test_the_policy_stops_what_was_smuggled_in(browser, made) -> None:
    """Were an escape forgotten, a script or an image from elsewhere would still not run."""
    page, _, _ = _open(browser, made["masked"])
    blocked = page.evaluate(
        """() => new Promise(done => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", event => {
                seen.push(event.blockedURI);
                if (seen.length === 2) done(seen.sort());
            });
            const script = document.createElement("script");
            script.text = "window.ran = true";
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(script, image);
        })"""
    )
    assert blocked == ["http://127.0.0.1:9/x.png", "inline"]
    assert page.evaluate("window.ran === undefined")
    page.context.close()


def test_images_are_decoded(browser, made) -> None:
    page, _, _ = _open(browser, made["autoattack"])
    sizes = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert sizes == [28] * 36
    page.context.close()
