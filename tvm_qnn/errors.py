"""Errors that users cause: one clear line that says what, where, why and what to do.

Every error that leaves the public API or the command line is a :class:`QnnError`. The command line
prints its one line and exits with code 2; a traceback therefore always means a bug.
"""

from __future__ import annotations


class QnnError(Exception):
    """Base of all errors of this package; ``str(error)`` is one line."""


class ModelError(QnnError):
    """The model file is missing, damaged, invalid, or uses something that cannot be imported."""


class UnsupportedError(ModelError):
    """The model is valid, but holds operators or shapes that cannot be imported."""


class TargetError(QnnError):
    """The target is unknown, or a tool that it needs (a linker, say) is missing."""


class ArtifactError(QnnError):
    """The artifact is missing, damaged, or made for another machine or version."""


class InputError(QnnError):
    """An input array has the wrong name, dtype, shape or values."""


class VerifyError(QnnError):
    """The module is not legal after a phase of the pipeline (a bug in a pass, not in the model)."""
