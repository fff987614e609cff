"""Training of memory networks: it learns, resumes, stops early, and seeds never meet."""

import math
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs tvm-qnn[torch]")

import qmann_cases as cases

from tvm_qnn.errors import ModelError
from tvm_qnn.nn.qmann import babi, native
from tvm_qnn.nn.qmann import state as qmann_state
from tvm_qnn.nn.qmann.babi import Questions
from tvm_qnn.nn.qmann.config import MATRICES, QmannConfig, QmannRecipe
from tvm_qnn.nn.qmann.train import QmannEpoch, QmannRun, logits, score, torch_epoch, train, trained

ENGINES = [
    pytest.param(
        "native",
        marks=pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler"),
    ),
    "torch",
]
SHORT = QmannRecipe(epochs=3)


@pytest.fixture(scope="module")
def task():
    return babi.encode(1, "1k", cases.learnable(300), cases.learnable(100, seed=1))


def same(one, other):
    return all(one[name].tolist() == other[name].tolist() for name in MATRICES)


@pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", ["float", "dot", "hamming mq", "authors' code"])
def test_networks_learn(task, name):
    cfg = replace(cases.ALL[name], embedding=24)
    runs = train(cfg, QmannRecipe(epochs=30, batch=8), task, [0], engine="native")
    first, last = runs[0].epochs[0], runs[0].epochs[-1]
    assert first.error > 0.5
    assert min(row.error for row in runs[0].epochs) < 0.25
    assert last.loss < first.loss
    result = trained(cfg, SHORT, task, runs[0], best=True)
    assert result.record["test_error"] < 0.35


def test_pytorch_learns(task):
    run = train(cases.ALL["float"], QmannRecipe(epochs=12, batch=8), task, [0], engine="torch")[0]
    assert run.epochs[0].error > 0.5
    assert run.epochs[-1].error < 0.25


@pytest.mark.parametrize("name", ["float", "hamming mq", "dot binary"])
def test_seeds_in_company_equal_seeds_alone(task, name):
    cfg = cases.ALL[name]
    together = train(cfg, SHORT, task, [5, 0, 2])
    alone = train(cfg, SHORT, task, [0])[0]
    assert same(together[1].weights, alone.weights)
    assert together[1].epochs == alone.epochs
    assert not same(together[0].weights, together[2].weights)


def test_seeds_in_company_in_pytorch():
    """Batched products may round otherwise, but one network never sees another."""
    cfg, data = cases.ALL["hamming mq"], cases.questions(40)
    networks = [
        {name: array[0] for name, array in stacked.items()}
        for stacked in (cases_weights(cfg, seed) for seed in (1, 2))
    ]
    together = torch_epoch(cfg, SHORT, networks, data, 1)
    for network, (weights, loss, error) in zip(networks, together, strict=True):
        alone, alone_loss, alone_error = torch_epoch(cfg, SHORT, [network], data, 1)[0]
        assert loss == pytest.approx(alone_loss, abs=1e-5)
        assert error == alone_error
        for name in MATRICES:
            assert np.abs(weights[name] - alone[name]).max() < 1e-5


def cases_weights(cfg, seed):
    from tvm_qnn.nn.qmann.network import initial

    return initial(cfg, cases.VOCABULARY, [seed], 0.3)


@pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler")
@pytest.mark.parametrize("name", ["float", "dot mq", "hamming", "hamming binary mq"])
def test_kernel_and_pytorch_take_the_same_steps(name):
    """Clips, rates, a rest of 8 questions; small steps, so that no code tips over."""
    cfg, data = cases.ALL[name], cases.questions(40)
    recipe = QmannRecipe(rate=1e-4, key_rate=0.5, clip=3.0, key_clip=0.5)
    start = {key: array[0] for key, array in cases_weights(cfg, 3).items()}
    fast, loss, error = native.train_epoch(cfg, recipe, start, data, 1)
    slow, slow_loss, slow_error = torch_epoch(cfg, recipe, [start], data, 1)[0]
    assert loss == pytest.approx(slow_loss, rel=1e-5)
    assert error == slow_error
    for key in MATRICES:
        moved = np.abs(slow[key] - start[key]).max()
        assert moved > 0
        assert np.abs(fast[key] - slow[key]).max() < 0.01 * moved + 1e-7


