"""Reports survive a round trip; damaged and foreign files are one clear line."""

import json

import pytest

from tvm_qnn.compare import ReportError, read_report, write_report
from tvm_qnn.compare.rows import ELSEWHERE, HERE

# One process makes the report that these tests look at.
pytestmark = pytest.mark.xdist_group("compare")


@pytest.fixture
def stored(report, tmp_path):
    path = tmp_path / "report.json"
    write_report(path, report)
    return path


def test_what_is_written_can_be_read(report, stored):
    assert read_report(stored) == report
    assert [p.name for p in stored.parent.iterdir()] == ["report.json"]


def test_an_unwritable_place_is_named(report, tmp_path):
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(tmp_path / "missing" / "report.json", report)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(format=99), "of format 1, but 99"),
        (lambda data: data.update(format=True), "of format 1, but True"),
        (lambda data: data.pop("format"), "of format 1, but None"),
        (lambda data: data.pop("runs"), "a damaged report"),
        (lambda data: data.update(more=1), "Report has no more"),
        (lambda data: data["runs"][0].update(threads="one"), "'one' where int belongs"),
        (lambda data: data["runs"][0].update(seconds=True), "True where float belongs"),
        (lambda data: data["runs"][0].update(variants={}), "{} where tuple"),
        (lambda data: data["runs"][0]["variants"][0].update(latency=7), "Cost is no record"),
        (lambda data: data["runs"][0]["variants"][0].pop("model"), "a damaged report"),
    ],
)
def test_damaged_reports_are_refused(stored, change, words):
    data = json.loads(stored.read_text())
    change(data)
    stored.write_text(json.dumps(data))
    with pytest.raises(ReportError, match=words) as caught:
        read_report(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", '"report"', "{", "\x00"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ReportError, match=r"report\.json"):
        read_report(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ReportError, match="No such file"):
        read_report(tmp_path / "report.json")
    (tmp_path / "report.json").write_bytes(bytes(range(256)))
    with pytest.raises(ReportError, match="no JSON"):
        read_report(tmp_path / "report.json")


def test_a_run_joins_once(report):
    assert report.joined(report) == report


def test_figures_of_another_run_are_not_called_measured_here(report):
    (run,) = report.runs
    later = type(report)((run, run)).whole
    assert len(later.variants) == 2 * len(run.variants)
    assert list(later.machines) == ["this machine", "this machine [1]"]
    other = later.variants[len(run.variants)]
    assert (other.target, other.latency.kind) == ("host [1]", ELSEWHERE)
    assert {o.cost.kind for o in other.operators} == {ELSEWHERE}
    assert later.variants[0].latency.kind == HERE
