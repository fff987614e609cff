"""Our fixed-point functions become operators of the dialect, by what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.nn.fixed_models import one_function
from tests.nn.memory_networks import (
    VARIANTS,
    defined,
    memories,
    random_network,
    random_questions,
)
from tvm_qnn import spec
from tvm_qnn.errors import ModelError, UnsupportedError
from tvm_qnn.evaluate import evaluate
from tvm_qnn.frontend import import_model
from tvm_qnn.frontend.fixed_functions import DOMAIN
from tvm_qnn.nn.qmann.export import to_onnx, to_onnx_with_memory
from tvm_qnn.passes.pipeline import to_integers
from tvm_qnn.passes.rewrite import calls


def network(variant="hamming mq", slots=5, batch=1):
    return to_onnx(random_network(variant, np.random.default_rng(1)), slots, 6, 4, batch)


def operators(mod):
    return [call.op.name for _, call in calls(mod)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_become_integer_programs(variant):
    """The import, and the module behind all target independent passes, are the definition."""
    rng = np.random.default_rng(len(variant))
    net = random_network(variant, rng)
    story, question = random_questions(rng, 3, 5)
    keys, logits = defined(net, memories(net, story), spec.fixed_valid(story), question)
    imported = import_model(to_onnx(net, 5, 6, 4, 3))
    program = to_integers(imported.module)
    assert imported.notes == program.refusals == ()
    for mod in (imported.module, program.module):
        assert all(name.startswith("qnn.fixed_") for name in operators(mod))
        found = evaluate(mod, {"story": story, "question": question})
        assert (found["key_3"] == keys[3]).all()
        assert (found[""][0] == logits).all()


def test_what_follows_the_logits_is_named():
    model = network("hamming")
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["p"], name="p"))
    model.graph.output[0].name = "p"
    refusals = to_integers(import_model(model).module).refusals
    assert [(r.node, r.reason) for r in refusals] == [
        ("p", "nn.softmax makes a real-valued output of the network")
    ]


def test_inputs_are_bounded_by_the_vocabulary_and_by_the_format():
    story, question = import_model(network()).inputs
    assert (story.dtype, story.bounds, question.bounds) == ("int32", (0, 18), (0, 18))
    net = random_network("5 bits", np.random.default_rng(1))
    inputs = {i.name: i for i in import_model(to_onnx_with_memory(net, 7, 4)).inputs}
    assert inputs["memory_a_1"].bounds == inputs["memory_r_3"].bounds == (-15, 15)
    assert inputs["used"].bounds is None


def test_bodies_are_compared_by_what_they_compute():
    """Other names of values, comments, and another storage of constants change nothing."""
    model = network()
    for function in model.functions:
        function.doc_string = "from somewhere else"
        for item in function.node:
            item.name, item.doc_string = f"n_{item.output[0]}", "a comment"
            item.input[:] = [f"v_{n}" for n in item.input]
            item.output[:] = [f"v_{n}" for n in item.output]
            for attribute in item.attribute:
                if attribute.HasField("t"):
                    array = numpy_helper.to_array(attribute.t)
                    attribute.t.CopyFrom(numpy_helper.from_array(array, "t"))
        function.input[:] = [f"v_{n}" for n in function.input]
        function.output[:] = [f"v_{n}" for n in function.output]
    onnx.checker.check_model(model)
    imported = import_model(model)
    assert imported.notes == ()
    assert operators(imported.module) == operators(import_model(network()).module)


def changed_body(model):
    function = next(f for f in model.functions if f.name == "FixedAdd")
    next(n for n in function.node if n.op_type == "Clip").op_type = "Max"


def test_another_body_under_our_name_is_inlined_and_named():
    model = network()
    changed_body(model)
    with pytest.raises(UnsupportedError) as caught:
        import_model(model)
    text = str(caught.value)
    assert "operator BitShift is not supported (3 nodes: " in text
    assert "function 'tvm_qnn.fixed.FixedAdd' is inlined (3 calls): it is not the one of" in text


def test_another_version_of_the_domain_is_not_ours():
    model = network()
    next(o for o in model.opset_import if o.domain == DOMAIN).version = 2
    with pytest.raises(UnsupportedError, match=r"'tvm_qnn.fixed.FixedBag' is inlined"):
        import_model(model)


def test_an_inlined_function_may_call_ours():
    model = network("hamming")
    last = model.graph.node[-1]
    call = helper.make_node("FixedOutput", ["w", "k"], ["y"], domain=DOMAIN)
    for name in ("integer", "fraction"):
        call.attribute.append(onnx.AttributeProto(
            name=name, type=onnx.AttributeProto.INT, ref_attr_name=name
        ))  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model.functions.append(
        helper.make_function(
            "user", "Answer", ["w", "k"], ["y"], [call], opsets, ["integer", "fraction"]
        )
    )
    model.opset_import.append(helper.make_opsetid("user", 1))
    last.op_type, last.domain = "Answer", "user"
    imported = import_model(model)
    assert imported.notes == ("function 'user.Answer' is inlined (1 call)",)
    assert operators(imported.module)[-1] == "qnn.fixed_output"


def test_calls_without_the_functions_are_refused_by_name():
    model = network()
    del model.functions[:]
    with pytest.raises(UnsupportedError, match=r"operator tvm_qnn.fixed.FixedBag is not supported"):
        import_model(model)


X, W = np.zeros((2, 3), np.int8), np.zeros((4, 3), np.int8)
Q2_5 = {"integer": 2, "fraction": 5}
BAD = {
    "no format": ("FixedAdd", {"a": X, "b": X}, {"integer": 2}, "'fraction'. is missing"),
    "an attribute too many": (
        "FixedAdd", {"a": X, "b": X}, {**Q2_5, "alpha": 3}, "attribute .'alpha'. is missing or not",
    ),
    "a text": (
        "FixedAdd", {"a": X, "b": X}, {**Q2_5, "fraction": "5"}, "fraction must be an integer",
    ),
    "an impossible format": (
        "FixedAdd", {"a": X, "b": X}, {"integer": -2, "fraction": 5}, "no fixed-point format Q-2.5",
    ),
    "another storage": (
        "FixedConvert", {"x": X}, {**Q2_5, "src_integer": 1, "src_fraction": 6, "to": 5},
        "to = 5: Q2.5 is stored as int8",
    ),
    "shapes that do not fit": (
        "FixedDense", {"weights": W, "key": W[:, :2]}, {**Q2_5, "binary": 0},
        "columns of the keys and of the weights: .2. and .3. do not fit",
    ),
    "a wider format": (
        "FixedAdd", {"a": X, "b": X}, {"integer": 5, "fraction": 7}, "codes of dtype int8 where",
    ),
    "a large alpha": (
        "HammingSimilarity", {"memory": np.zeros((1, 2, 3), np.int8), "key": X[:1]},
        {**Q2_5, "alpha": 9}, "alpha 9 with Q2.5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_impossible_calls_are_refused_in_one_line(case):
    op, inputs, attributes, message = BAD[case]
    with pytest.raises(ModelError, match=message) as caught:
        import_model(one_function(op, inputs, (np.int8, (2, 3)), **attributes))
    assert f"node '{op}' ({DOMAIN}.{op}): " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_beyond_their_format_are_refused():
    model = network("hamming")
    table = next(t for t in model.graph.initializer if t.name == "w_a")
    codes = numpy_helper.to_array(table).copy()
    codes[3, 4] = -128
    table.CopyFrom(numpy_helper.from_array(codes, "w_a"))
    with pytest.raises(ModelError, match=r"'w_a' holds integers outside of \[-127..127\]"):
        import_model(model)
