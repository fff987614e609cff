"""The page is whole by itself, and a browser shows it."""

import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest

from tvm_qnn.compare import read_report, write_page
from tvm_qnn.compare.rows import HERE, Report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions",
)  # fmt: skip

# One process makes the report that these tests look at.
pytestmark = pytest.mark.xdist_group("compare")


@pytest.fixture(scope="session")
def page(report, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "report", report)


def browse(page, folder, *options):
    if BROWSER is None:
        pytest.skip("no chromium to look at the page with (Debian: chromium)")
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *options]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_the_figures_lie_beside_the_page(report, page):
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "report.json"]
    assert read_report(page.with_name("report.json")) == report


def test_nothing_comes_from_outside(page):
    text = page.read_text()
    for space in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"):
        text = text.replace(f'="{space}"', "")
    assert re.findall(r"https?:|//[a-z]|src=|@import", text) == []
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert re.findall(r'href="([^#"][^"]*)"', text) == ["data:,"]


def test_drawings_do_not_share_identifiers(page):
    found = re.findall(r' id="([^"]+)"', page.read_text())
    assert len(found) == len(set(found))


def test_every_variant_and_kind_is_on_the_page(report, page):
    text = page.read_text()
    for variant in report.runs[0].variants:
        assert f'<td class="text">{variant.target}</td>' in text
        assert variant.latency.kind in text
        for operator in variant.operators:
            assert operator.kernel in text
    assert "sigmoid" in text
    assert "pJ" in text
    assert text.count("<svg") >= 4


def test_names_cannot_break_the_page(report, tmp_path):
    (run,) = report.runs
    first, *others = run.variants
    evil = "<script>alert(1)</script>&\"'"
    named = replace(first, model=evil, refusals=(evil,))
    text = write_page(tmp_path, Report((replace(run, variants=(named, *others)),))).read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


def test_a_browser_renders_the_page(page, tmp_path):
    for width in (1300, 420):
        picture = tmp_path / f"{width}.png"
        browse(page, tmp_path, f"--screenshot={picture}", f"--window-size={width},2400")
        pixels = matplotlib.image.imread(picture)[..., :3]
        assert pixels.shape[:2] == (2400, width)
        # Text, plots and cards: many colours, in every part of the page.
        for part in np.array_split(pixels, 4):
            colours = np.unique((part * 255).astype(np.uint8).reshape(-1, 3), axis=0)
            assert len(colours) > 20


def test_the_script_sorts_the_table(page, tmp_path):
    sorted_page = tmp_path / "sorted.html"
    click = "<script>document.querySelectorAll('th.sort')[3].click()</script></body>"
    sorted_page.write_text(page.read_text().replace("</body>", click))
    text = browse(sorted_page, tmp_path, "--dump-dom")
    assert 'aria-sort="ascending"' in text
    (body,) = re.findall(r"<tbody>(.*?)</tbody>", text, re.S)[:1]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    latencies = [float(re.findall(r'data-value="([^"]+)"', row)[0]) for row in rows]
    assert latencies == sorted(latencies)
    assert len(latencies) > 3


def test_a_browser_shows_what_was_measured(report, page, tmp_path):
    text = browse(page, tmp_path, "--dump-dom")
    assert "<title>tvm-qnn compare</title>" in text
    assert HERE in text
    for operator in report.runs[0].variants[0].operators:
        assert operator.name in text
