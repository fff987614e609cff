"""Layers, networks, training and ONNX export in PyTorch; needs ``tvm-qnn[torch]``."""
