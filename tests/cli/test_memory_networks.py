"""The commands on memory networks: inputs that are words, or codes."""

import numpy as np
import pytest

from tests.nn.fixed_models import run_onnx
from tests.nn.memory_networks import random_network, random_questions
from tvm_qnn.nn.qmann.export import to_onnx, to_onnx_with_memory


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A model on disk, twelve questions beside it, and what ONNX Runtime answers."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("memory")
    net = random_network("hamming mq", rng)
    model = to_onnx(net, 5, 6, 4)
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    story, question = random_questions(rng, 12, 5)
    rows = [run_onnx(model, {"story": story[i : i + 1], "question": question[i : i + 1]})[0]
            for i in range(12)]  # fmt: skip
    np.savez(folder / "in.npz", story=story, question=question)
    np.savez(folder / "out.npz", logits=np.concatenate(rows))
    story[3, 2, 1] = 77
    np.savez(folder / "wild.npz", story=story, question=question)
    (folder / "given.onnx").write_bytes(to_onnx_with_memory(net, 5, 4).SerializeToString())
    return folder


def test_inspect(cli, network):
    code, out, err = cli("inspect", network / "net.onnx")
    assert (code, err) == (0, "")
    assert "Every operator that could be an integer operator is one." in out
    row = next(line for line in out.splitlines() if line.split()[:1] == ["score_2"])
    assert row.split()[1:4] == ["1x5", "8", "300"]


def test_compile_and_run_on_real_and_on_random_words(cli, network, tmp_path):
    assert cli("compile", network / "net.onnx", "-o", tmp_path / "net.q")[0] == 0
    code, out, err = cli("run", tmp_path / "net.q", "--repeat", "1")
    assert (code, err) == (0, "")
    assert "ran 1 batch of random numbers" in out
    arguments = ("-i", network / "in.npz", "-o", tmp_path / "got.npz", "--repeat", "1")
    assert cli("run", tmp_path / "net.q", *arguments)[0] == 0
    wanted = np.load(network / "out.npz")["logits"]
    assert (np.load(tmp_path / "got.npz")["logits"] == wanted).all()


def test_verify_with_random_and_with_real_words(cli, network):
    code, out, err = cli("verify", network / "net.onnx")
    assert (code, err) == (0, "")
    assert "differ" in out
    assert "DIFFERS" not in out
    code, out, _ = cli(
        "verify", network / "net.onnx", "-i", network / "in.npz", "--expect", network / "out.npz"
    )
    assert code == 0
    assert "logits: 100.00% of elements are equal" in out


def test_verify_with_random_codes(cli, network):
    code, out, err = cli("verify", network / "given.onnx")
    assert (code, err) == (0, "")
    assert "DIFFERS" not in out


@pytest.mark.parametrize("command", ["run", "verify"])
def test_words_of_another_dictionary_are_refused(cli, network, command):
    code, _, err = cli(command, network / "net.onnx", "-i", network / "wild.npz")
    assert code == 2
    assert "input 'story': 77 lies outside of 0..18, what the model gives a meaning to" in err
    assert len(err.strip().splitlines()) == 1
