"""What works after ``pip install tvm-qnn`` without extras."""

import subprocess
import sys

import pytest

EXTRAS = ("cloudpickle", "matplotlib", "onnxruntime", "tornado", "torch", "xgboost", "ziglang")
CODE = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
from tvm_qnn.cli import main
sys.argv = ["tvm-qnn", *sys.argv[1:]]
main()
"""


def plain(*arguments):
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("compare", "{model}", "--limit", "0"), "measured here"),
        (("diff", "{model}", "--targets", "host,host"), "equal: "),
        (("device", "list", "--help"), "tracker"),
        (("database", "show", "{database}"), "qconv2d"),
    ],
)
def test_commands_need_no_extras(arguments, words, tiny, tmp_path):
    from tests.tune.test_records import record
    from tvm_qnn.schedules.database import Database, save

    save(Database([record()]), tmp_path)
    done = plain(*(a.format(model=tiny.path, database=tmp_path) for a in arguments))
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("tune", "{model}"), 2, "pip install 'tvm-qnn[tune]'"),
        (("doctor",), 1, "pip install 'tvm-qnn[tune]'"),
        (("device", "tracker", "--port", "9999"), 2, "pip install 'tvm-qnn[tune]'"),
        (("compare", "{model}", "--report", "{folder}"), 2, "pip install 'tvm-qnn[plot]'"),
        (("compare", "{model}", "--baseline", "onnxruntime"), 2, "pip install 'tvm-qnn[onnx]'"),
    ],
)
def test_what_needs_an_extra_names_it(arguments, code, words, tiny, tmp_path):
    given = (a.format(model=tiny.path, folder=tmp_path / "report") for a in arguments)
    done = plain(*given)
    assert done.returncode == code, done.stderr
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
