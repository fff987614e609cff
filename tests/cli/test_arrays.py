"""Arrays by name: batches of models with several inputs, and files with any name in them."""

import numpy as np
import pytest

from tvm_qnn.arrays import batches, joined, random_arrays, read_npz, write_npz
from tvm_qnn.errors import InputError
from tvm_qnn.frontend import TensorInfo

INFOS = [TensorInfo("a", (2, 3), "float32"), TensorInfo("b", (1,), "int8")]


def arrays(a_rows, b_rows):
    a = np.arange(3 * a_rows, dtype=np.float32).reshape(a_rows, 3)
    return {"a": a, "b": np.arange(b_rows, dtype=np.int8), "others": np.zeros(7)}


def test_batches_cut_all_inputs_alike():
    given = arrays(6, 3)
    pieces = list(batches(INFOS, given))
    assert [sorted(p) for p in pieces] == [["a", "b"]] * 3
    for name in ("a", "b"):
        assert (joined([p[name] for p in pieces]) == given[name]).all()
    assert pieces[1]["a"].tolist() == [[6, 7, 8], [9, 10, 11]]
    assert all(p["a"].flags.c_contiguous for p in pieces)


def test_views_become_contiguous():
    turned = {"a": np.zeros((3, 4), np.float32).T[:, ::1], "b": np.zeros(2, np.int8)}
    assert all(p["a"].flags.c_contiguous for p in batches(INFOS, turned))


@pytest.mark.parametrize(
    ("rows", "message"),
    [((6, 2), r"different numbers of batches: \[2, 3\]"), ((5, 2), r"'a': shape \[5, 3\]"),
     ((0, 1), r"'a': shape \[0, 3\]")],
)  # fmt: skip
def test_rows_that_make_no_whole_batches(rows, message):
    with pytest.raises(InputError, match=message):
        list(batches(INFOS, arrays(*rows)))


def test_models_without_a_batch_axis_or_without_inputs():
    scalar = [TensorInfo("s", (), "float32")]
    (piece,) = batches(scalar, {"s": np.array(3, np.float32)})
    assert piece["s"] == 3
    assert list(batches([], {})) == [{}]
    assert joined([np.array(1.0), np.array(2.0)]).tolist() == [1.0, 2.0]


def test_any_name_survives_a_file(tmp_path):
    stored = {
        "file": np.arange(3),
        "a/b:0": np.array(2.5, np.float32),
        "x.npy": np.zeros((0, 2), np.int8),
        "äö": np.ones((1, 2), bool),
    }
    write_npz(tmp_path / "o.npz", stored)
    again = read_npz(tmp_path / "o.npz")
    assert len(again) == len(stored)
    for name, array in stored.items():
        found = again[name if name in again else name.removesuffix(".npy")]
        assert found.dtype == array.dtype
        assert np.array_equal(found, array)
    assert [p.name for p in tmp_path.iterdir()] == ["o.npz"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "o.npz"
    write_npz(path, {"a": np.arange(3)})
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(path, {"a": np.array([object()])})
    assert read_npz(path)["a"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["o.npz"]


BOUNDED = [TensorInfo("w", (500,), "int32", (0, 6)), TensorInfo("c", (500,), "int8", (-3, 3))]


def test_random_integers_keep_to_their_bounds():
    drawn = random_arrays(BOUNDED)
    assert np.unique(drawn["w"]).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert np.unique(drawn["c"]).tolist() == [-3, -2, -1, 0, 1, 2, 3]
    assert len(list(batches(BOUNDED, drawn))) == 1


@pytest.mark.parametrize(("name", "value"), [("w", 7), ("w", -1), ("c", -4)])
def test_integers_beyond_their_bounds_are_refused(name, value):
    given = random_arrays(BOUNDED)
    given[name][321] = value
    with pytest.raises(InputError, match=f"input '{name}': {value} lies outside of "):
        list(batches(BOUNDED, given))
