"""``tvm-qnn doctor`` on this machine: what is well, what is missing, and what to do about it."""

import pytest

from tvm_qnn.estimate import blocks, programs


def test_this_machine_is_well(cli):
    code, out, err = cli("doctor")
    assert (code, err) == (0, "")
    for name in ("packages", "tuner: xgboost", "linker", "processor", "kernel round trip: works"):
        assert f"ok {name}" in out


def test_processor_of_another_kind_is_no_matter_for_a_board(cli):
    code, out, _ = cli("doctor", "-t", "rpi4")
    assert code == 0
    assert "ok linker: " in out
    assert "for aarch64-linux-gnu" in out
    assert "processor" not in out


def test_estimate_needs_its_tools(cli, monkeypatch):
    if programs.missing() or blocks.Tools.find() is None:
        pytest.skip("qemu-user or llvm-mca is not installed")
    assert (
        "ok --device estimate: qemu-aarch64, llvm-mca"
        in cli("doctor", "-t", "rpi4", "--device", "estimate")[1]
    )
    monkeypatch.setenv("PATH", "/nowhere")
    code, out, _ = cli("doctor", "-t", "rpi4", "--device", "estimate")
    assert code == 1
    assert "!! --device estimate: qemu-aarch64" in out
    assert "apt-get install qemu-user llvm" in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "estimate"], 1, "no model of host"),
        (["--device", "rpc://127.0.0.1:1/rpi4"], 1, "tracker: none answers at 127.0.0.1:1"),
        (["--device", "phone"], 2, "write rpc://HOST:PORT/KEY"),
        (["-t", "z80"], 2, "unknown target 'z80'"),
    ],
)
def test_what_is_wrong_is_named(cli, arguments, code, words):
    left, out, err = cli("doctor", *arguments)
    assert left == code
    assert words in out + err