def test_the_null_word_stays_zero(task):
    run = train(cases.ALL["hamming"], SHORT, task, [0])[0]
    for name in ("wa", "wr", "wq"):
        assert not run.weights[name][0].any()
        assert run.weights[name][1].any()


def test_a_resumed_run_equals_an_uninterrupted_one(task, tmp_path):
    cfg, recipe = cases.ALL["hamming mq"], QmannRecipe(epochs=6)
    whole = train(cfg, recipe, task, [0, 1])
    state = tmp_path / "run" / "state.npz"

    def interrupt(epoch, runs):
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cfg, recipe, task, [0, 1], state=state, every=3, report=interrupt)
    resumed = train(cfg, recipe, task, [0, 1], state=state, resume=True, every=3)
    for before, after in zip(whole, resumed, strict=True):
        assert before.epochs == after.epochs
        assert same(before.weights, after.weights)
        assert same(before.best, after.best)
        assert (before.best_epoch, before.stopped) == (after.best_epoch, after.stopped)


def test_checkpoints_of_other_runs_are_refused(task, tmp_path):
    cfg, state = cases.ALL["hamming"], tmp_path / "state.npz"
    train(cfg, SHORT, task, [0], state=state)
    with pytest.raises(ModelError, match="already there"):
        train(cfg, SHORT, task, [0], state=state)
    with pytest.raises(ModelError, match="was trained with config"):
        train(cases.ALL["dot"], SHORT, task, [0], state=state, resume=True)
    with pytest.raises(ModelError, match="was trained with seeds"):
        train(cfg, SHORT, task, [1], state=state, resume=True)
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(ModelError, match="damaged") as caught:
        train(cfg, SHORT, task, [0], state=state, resume=True)
    assert "\n" not in str(caught.value)


def run_of(*rows):
    run = QmannRun(0, {}, {})
    for epoch, (error, loss) in enumerate(rows, start=1):
        run.weights = {"epoch": epoch}
        run.add(QmannEpoch(epoch, 0.0, 0.0, loss, error), QmannRecipe())
    return run


def test_early_stopping_wants_both_error_and_loss_lowest():
    run = run_of((0.5, 1.0), (0.4, 1.1), (0.6, 0.9), (0.5, 1.0), (0.4, 0.8))
    assert (run.best_epoch, run.best["epoch"], run.stopped) == (5, 5, 0)


def test_early_stopping_ends_what_fell_far_behind_for_more_than_5_epochs():
    behind = (0.45, 2.0)
    assert run_of((0.1, 1.0), *[behind] * 5).stopped == 0
    assert run_of((0.1, 1.0), *[behind] * 6).stopped == 7
    assert run_of((0.1, 1.0), *[(0.39, 2.0)] * 20).stopped == 0
    # What comes after the end does not count.
    assert run_of((0.1, 1.0), *[behind] * 6, (0.0, 0.1)).best_epoch == 1


def test_a_loss_that_is_no_number_is_not_the_best():
    assert run_of((0.9, math.nan), (0.9, math.nan), (0.8, 1.0), (0.8, math.nan)).best_epoch == 3


def test_early_stopping_ends_one_seed_and_leaves_the_others(task):
    recipe = QmannRecipe(epochs=5, patience=0, margin=-1.0)
    # With this margin a seed ends as soon as an epoch is not the best one.
    runs = train(cases.ALL["dot"], recipe, task, [0, 1, 2], stop=True)
    assert all(len(run.epochs) == (run.stopped or 5) for run in runs)
    assert len({len(run.epochs) for run in runs}) > 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["float", "dot mq", "hamming", "authors' code"])
