"""Functions inside ONNX models: inlined like ONNX Runtime does, or refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from tests.frontend.onnx_evaluate import build, compare, node, ops_of, whole
from tests.nn.fixed_models import one_function
from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.frontend import import_model

FEED = {"x": whole([2, 3])}
X = np.zeros((2, 3), np.int8)


def model(text: str, opset: int = 21, domains: str = '"my" : 1, "other" : 2') -> Any:
    """A model of one graph and functions, with ``{}`` for the opset of ONNX."""
    header = f'<ir_version: 10, opset_import: ["" : {opset}, {domains}]>'
    return parser.parse_model(header + text)


GRAPH = "g (float[2, 3] x) => (float[2, 3] y)"
MY = '<domain: "my", opset_import: ["" : 21, "other" : 2]>'
OTHER = '<domain: "other", opset_import: ["" : 21]>'


def test_a_function_is_inlined_and_reported():
    mod = model(
        f"{GRAPH} {{ t = my.twice (x) u = my.twice (t) y = Relu (u) }}"
        f"{MY} twice (a) => (b) {{ b = Add (a, a) }}"
    )
    before = mod.SerializeToString()
    imported = compare(mod, FEED)
    assert ops_of(imported) == ["relax.add", "relax.add", "relax.nn.relu"]
    assert imported.notes == ("function 'my.twice' is inlined (2 calls)",)
    assert mod.SerializeToString() == before


def test_nested_functions_with_attributes_by_reference_and_by_default():
    imported = compare(
        model(
            f"{GRAPH} {{ t = my.outer <k: float = 3.0> (x) y = other.inner (t) }}"
            f"{MY} outer <k> (a) => (c) {{"
            "  f = Constant <value_float: float = @k> () m = Mul (a, f)"
            "  c = other.inner <s: float = @k> (m) }"
            f"{OTHER} inner <s: float = 7.0> (t) => (z) {{"
            "  c = Constant <value_float: float = @s> () z = Add (t, c) }"
        ),
        FEED,
    )
    assert imported.notes == (
        "function 'my.outer' is inlined (1 call)",
        "function 'other.inner' is inlined (2 calls)",
    )


def test_names_inside_of_functions_do_not_clash():
    """Value and node names of the function are those of the graph and of its own arguments."""
    compare(
        model(
            f"{GRAPH} <float[3] t = {{1.0, 2.0, 3.0}}> {{"
            "  [step] a = Mul (x, t) [step1] b = my.f (a, t) y = my.f (b, a) }"
            f"{MY} f (t, a) => (x) {{ [step] y = Sub (a, t) [step1] b = Neg (y) x = Add (b, t) }}"
        ),
        FEED,
    )


def test_functions_with_several_results_and_unused_ones():
    compare(
        model(
            f"{GRAPH} {{ p, q = my.both (x) y = Sub (q, p) }}"
            f"{MY} both (a) => (n, p) {{ n = Neg (a) p = Relu (a) }}"
            f"{MY} idle (a) => (b) {{ b = Neg (a) }}"
        ),
        FEED,
    )


def test_overloads_are_different_functions():
    mod = model(
        f"{GRAPH} {{ t = my.f (x) y = my.f (t) }}"
        f"{MY} f (a) => (b) {{ b = Neg (a) }}"
        f"{MY} f (a) => (b) {{ b = Add (a, a) }}"
    )
    mod.functions[1].overload = mod.graph.node[1].overload = "sum"
    imported = compare(mod, FEED)
    assert ops_of(imported) == ["relax.negative", "relax.add"]
    assert "function 'my.f:sum' is inlined (1 call)" in imported.notes


def test_another_opset_with_the_same_operators_is_no_obstacle():
    body = '<domain: "my", opset_import: ["" : 18]> f (a) => (b) { b = Relu (a) }'
    compare(model(f"{GRAPH} {{ t = Neg (x) y = my.f (t) }} {body}"), FEED)


def test_long_chains_of_functions():
    """150 functions, each a call of the next."""
    nodes = [node("f0", "x", "y")]
    nodes[0].domain = "my"
    mod = build(nodes, {"x": [2, 3]}, ["y"])
    mod.opset_import.append(helper.make_opsetid("my", 1))
    for k in range(150):
        inner = helper.make_node("Neg", ["a"], ["n"])
        last = helper.make_node(f"f{k + 1}", ["n"], ["b"], domain="my")
        if k == 149:
            last = helper.make_node("Relu", ["n"], ["b"])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("my", 1)]
        mod.functions.append(
            helper.make_function("my", f"f{k}", ["a"], ["b"], [inner, last], opsets)
        )
    assert len(ops_of(import_model(mod))) == 151


CASES: dict[str, tuple[str, str, type[Exception]]] = {
    "a domain without a function": (
        f"{GRAPH} {{ y = my.gone (x) }}",
        r"operator my.gone is not supported \(1 node: 'y'\)",
        UnsupportedError,
    ),
    "a function that calls what is not there": (
        f"{GRAPH} {{ y = my.f (x) }} {MY} f (a) => (b) {{ b = other.gone (a) }}",
        r"operator other.gone is not supported .*; function 'my.f' is inlined \(1 call\)",
        UnsupportedError,
    ),
    "recursion": (
        f"{GRAPH} {{ y = my.f (x) }} {MY} f (a) => (b) {{ b = other.g (a) }}"
        f"{OTHER} g (a) => (b) {{ b = my.f (a) }}",
        "calls itself .'my.f' -> 'other.g' -> 'my.f'.; export without recursion",
        ModelError,
    ),
    "a function that is its own body": (
        f"{GRAPH} {{ y = my.f (x) }} {MY} f (a) => (b) {{ b = my.f (a) }}",
        "'my.f' -> 'my.f'",
        ModelError,
    ),
    "the same function twice": (
        f"{GRAPH} {{ y = my.f (x) }} {MY} f (a) => (b) {{ b = Relu (a) }}"
        f"{MY} f (a) => (b) {{ b = Neg (a) }}",
        "defines the function 'my.f' twice",
        ModelError,
    ),
    "an operator that another opset changed": (
        f"{GRAPH} {{ y = my.f (x) }}"
        '<domain: "my", opset_import: ["" : 11]> f (a) => (b) { b = ReduceSum <axes=[0]> (a) }',
        "function 'my.f' uses 'ReduceSum' of opset 11, but the model has opset 21",
        UnsupportedError,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_in_one_line(case):
    text, message, kind = CASES[case]
    with pytest.raises(kind, match=message) as caught:
        import_model(model(text))
    assert "\n" not in str(caught.value)


def test_functions_that_double_again_and_again_are_refused():
    text = f"{GRAPH} {{ y = my.f0 (x) }}"
    for k in range(60):
        text += f"{MY} f{k} (a) => (b) {{ c = my.f{k + 1} (a) b = my.f{k + 1} (c) }}"
    text += f"{MY} f60 (a) => (b) {{ b = Relu (a) }}"
    with pytest.raises(ModelError, match="make more than 100000 nodes"):
        import_model(model(text))


def test_functions_that_call_too_deep_are_refused():
    text = f"{GRAPH} {{ y = my.f0 (x) }}"
    for k in range(300):
        text += f"{MY} f{k} (a) => (b) {{ b = my.f{k + 1} (a) }}"
    with pytest.raises(ModelError, match="functions call each other more than 200 deep"):
        import_model(model(text + f"{MY} f300 (a) => (b) {{ b = Relu (a) }}"))


def test_whole_number_inputs_pick_rows_and_know_their_bounds():
    for kind, dtype in ((TensorProto.INT32, "int32"), (TensorProto.INT64, "int64")):
        table = whole([5, 4])
        mod = build(
            [node("Gather", "table x", "rows"), node("Relu", "rows", "y")],
            {"x": [2, 3]}, ["y"], {"table": table}, kinds={"x": kind},
        )  # fmt: skip
        feed = {"x": np.array([[0, 4, -1], [3, -5, 2]], dtype)}
        imported = compare(mod, feed)
        assert imported.inputs[0].dtype == dtype
        assert imported.inputs[0].bounds == (0, 4)


def test_a_function_of_no_domain_does_not_hide_an_operator_of_onnx():
    """A function may be named like an operator; calls in its domain mean the function."""
    mod = model(
        f"{GRAPH} {{ t = Relu (x) y = my.Relu (t) }} {MY} Relu (a) => (b) {{ b = Neg (a) }}"
    )
    assert ops_of(compare(mod, FEED)) == ["relax.nn.relu", "relax.negative"]
    assert onnx.checker.check_model(mod) is None


def damage(mod, rng):
    """Change one thing in one function: names, operators, domains, references, versions."""
    function = mod.functions[rng.integers(len(mod.functions))]
    step = function.node[rng.integers(len(function.node))]
    names = [*function.input, *(n for k in function.node for n in (*k.input, *k.output)), "", "?"]
    attributes = [a for k in function.node for a in k.attribute]
    choice, name = rng.integers(10), str(rng.choice(names))
    if choice == 0 and step.input:
        step.input[rng.integers(len(step.input))] = name
    elif choice == 1 and step.output:
        step.output[0] = name
    elif choice == 2:
        step.op_type = str(rng.choice([*(f.name for f in mod.functions), "Relu", "Shape", ""]))
    elif choice == 3:
        step.domain = str(rng.choice(["", "my", "other", "ai.onnx", "tvm_qnn.fixed"]))
    elif choice == 4:
        function.name = str(rng.choice([*(f.name for f in mod.functions), ""]))
    elif choice == 5:
        function.domain = str(rng.choice(["", "my", "other", "tvm_qnn.fixed"]))
    elif choice == 6 and attributes:
        one = attributes[rng.integers(len(attributes))]
        one.ref_attr_name, one.type = str(rng.choice(["k", "s", ""])), int(rng.integers(15))
    elif choice == 7 and function.opset_import:
        function.opset_import[0].version = int(rng.choice([1, 7, 18, 21, 22, 99]))
    elif choice == 8:
        function.output[0] = name
    else:
        function.node.remove(step)


def test_damaged_functions_are_refused_in_one_line_or_harmless():
    whole_model = model(
        f"{GRAPH} {{ t = my.outer <k: float = 3.0> (x) y = other.inner (t) }}"
        f"{MY} outer <k> (a) => (c) {{ d = Constant <value = float {{2.0}}> ()"
        "  f = Constant <value_float: float = @k> () m = Mul (a, f) n = Mul (m, d)"
        "  c = other.inner <s: float = @k> (n) }"
        f"{OTHER} inner <s: float = 7.0> (t) => (z) {{"
        "  c = Constant <value_float: float = @s> () z = Add (t, c) }"
    )
    messages = []
    for seed in range(300):
        rng, damaged = np.random.default_rng(seed), onnx.ModelProto()
        damaged.CopyFrom(whole_model)
        for _ in range(rng.integers(1, 4)):
            if all(function.node for function in damaged.functions):
                damage(damaged, rng)
        try:
            import_model(damaged)
        except ModelError as error:
            messages.append(str(error))
    assert 50 < len(messages) < 290
    assert not [text for text in messages if "\n" in text]


def test_a_damaged_constant_under_our_name_is_none_of_ours():
    mod = one_function("FixedAdd", {"a": X, "b": X}, (X.dtype, X.shape), integer=2, fraction=5)
    mod.functions[0].node[0].attribute[0].t.raw_data = b"abc"
    with pytest.raises(ModelError) as caught:
        import_model(mod)
    assert "\n" not in str(caught.value)
