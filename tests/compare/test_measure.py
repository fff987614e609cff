"""Rounds are interleaved and end when they should; sums over them are exact."""

import itertools

import numpy as np

from tvm_qnn.compare.measure import FEWEST, MOST, LostError, cost, in_rounds, ratio, stable
from tvm_qnn.compare.rows import HERE


def recorder(log, name, seconds):
    times = iter(seconds)

    def run(count):
        log.append((name, count))
        return next(times)

    return run


def test_everything_has_its_turn_in_every_round():
    log = []
    runners = {name: recorder(log, name, itertools.repeat(t)) for name, t in (("a", 1), ("b", 2))}
    found = in_rounds(runners, limit=1000)
    assert {name: list(times) for name, times in found.items()} == {
        "a": [1] * FEWEST, "b": [2] * FEWEST,
    }  # fmt: skip
    assert [name for name, _ in log] == ["a", "b"] * (FEWEST + 1)


def test_quick_programs_run_more_often_in_a_turn():
    log = []
    in_rounds({"quick": recorder(log, "quick", itertools.repeat(1e-3))}, limit=1000, turn=0.05)
    assert log == [("quick", 1), *[("quick", 50)] * FEWEST]


def test_what_is_lost_does_not_hold_up_the_others():
    def gone(count):
        raise LostError("gone")

    runners = {"kept": recorder([], "kept", itertools.repeat(1)), "gone": gone}
    assert {name: list(times) for name, times in in_rounds(runners, limit=0).items()} == {
        "kept": [1] * FEWEST
    }


def test_rounds_go_on_while_a_median_moves():
    swinging = itertools.cycle([1.0, 2.0])
    times = in_rounds({"swinging": recorder([], "swinging", swinging)}, limit=1000)["swinging"]
    assert len(times) == MOST


def test_the_limit_ends_unstable_rounds_after_a_few():
    swinging = itertools.cycle([1.0, 2.0])
    times = in_rounds({"swinging": recorder([], "swinging", swinging)}, limit=0)["swinging"]
    assert len(times) == FEWEST


def test_a_noisy_result_says_so():
    quiet = cost(HERE, np.full(10, 2.0))
    assert (quiet.median, quiet.p10, quiet.p90, quiet.rounds, quiet.noise) == (2, 2, 2, 10, "")
    noisy = cost(HERE, np.array([1.0, 1.0, 1.5, 2.0, 2.0]))
    assert noisy.median == 1.5
    assert noisy.noise == "noisy: p90 is 2.00 times p10; not stable after 5 rounds"


def test_a_few_disturbed_rounds_leave_a_median_stable():
    assert stable([1.0] * 9 + [50.0])
    assert not stable([1.0, 1.0, 1.2, 1.2])


def test_ratios_are_taken_round_by_round():
    ours, base = np.array([1.0, 2.0, 4.0]), np.array([3.0, 6.0, 12.0])
    found = ratio("peer", ours, base)
    assert (found.against, found.p10, found.median, found.p90) == ("peer", 3, 3, 3)
