"""Models of single fixed-point functions, and whole memory networks with random weights."""

import numpy as np
import onnxruntime
from onnx import ModelProto, helper

from tvm_qnn.frontend.fixed_functions import DOMAIN, OPSET, VERSION, functions


def one_function(op, inputs, output, **attributes) -> ModelProto:
    """Return a model of one node of our domain.

    Args:
        op: name of the function.
        inputs: arrays by name; they give types and shapes.
        output: (dtype, shape) of the result ``y``.
        attributes: of the node.
    """
    info = helper.make_tensor_value_info
    kind = helper.np_dtype_to_tensor_dtype
    graph = helper.make_graph(
        [helper.make_node(op, list(inputs), ["y"], name=op, domain=DOMAIN, **attributes)],
        "one",
        [info(name, kind(a.dtype), a.shape) for name, a in inputs.items()],
        [info("y", kind(np.dtype(output[0])), output[1])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(
        graph, opset_imports=opsets, functions=[functions()[op]], ir_version=10
    )


def run_onnx(model, feed):
    """Return the outputs of ONNX Runtime in order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, feed)


def codes(fmt, rng, shape):
    """Random codes with the extreme ones among them."""
    picked = rng.integers(-fmt.limit, fmt.limit + 1, shape)
    extreme = rng.choice([-fmt.limit, 0, fmt.limit], shape)
    return np.where(rng.random(shape) < 0.2, extreme, picked).astype(fmt.dtype)