def test_weights_that_diverged_are_recorded_not_fatal(task, name, engine):
    """Infinite steps: errors are numbers all the same, and nothing crashes."""
    recipe = QmannRecipe(epochs=2, rate=1e30)
    run = train(cases.ALL[name], recipe, task, [0], engine=engine)[0]
    assert len(run.epochs) == 2
    assert all(0 <= row.error <= 1 and 0 <= row.validation_error <= 1 for row in run.epochs)


def test_rates_halve():
    steps = [QmannRecipe().step(epoch) * 32 for epoch in (1, 25, 26, 50, 51, 100)]
    assert steps == pytest.approx([0.3, 0.3, 0.15, 0.15, 0.075, 0.0375])


def test_score():
    loss, error = score(np.float32([[1, 1], [0, 5], [2, 0]]), np.array([0, 0, 0]))
    expected = (math.log(2) + math.log(1 + math.exp(5)) + math.log(1 + math.exp(-2))) / 3
    assert loss == pytest.approx(expected)
    assert error == pytest.approx(1 / 3)


def test_without_a_compiler_pytorch_trains(task, monkeypatch):
    cfg = cases.ALL["hamming"]
    fast = train(cfg, SHORT, task, [0])[0]
    with monkeypatch.context() as nothing_found:
        nothing_found.setattr(native.shutil, "which", lambda name: None)
        native.kernel.cache_clear()
        assert not native.supported(cfg)
        with pytest.raises(ValueError, match="needs a C compiler"):
            native.infer(cfg, fast.weights, task.test)
        slow = train(cfg, SHORT, task, [0])[0]
        answers = logits(cfg, [fast.weights], task.test)
    native.kernel.cache_clear()
    assert slow.epochs[0].loss == pytest.approx(fast.epochs[0].loss, rel=1e-3)
    assert answers.tolist() == logits(cfg, [fast.weights], task.test).tolist()


@pytest.mark.skipif(native.kernel(32) is None, reason="needs a C compiler")
def test_kernel_refuses_what_it_would_read_beyond(task):
    cfg = cases.ALL["dot"]
    weights = {key: array[0] for key, array in cases_weights(cfg, 0).items()}
    data = cases.questions(3)
    wrong = Questions(data.story + 20, data.question, data.answer)
    with pytest.raises(ValueError, match="word indices"):
        native.infer(cfg, weights, wrong)
    with pytest.raises(ValueError, match="answers"):
        native.infer(cfg, weights, Questions(data.story, data.question, data.answer - 30))
    with pytest.raises(ValueError, match="contiguous int32"):
        native.infer(cfg, weights, Questions(data.story[:, ::-1], data.question, data.answer))


@pytest.mark.parametrize("cfg", [QmannConfig(), cases.ALL["hamming binary mq"]])
def test_trained_networks_survive_their_file(task, tmp_path, cfg):
    run = train(cfg, SHORT, task, [4])[0]
    result = trained(cfg, SHORT, task, run, best=False)
    qmann_state.save_trained(tmp_path / "net.npz", result)
    found = qmann_state.load_trained(tmp_path / "net.npz")
    assert found.config == cfg
    assert same(found.weights, run.weights)
    assert found.record == result.record
    assert found.record["dictionary"] == list(task.dictionary)
    assert (found.record["epoch"], found.record["seed"]) == (3, 4)


def test_files_that_are_no_trained_network(task, tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        qmann_state.load_trained(tmp_path / "net.npz")
    (tmp_path / "net.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match="damaged"):
        qmann_state.load_trained(tmp_path / "net.npz")
    state = tmp_path / "state.npz"
    train(cases.ALL["dot"], SHORT, task, [0], state=state)
    with pytest.raises(ModelError, match="no trained memory network"):
        qmann_state.load_trained(state)
