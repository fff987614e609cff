"""``tvm-qnn database``: what two people do with what they tuned."""

from dataclasses import replace

import pytest

from tests.tune.test_records import PLAIN, WORKS, record
from tvm_qnn.schedules.database import Database, load, save


@pytest.fixture
def folders(tmp_path):
    """Two databases with a kernel in common, which gains more in the second."""
    first, second = tmp_path / "first", tmp_path / "second"
    save(Database([record()]), first)
    save(Database([record(default=3.0), record(work=WORKS[1])]), second)
    return first, second


def test_merge_takes_new_and_better_records(cli, folders):
    first, second = folders
    code, out, _ = cli("database", "merge", first, second)
    assert code == 0
    assert "2 new or better records, 2 in all" in out
    assert list(load(first)) == list(load(second))
    assert "0 new or better records, 2 in all" in cli("database", "merge", first, second)[1]


def test_merge_makes_a_database(cli, folders, tmp_path):
    code, _, _ = cli("database", "merge", tmp_path / "third", *folders)
    assert code == 0
    assert list(load(tmp_path / "third")) == list(load(folders[1]))


def test_merge_of_a_missing_database_changes_nothing(cli, folders, tmp_path):
    before = list(load(folders[0]))
    code, _, err = cli("database", "merge", folders[0], folders[1], tmp_path / "nowhere")
    assert code == 2
    assert "nowhere: no such database" in err
    assert list(load(folders[0])) == before


def test_show_prints_a_line_for_each_record(cli, folders):
    code, out, _ = cli("database", "show", folders[1])
    assert code == 0
    assert PLAIN.name("dot") in out
    assert "3.00" in out
    assert "3x3 32-32 8x8" in out
    assert len([line for line in out.splitlines() if "a test" in line]) == 2


def test_prune_deletes_what_no_kernel_can_use(cli, folders):
    _, second = folders
    good = list(load(second))
    bad = [
        record(kernel="0" * 16),
        record(family="magic"),
        replace(record(), work="{}"),
        replace(record(), target="z80", work="{}"),
    ]
    save(Database([*good, *bad]), second)
    code, out, _ = cli("database", "prune", second)
    assert code == 0
    assert "3 records deleted, 3 left" in out
    assert "the kernel has changed" in out
    assert list(load(second)) == list(Database([*good, bad[3]]))
