"""The page in a headless Chromium: drawn, quiet, usable, quick; nothing in a study file runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdsearch.report.build import write_report
from tests.analysis import planted
from tests.report import browser
from tests.report.test_page import EVIL

pytestmark = pytest.mark.skipif(browser.find() is None, reason="no Chromium or Chrome on the path: apt-get install chromium")

DRAWN = "[...document.querySelectorAll('.plot')].filter((p) => p.querySelector('.main-svg .subplot, .main-svg .xy')).length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def quiet(page: browser.Browser) -> Iterator[None]:
    page.errors.clear()
    page.media(scheme="light")
    page.resize(1280, 900)
    yield
    assert page.errors == []


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = planted.study(seeds=[0, 1])
    return write_report([(study, planted.grid_rows(study))], tmp_path_factory.mktemp("grid"), images=False)


@pytest.fixture(scope="module")
def adaptive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = planted.adaptive(trials=60)
    return write_report([(study, planted.adaptive_rows(study))], tmp_path_factory.mktemp("adaptive"), images=False)


@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_every_figure_is_drawn_without_a_console_error(page: browser.Browser, kind: str, request: pytest.FixtureRequest) -> None:
    page.open(request.getfixturevalue(kind))
    assert page.run(DRAWN) == page.run("document.querySelectorAll('.plot').length") >= 10
    heatmap = page.run("document.querySelector('#plot-2-heatmap .hm image, #plot-2-heatmap .hm') !== null")
    assert heatmap


def test_no_text_of_a_heatmap_leaves_its_cell(page: browser.Browser, grid: Path) -> None:
    page.open(grid)
    texts = "[...document.querySelectorAll('#plot-2-heatmap .textpoint text')]"
    widest = page.run(f"Math.max(...{texts}.map((t) => t.getBoundingClientRect().width))")
    cell = page.run("document.querySelector('#plot-2-heatmap .hm image, #plot-2-heatmap .hm').getBoundingClientRect().width / 5")
    assert 0 < widest < cell


def test_axis_labels_do_not_overlap(page: browser.Browser, adaptive: Path) -> None:
    page.open(adaptive)
    overlaps = page.run("""(() => { const found = [];
      for (const plot of document.querySelectorAll('.plot')) for (const axis of ['xtick', 'x2tick', 'ytick', 'y2tick']) {
        const level = [...plot.querySelectorAll('.' + axis + ' text')].filter((t) => !/rotate\\([^0]/.test(t.getAttribute('transform')));
        const boxes = level.map((t) => t.getBoundingClientRect());
        for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
          const a = boxes[i], b = boxes[j], beside = a.right - 1 <= b.left || b.right - 1 <= a.left;
          if (!beside && a.top < b.bottom - 2 && b.top < a.bottom - 2) found.push(plot.id + ' ' + axis); } }
      return found; })()""")
    assert overlaps == []


def test_the_table_filters_sorts_opens_and_downloads(page: browser.Browser, adaptive: Path) -> None:
    page.open(adaptive)
    assert page.run("document.querySelectorAll('#trials tbody tr').length") == 61
    page.run("(() => { const f = document.getElementById('filter'); f.value = 'cr_linear'; f.dispatchEvent(new Event('input')); })()")
    page.run("(() => { const s = document.getElementById('state'); s.value = 'PRUNED'; s.dispatchEvent(new Event('change')); })()")
    shown = page.run("[...document.querySelectorAll('#trials tbody tr')].map((r) => r.textContent)")
    assert 0 < len(shown) < 40 and all("PRUNED" in row and "cr_linear" in row for row in shown)
    page.run("document.getElementById('download').click()")
    lines = page.downloaded("trials.csv").strip().splitlines()
    assert len(lines) == len(shown) + 1 and lines[0].startswith("number,role,state,value")
    page.run("document.getElementById('filter').value = ''; document.getElementById('state').value = 'COMPLETE';")
    page.run("document.getElementById('state').dispatchEvent(new Event('change'))")
    page.run("[...document.querySelectorAll('#trials th button')].find((b) => b.textContent === 'value').click()")
    column = "[...document.querySelectorAll('#trials tbody tr')].map((r) => Number(r.children[3].textContent))"
    values = page.run(column)
    assert values == sorted(values)
    assert page.run("document.querySelector('th[aria-sort=ascending]').textContent") == "value"
    page.run("document.querySelector('#trials tbody tr').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))")
    assert "temperature =" in page.run("document.querySelector('#trials .detail').textContent")


def test_a_figure_downloads_as_picture_and_as_numbers(page: browser.Browser, grid: Path) -> None:
    page.open(grid)
    page.run("document.querySelector('button[data-csv=\"2-heatmap\"]').click()")
    assert page.downloaded("2-heatmap.csv") == (grid.parent / "figures" / "2-heatmap.csv").read_text("utf-8")
    page.run("document.querySelector('button[data-image=svg][data-source=plot-2-heatmap]').click()")
    assert page.downloaded("2-heatmap.svg").startswith("<svg")


def test_dark_colours_follow_the_system_and_the_button(page: browser.Browser, grid: Path) -> None:
    page.media(scheme="dark")
    page.open(grid)
    ink = "getComputedStyle(document.querySelector('#plot-1-lines .ytick text')).fill"
    paper = "getComputedStyle(document.body).backgroundColor"
    assert (page.run(paper), page.run(ink)) == ("rgb(20, 23, 27)", "rgb(232, 234, 237)")
    page.run("document.getElementById('theme').click()")
    assert (page.run(paper), page.run(ink)) == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")


def test_a_phone_scrolls_figures_not_the_page(page: browser.Browser, grid: Path) -> None:
    page.resize(390, 800, mobile=True)
    page.open(grid)
    assert page.run("document.documentElement.scrollWidth") <= 390


def test_it_prints_on_paper_in_light_colours(page: browser.Browser, grid: Path) -> None:
    page.media(scheme="dark")
    page.open(grid)
    assert page.pdf().startswith(b"%PDF")
    assert page.run("document.documentElement.dataset.theme") == "dark"  # as before, once it is printed
    page.media(kind="print")
    assert page.run("getComputedStyle(document.querySelector('header.bar')).display") == "none"


def test_every_control_has_a_name_and_every_figure_a_description(page: browser.Browser, grid: Path) -> None:
    page.open(grid)
    assert page.run("[...document.querySelectorAll('.plot')].every((p) => p.getAttribute('role') === 'img' && p.ariaLabel.length > 60)")
    controls = "[...document.querySelectorAll('button, input, select, a')]"
    unnamed = f"{controls}.filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))"
    assert page.run(f"{unnamed}.length") == 0
    assert page.run("document.documentElement.lang") == "en"
    assert page.run("document.querySelectorAll('h1').length") == 1


def test_a_script_in_a_study_file_does_not_run(page: browser.Browser, tmp_path: Path) -> None:
    space = {"temperature": {"choices": [1, 2], "ordered": True, "title": EVIL}, "width": {"choices": [1, 2], "unit": EVIL}}
    study = planted.study(title=EVIL, description=EVIL, space=space, seeds=[0, 1])
    rows = planted.grid_rows(study)
    rows[0].warnings, rows[0].reason = [EVIL], EVIL
    page.open(write_report([(study, rows)], tmp_path, images=False))
    page.run("document.querySelector('#trials tbody tr').click()")
    assert page.run("window.hacked === undefined")
    assert page.run("document.querySelectorAll('img[src=x]').length") == 0
    assert EVIL in page.run("document.querySelector('h1').textContent")


@pytest.mark.slow
def test_two_thousand_trials_stay_under_15_megabytes(page: browser.Browser, tmp_path: Path) -> None:
    study = planted.adaptive(trials=2000)
    path = write_report([(study, planted.adaptive_rows(study))], tmp_path, images=False)
    assert path.stat().st_size < 15_000_000
    seconds = page.open(path)
    drawn = page.run("performance.now()") / 1000
    # Figures to report, not to assert on.
    print(json.dumps({"bytes": path.stat().st_size, "load_seconds": seconds, "all_drawn_seconds": drawn}))
    assert page.run("document.querySelectorAll('#trials tbody tr').length") == 100
    assert page.run("document.getElementById('count').textContent") == "2001 trials, first 100 shown"
