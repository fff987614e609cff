import subprocess
import sys

import pytest

from tvm_qnn import targets
from tvm_qnn.errors import TargetError
from tvm_qnn.targets.host import detect
from tvm_qnn.targets.instructions import FEATURE_FLAGS, flag_of_feature, required_flags
from tvm_qnn.targets.record import Rates, Target

ZEN5 = frozenset(flag_of_feature("x86_64").values()) - {
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"
}  # fmt: skip


def test_importing_the_records_loads_neither_tvm_nor_its_runtime(tmp_path):
    code = (
        "import sys; from tvm_qnn import targets; targets.get('rpi4'); targets.names();"
        "print(sorted({'tvm', 'tvm_ffi', 'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "[]"


def test_every_name_gives_its_record_and_names_are_unique():
    assert len(set(targets.names())) == len(targets.names())
    for target in targets.all_targets():
        assert targets.get(target.name) is target
    assert targets.get("host").name == "host"


def test_an_unknown_name_lists_the_known_ones_in_one_line():
    with pytest.raises(TargetError) as caught:
        targets.get("rpi6")
    message = str(caught.value)
    assert "'rpi6'" in message
    assert all(name in message for name in targets.names())
    assert "\n" not in message


@pytest.mark.parametrize("target", targets.all_targets(), ids=lambda t: t.name)
def test_llvm_knows_the_processor_and_gives_it_what_the_record_claims(target):
    flags = required_flags(target)
    for feature in target.features:
        assert FEATURE_FLAGS[feature] <= flags
    others = set(FEATURE_FLAGS) - target.features
    assert not [name for name in others if FEATURE_FLAGS[name] <= flags]


def test_a_misspelt_processor_is_an_error_not_generic_code():
    target = Target(
        "x", "", "aarch64-linux-gnu", "cortex-a722", "aarch64", frozenset(), Rates(1, 1, 1, "")
    )
    with pytest.raises(TargetError, match="cortex-a722"):
        target.tvm()


def test_the_host_can_run_its_own_code():
    host = targets.host()
    assert targets.reachable(host).startswith("native")
    for feature in host.features:
        assert FEATURE_FLAGS[feature] <= required_flags(host)


def test_a_machine_with_everything_gets_every_kernel():
    host = detect("x86_64", "znver5", ZEN5, 2)
    assert (host.cpu, host.cores, host.attributes) == ("znver5", 2, ())
    assert host.features == {"avx2", "avx512", "vnni", "vpopcntdq"}
    assert host.vector_bytes == 64


def test_what_a_virtual_machine_hides_is_neither_claimed_nor_compiled_for():
    hidden = frozenset(flag for flag in ZEN5 if "avx512" in flag)
    host = detect("x86_64", "znver5", ZEN5 - hidden, 2)
    assert host.features == {"avx2"}
    assert "-avx512f" in host.attributes
    assert required_flags(host) == ZEN5 - hidden


@pytest.mark.parametrize(
    ("arch", "cpu", "flags", "baseline", "features", "reason"),
    [
        ("x86_64", "znver99", ZEN5, "x86-64", set(), "znver99"),
        ("x86_64", "znver5", None, "x86-64", set(), "does not report"),
        ("aarch64", "generic", frozenset({"asimd", "asimddp"}), "generic", {"neon"}, "generic"),
    ],
)
def test_an_unknown_machine_is_the_baseline_and_says_why(
    arch, cpu, flags, baseline, features, reason
):
    host = detect(arch, cpu, flags, 4)
    assert (host.cpu, host.features) == (baseline, features)
    assert reason in host.description
    host.tvm()


def test_reachable_without_an_emulator_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    other = next(t for t in targets.all_targets() if t.arch != targets.host().arch)
    line = targets.reachable(other)
    assert line.startswith("unreachable")
    assert "qemu-user" in line
