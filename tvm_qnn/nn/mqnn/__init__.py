"""MQNN: M-ary codebooks of free values, trained with the weights; layers, network, export."""

from tvm_qnn.nn.mqnn.layers import Mary, MaryConv2d, MaryLinear

__all__ = ["Mary", "MaryConv2d", "MaryLinear"]
