"""Compare a model across targets, kernels and devices: every figure with how it was found."""

from __future__ import annotations

from tvm_qnn.compare.differ import Difference, diff
from tvm_qnn.compare.files import ReportError, read_report, write_report
from tvm_qnn.compare.page import write_page
from tvm_qnn.compare.rows import Report, Run, Variant
from tvm_qnn.compare.session import compare

__all__ = [
    "Difference",
    "Report",
    "ReportError",
    "Run",
    "Variant",
    "compare",
    "diff",
    "read_report",
    "write_page",
    "write_report",
]
