import pytest

from tests import small_models
from tvm_qnn import targets
from tvm_qnn.artifact import write_artifact


@pytest.fixture(scope="session")
def host_dense():
    """Executable of ``small_models.dense`` for this machine."""
    return small_models.dense(targets.host())


@pytest.fixture
def artifact(host_dense, tmp_path):
    """A fresh artifact of ``small_models.dense`` for this machine."""
    return write_artifact(
        host_dense, small_models.DENSE_FIELDS, tmp_path / "dense.q", targets.host()
    )
