"""Exact integer compilation of low-bit neural networks with Apache TVM."""

from tvm_qnn._version import __version__

__all__ = ["__version__"]
