"""The whole path of a board: TVM's server on an emulated Pi 4, tuned over RPC, verified."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tvm

import tvm_qnn
from tests.tune.servers import HOST, boards_of, free_port, wait_for
from tvm_qnn import targets
from tvm_qnn.emulation import default_folder
from tvm_qnn.targets.device_library import runtime_library
from tvm_qnn.tuning import tune
from tvm_qnn.verification import verify

pytestmark = [pytest.mark.emulated, pytest.mark.xdist_group("fleet")]
SERVE = "from tvm_qnn.fleet import serve; serve('{tracker}', 'rpi4', {port})"


@pytest.fixture
def board(tracker, tmp_path):
    """An emulated Pi 4 with the Python of its system, TVM's runtime and this package."""
    packages = tmp_path / "packages"
    binaries = shutil.ignore_patterns("*.so*", "__pycache__", "include", "src")
    shutil.copytree(Path(tvm.__file__).parent, packages / "tvm", ignore=binaries)
    (packages / "tvm/lib").mkdir(exist_ok=True)
    (packages / "tvm/lib/libtvm_runtime.so").symlink_to(runtime_library("aarch64")[0])
    (packages / "tvm_qnn").symlink_to(Path(tvm_qnn.__file__).parent)
    root = default_folder() / "root"
    python = next((root / "usr/bin").glob("python3.*"))
    code = SERVE.format(tracker=f"{HOST}:{tracker}", port=free_port())
    server = subprocess.Popen(
        ["qemu-aarch64", "-cpu", targets.get("rpi4").qemu_cpu, "-L", root, python, "-c", code],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONHOME": str(root / "usr"),
            "PYTHONPATH": f"{root / 'site'}:{packages}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        cwd=tmp_path,
    )
    wait_for(lambda: boards_of(tracker, "rpi4") == 1)
    yield tracker
    server.terminate()
    server.wait(timeout=20)


def test_network_is_tuned_on_a_board_and_stays_exact(network, board, tmp_path):
    folder = tmp_path / "database"
    device = f"rpc://{HOST}:{board}/rpi4"
    outcome = tune(network, "rpi4", folder, device=device, trials=12)
    assert sum(tuning.failed for tuning in outcome.tunings) == 0
    assert {record.device for record in outcome.records} == {"rpi4 over RPC"}
    assert {record.target for record in outcome.records} == {"aarch64-cortex-a72"}
    rows = tvm_qnn.inspect(network, "rpi4", database=folder).rows
    assert all(row.gain >= 1 for row in rows if row.operator == "conv2d")
    assert verify(network, target="rpi4", database=folder).first_wrong is None
