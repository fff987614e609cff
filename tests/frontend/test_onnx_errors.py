"""What is refused, and that the one line says which node, why, and what to do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_evaluate import build, node, whole

from tvm_qnn.errors import ModelError, QnnError, UnsupportedError
from tvm_qnn.frontend import import_model

S, Z = np.float32(0.5), np.uint8(3)
RELU = [node("Relu", "x", "y", "act")]
QDQ = [node("QuantizeLinear", "x s z", "q", "quant"), node("DequantizeLinear", "q s z", "y", "deq")]


def qdq(scale=S, zero=Z, **attrs):
    nodes = [node("QuantizeLinear", "x s z", "y", "quant", **attrs)]
    return build(nodes, {"x": [1, 4]}, ["y"], {"s": scale, "z": zero})


def conv(weights=(4, 3, 3, 3), **attrs):
    nodes = [node("Conv", "x w", "y", "conv", **attrs)]
    return build(nodes, {"x": [1, 3, 6, 6]}, ["y"], {"w": whole(weights)})


def one(op, inputs="x", constants=None, shape=(2, 3, 4), opset=21, **attrs):
    return build([node(op, inputs, "y", "it", **attrs)], {"x": shape}, ["y"], constants,
                 opset=opset)  # fmt: skip


def changed(model, change):
    change(model)
    return model


def out_of_range():
    codes = TensorProto(data_type=TensorProto.UINT8, dims=[3], int32_data=[1, 2, 300])
    nodes = [node("DequantizeLinear", "w s", "d", "deq"), node("Add", "x d", "y")]
    return build(nodes, {"x": [3]}, ["y"], {"w": codes, "s": S})


def with_subgraph():
    empty = helper.make_graph([], "g", [], [])
    return build([node("If", "x", "y", "branch", then_branch=empty, else_branch=empty)],
                 {"x": [1]}, ["y"])  # fmt: skip


def dynamic_scale():
    nodes = [node("ReduceMax", "x", "m", keepdims=0),
             node("QuantizeLinear", "x m z", "y", "quant")]  # fmt: skip
    return build(nodes, {"x": [4]}, ["y"], {"z": Z})


def external():
    tensor = TensorProto(name="w", data_type=1, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="w.bin")
    return build([node("Add", "x w", "y")], {"x": [3]}, ["y"], {"w": tensor})


CASES = {
    "zero scale": (
        lambda: qdq(np.float32(0)),
        "node 'quant' (QuantizeLinear): scale 's' must be positive and finite, found 0.0",
    ),
    "negative scale": (lambda: qdq(np.float32(-1)), "'quant' .*positive and finite, found -1.0"),
    "scale NaN": (lambda: qdq(np.float32("nan")), "'quant' .*positive and finite, found nan"),
    "one infinite scale of many": (
        lambda: qdq(np.array([1, np.inf, 1, 1], "float32"), np.zeros(4, "uint8")),
        "'quant' .*found inf",
    ),
    "float16 scale": (
        lambda: qdq(np.float16(1)),
        "initializer 's': holds float16 values, which are not supported; convert the model",
    ),
    "scale made at run time": (
        dynamic_scale, "'quant' .*scale 'm' is not a constant; quantize statically"
    ),
    "scales do not fit the axis": (
        lambda: qdq(np.ones(3, "float32"), np.zeros(3, "uint8")),
        "'quant' .*3 scales for axis 1 of length 4",
    ),
    "axis out of range": (
        lambda: qdq(np.ones(4, "float32"), np.zeros(4, "uint8"), axis=2),
        r"'quant' .*axis 2 of a tensor of shape \[1, 4\]|'quant' .*axis",
    ),
    "zero points unlike scales": (
        lambda: qdq(np.ones(4, "float32"), np.zeros(2, "uint8")),
        r"'quant' .*zero point 'z' has shape \[2\], scale 's' has shape \[4\]",
    ),
    "blocked": (
        lambda: qdq(np.ones((1, 2), "float32"), np.zeros((1, 2), "uint8"), block_size=2),
        "'quant' .*blocked quantization",
    ),
    "zero point of another dtype": (
        lambda: build(
            [QDQ[0], node("DequantizeLinear", "q s v", "y", "deq")], {"x": [4]}, ["y"],
            {"s": S, "z": Z, "v": np.int8(3)},
        ),
        "'deq' .*x_zero_point has inconsistent type",
    ),
    "codes out of range": (
        out_of_range, r"initializer 'w': holds codes outside of \[0..255\], the range of uint8"
    ),
    "float8": (
        lambda: build(
            [node("QuantizeLinear", "x s", "y", "quant", output_dtype=TensorProto.FLOAT8E4M3FN)],
            {"x": [4]}, ["y"], {"s": S},
        ),
        "'quant' .*float8e4m3fn, which is not supported",
    ),
    "dynamic quantization": (
        lambda: build([node("DynamicQuantizeLinear", "x", "y s z", "dyn")], {"x": [4]}, ["y"]),
        r"operator DynamicQuantizeLinear is not supported \(1 node: 'dyn'\); quantize statically",
    ),
    "QONNX": (
        lambda: build(
            [node("Quant", "x s s s", "y", "q0", domain="qonnx.custom_op.general")],
            {"x": [4]}, ["y"], {"s": S},
        ),
        r"operator qonnx.custom_op.general.Quant is not supported \(1 node: 'q0'\); export "
        r"quantize/dequantize .QDQ. nodes instead of QONNX",
    ),
    "symbolic batch": (
        lambda: build(RELU, {"x": ["N", 3]}, ["y"]),
        "input 'x': has the symbolic batch size 'N'; fix the batch size: pass batch=1",
    ),
    "dynamic image": (
        lambda: build(RELU, {"x": [1, 3, "H", None]}, ["y"]),
        r"input 'x': has the dynamic shape \[1, 3, 'H', '\?'\]; export with a fixed shape",
    ),
    "empty input": (lambda: build(RELU, {"x": [0, 3]}, ["y"]), r"input 'x': .*\[0, 3\] is empty"),
    "huge input": (
        lambda: build(RELU, {"x": [2**40, 2**20]}, ["y"]),
        "input 'x': .*more than 2\\*\\*31-1 elements",
    ),
    "double input": (
        lambda: build(RELU, {"x": [3]}, ["y"], kinds={"x": TensorProto.DOUBLE}),
        "input 'x': has type double; only float32, uint8, int8, int16, int32, int64 inputs are",
    ),
    "control flow": (with_subgraph, "node 'branch' .If.: control flow .*is not supported"),
    "external data of a model in memory": (
        external, "initializer 'w': its data lies in the external file 'w.bin'; give the path"
    ),
    "unsorted": (
        lambda: build([node("Relu", "a", "y", "late"), node("Relu", "x", "a")], {"x": [3]}, ["y"]),
        "node 'late' .Relu.: uses 'a' before a node makes it: .*not sorted or has a cycle",
    ),
    "nothing makes the input": (
        lambda: build([node("Relu", "ghost", "y", "act")], {"x": [3]}, ["y"]),
        "node 'act' .Relu.: uses 'ghost', which nothing makes",
    ),
    "names taken twice": (
        lambda: build([*RELU, node("Relu", "x", "y", "again")], {"x": [3]}, ["y"]),
        "node 'again' .Relu.: makes 'y', a name that is already taken",
    ),
    "output that nothing makes": (
        lambda: build(RELU, {"x": [3]}, ["other"]), "output 'other': no node makes it"
    ),
    "wrong declared shape": (
        lambda: changed(
            build(RELU, {"x": [3]}, ["y"]),
            lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, [4])),
        ),
        r"output 'y': is declared with shape \[4\], but has shape \[3\]",
    ),
    "damaged initializer": (
        lambda: changed(conv(), lambda m: m.graph.initializer[0].dims.append(2)),
        "initializer 'w': damaged tensor .432 bytes where its shape needs 864",
    ),
    "channels": (lambda: conv((4, 2, 3, 3)), "node 'conv' .Conv.: .*the channels do not fit"),
    "kernel_shape": (lambda: conv(kernel_shape=[5, 5]), "'conv' .*kernel_shape .5, 5. does not"),
    "zero strides": (lambda: conv(strides=[0, 1]), "'conv' .*'strides' holds 0, must be positive"),
    "negative pads": (lambda: conv(pads=[-1, 0, 0, 0]), "'conv' .*pads"),
    "kernel larger than the image": (lambda: conv((4, 3, 9, 9)), "'conv' .*would be empty"),
    "attribute beyond int32": (
        lambda: conv(strides=[2**40, 1]), "'conv' .*'strides' is 1099511627776, beyond 2..31-1"
    ),
    "unknown attribute": (lambda: conv(foo=3), "'conv' .*foo"),
    "batch norm for training": (
        lambda: one("BatchNormalization", "x a a a a", {"a": np.ones(3, "float32")},
                    training_mode=1),
        "'it' .BatchNormalization.: .*",
    ),
    "batch norm of negative variance": (
        lambda: one("BatchNormalization", "x a a a v",
                    {"a": np.ones(3, "float32"), "v": -np.ones(3, "float32")}),
        "'it' .BatchNormalization.: .*not finite .negative variance",
    ),
    "clip that empties": (
        lambda: one("Clip", "x l h", {"l": np.float32(2), "h": np.float32(1)}),
        "'it' .Clip.: min 2.0 is above max 1.0",
    ),
    "reflecting pad": (
        lambda: one("Pad", "x p", {"p": np.array([0, 0, 1, 0, 0, 1])}, mode="reflect"),
        "'it' .Pad.: mode 'reflect' is not supported",
    ),
    "index out of the codebook": (
        lambda: build([node("Gather", "b i", "w", "book"), node("Add", "x w", "y")], {"x": [2]},
                      ["y"], {"b": whole([4]), "i": np.array([0, 4])}),
        r"'book' .Gather.: index \[4\] of an axis of length 4",
    ),
    "shapes that do not broadcast": (
        lambda: one("Add", "x c", {"c": whole([5])}), "'it' .Add.: Incompatible dimensions"
    ),
    "reshape to another size": (
        lambda: one("Reshape", "x s", {"s": np.array([5, 5])}), "'it' .Reshape.: "
    ),
    "data decides the shape": (
        lambda: build(
            [node("Cast", "x", "i", to=TensorProto.INT64), node("Reshape", "x i", "y", "re")],
            {"x": [2]}, ["y"],
        ),
        "'re' .Reshape.: the shape of its result depends on data; only static shapes",
    ),
    "no opset": (
        lambda: changed(build(RELU, {"x": [3]}, ["y"]), lambda m: m.ClearField("opset_import")),
        "the model names no opset",
    ),
    "opset too old": (lambda: build(RELU, {"x": [3]}, ["y"], opset=6), "opset 6 is not supported"),
    "opset too new": (lambda: build(RELU, {"x": [3]}, ["y"], opset=99), "opset 99 is not support"),
    "empty graph": (lambda: build([], {"x": [3]}, ["x"]), "the graph holds no nodes"),
    "no inputs": (lambda: build([node("Relu", "c", "y")], {}, ["y"], {"c": whole([2])}),
                  "the graph: has no inputs"),
    "an output twice": (lambda: build(RELU, {"x": [3]}, ["y", "y"]),
                        "output 'y': the name is taken twice"),
    "no outputs": (lambda: build(RELU, {"x": [3]}, []), "the graph has no outputs"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_refused_with_the_node_and_the_reason(case: str) -> None:
    make, expected = CASES[case]
    with pytest.raises(ModelError, match=expected.replace("(Q", r"\(Q").replace("r)", r"r\)")) as e:
        import_model(make())
    assert "\n" not in str(e.value)


def test_everything_in_the_way_is_reported_at_once() -> None:
    nodes = [
        node("Foo", "x", "a", "foo1"), node("Foo", "a", "b", "foo2"),
        node("QuantizeLinear", "b bad", "c", "below"), node("QuantizeLinear", "x bad", "d", "bare"),
        node("Conv", "x w", "e", "conv"), node("Clip", "e hi lo", "f", "clip"),
        node("Relu", "c", "y"),
    ]  # fmt: skip
    constants = {"bad": np.float32(0), "w": whole([4, 7, 3, 3]), "hi": S, "lo": np.float32(-1)}
    model = build(nodes, {"x": [1, 3, 6, 6]}, ["y"], constants)
    with pytest.raises(UnsupportedError) as e:
        import_model(model)
    message = str(e.value)
    assert "operator Foo is not supported (2 nodes: 'foo1', 'foo2')" in message
    for name in ("below", "bare", "conv", "clip"):
        assert message.count(f"node '{name}'") == 1


def test_a_name_cannot_break_the_line() -> None:
    model = build([node("Foo", "x", "y", "a\nb\x00c")], {"x": [3]}, ["y"])
    with pytest.raises(UnsupportedError) as e:
        import_model(model)
    assert str(e.value) == "net: operator Foo is not supported (1 node: 'a b c')"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "m.onnx: the file is empty"),
        (b"not a model at all", "m.onnx: is not an ONNX model, or is truncated"),
        (b"\x08\x0a", "m.onnx: is not an ONNX model .it holds no graph."),
        (conv().SerializeToString()[:-40], "m.onnx: is not an ONNX model, or is truncated"),
    ],
)
def test_files_that_are_no_models(tmp_path, content: bytes, expected: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        import_model(path)


def test_missing_file_and_directory(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: no such file"):
        import_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match=r"is a directory; give the path of an .onnx file"):
        import_model(str(tmp_path))
    with pytest.raises(QnnError):
        import_model("a\0b")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("w.bin", "external data file 'w.bin' is missing next to the model"),
        ("../secret", "external data '../secret' lies outside of the folder of the model"),
        ("/etc/passwd", "external data '/etc/passwd' lies outside"),
        ("short.bin", "external data file 'short.bin' is truncated .3 bytes.|damaged tensor"),
        ("", "external data '' lies outside"),
    ],
)
def test_external_data(tmp_path, location: str, expected: str) -> None:
    model = external()
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "short.bin").write_bytes(b"abc")
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedError, match=f"initializer 'w': {expected}"):
        import_model(tmp_path / "m.onnx")


def test_other_objects_and_batches() -> None:
    with pytest.raises(ModelError, match=r"cannot import an object of type builtins.int"):
        import_model(3)
    for batch in (0, -1, True, 1.5):
        with pytest.raises(ModelError, match="must be a positive integer"):
            import_model(build(RELU, {"x": ["N", 3]}, ["y"]), batch=batch)


def test_nothing_is_printed(capfd) -> None:
    with pytest.raises(UnsupportedError):
        import_model(conv((4, 2, 3, 3)))
    import_model(conv())
    assert capfd.readouterr() == ("", "")
