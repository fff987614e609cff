"""Records and databases: what finds a record, what passes it over, files that people merge."""

import json
from dataclasses import replace

import pytest

from tvm_qnn import targets
from tvm_qnn.ops.workload import CodebookWork, ConvWork, Epilogue
from tvm_qnn.schedules import family
from tvm_qnn.schedules.database import Database, DatabaseError, layouts, load, save
from tvm_qnn.schedules.records import Record, digest, parse_work, target_key, work_key
from tvm_qnn.spec import Codes
from tvm_qnn.targets.x86 import AVX512_VNNI

PLAIN = ConvWork(1, 8, 8, 32, 32, (3, 3), Codes(0, 3), Codes(-2, 1), padding=(1, 1, 1, 1))
WORKS = [
    PLAIN,
    PLAIN.with_epilogue(Epilogue("requantize", Codes(0, 3), rounding="floor", pack=True)),
    ConvWork(
        2, 9, 7, 16, 16, (3, 1), Codes(-1, 1, 2), Codes(-7, 7, 2), (2, 1), (1, 0, 1, 0), (1, 2),
        groups=16, x_zero=-3, w_zero=tuple(range(16)), x_planes=True,
        epilogue=Epilogue("threshold", Codes(-1, 1, 2)),
    ),
    CodebookWork(replace(PLAIN, w=Codes(0, 4))),
    CodebookWork(replace(PLAIN, w=Codes(0, 4), epilogue=Epilogue("affine")), rows=32),
]  # fmt: skip
DOT = family("dot")


def record(work=PLAIN, cost=1.0, default=2.0, unit="seconds", made_for=AVX512_VNNI, **changes):
    fields = {
        "target": target_key(made_for),
        "work": work_key(work),
        "family": "dot",
        "kernel": digest(DOT, work, made_for),
        "cost": cost,
        "default": default,
        "unit": unit,
        "trials": 8,
        "device": "a test",
    }
    return Record(**{**fields, **changes})


@pytest.mark.parametrize("work", WORKS)
def test_work_is_read_back(work):
    assert parse_work(work_key(work)) == work


@pytest.mark.parametrize("text", ["", "3", "{}", '{"batch": 1}', '{"conv": 3}', '{"nothing": 1}'])
def test_text_that_is_no_work_is_refused(text):
    with pytest.raises(ValueError, match=r"no work|Expecting"):
        parse_work(text)


def test_boards_differ_by_processor_and_pcs_by_features():
    boards = {target_key(targets.get(name)) for name in ("rpi3", "rpi4", "rpi5")}
    assert len(boards) == 3
    other = replace(AVX512_VNNI, name="host", cpu="znver5", cores=64)
    assert target_key(other) == target_key(AVX512_VNNI)
    assert target_key(replace(other, features=frozenset({"avx2"}))) != target_key(AVX512_VNNI)


def test_record_is_found_for_its_kernel_alone():
    database = Database([record()])
    assert database.find(DOT, PLAIN, AVX512_VNNI) == record()
    assert database.find(DOT, replace(PLAIN, width=9), AVX512_VNNI) is None
    assert database.find(family("bitserial"), PLAIN, AVX512_VNNI) is None
    assert database.find(DOT, PLAIN, targets.get("x86-avx2")) is None


def test_record_of_an_older_kernel_is_passed_over():
    assert Database([record(kernel="0123456789abcdef")]).find(DOT, PLAIN, AVX512_VNNI) is None


def test_measured_records_come_before_estimates():
    database = Database([record(unit="cycles", cost=3.0), record(cost=7.0)])
    assert database.find(DOT, PLAIN, AVX512_VNNI).unit == "seconds"


def test_merging_keeps_what_gains_more():
    ours, theirs = record(cost=1.0, default=1.5), record(cost=2.0, default=8.0)
    for first, second in ((ours, theirs), (theirs, ours)):
        database = Database([first])
        database.merge([second])
        assert list(database) == [theirs]


def test_files_are_read_back_and_can_be_joined_by_hand(tmp_path):
    one, two = record(), record(work=WORKS[1], trace=[[["SamplePerfectTile", [], [2, 16], []]], []])
    other = record(made_for=targets.get("rpi4"), unit="cycles")
    save(Database([one, other]), tmp_path / "a")
    save(Database([two]), tmp_path / "b")
    name = f"{target_key(AVX512_VNNI)}.jsonl"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(
        [name, f"{target_key(targets.get('rpi4'))}.jsonl"]
    )
    joined = (tmp_path / "b" / name).read_text() + (tmp_path / "a" / name).read_text()
    (tmp_path / "a" / name).write_text(joined)
    assert list(load(tmp_path / "a")) == list(Database([one, two, other]))


def test_saving_forgets_what_was_dropped(tmp_path):
    database = Database([record()])
    save(database, tmp_path)
    database.drop([record()])
    save(database, tmp_path)
    assert list(load(tmp_path)) == []


@pytest.mark.parametrize("line", ["{", "[]", '{"target": "x"}', json.dumps("text")])
def test_damaged_line_is_named(tmp_path, line):
    save(Database([record()]), tmp_path)
    path = next(tmp_path.iterdir())
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DatabaseError, match=rf"{path.name}, line 2: no record"):
        load(tmp_path)


def test_missing_database_says_what_makes_one(tmp_path):
    with pytest.raises(DatabaseError, match="tvm-qnn tune"):
        load(tmp_path / "nowhere")


def test_layouts_differ_in_planes_only():
    found = layouts(WORKS[1])
    assert WORKS[1] in found
    assert len(set(found)) == 4
    assert {replace(w, x_planes=False, epilogue=Epilogue()) for w in found} == {PLAIN}
