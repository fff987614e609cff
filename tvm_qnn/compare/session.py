"""A session: compile every variant, time all that runs in the same rounds, model the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tvm_qnn import targets as known_targets
from tvm_qnn.compare import answers, emulate, operators, places
from tvm_qnn.compare.built import Built, build
from tvm_qnn.compare.measure import LostError, Progress, Runner, cost, in_rounds, ratio
from tvm_qnn.compare.memory import peak_bytes
from tvm_qnn.compare.models import PEER, Model, onnx_file, read_model
from tvm_qnn.compare.rows import (
    EMULATED,
    ESTIMATED,
    HERE,
    REMOTE,
    TABLE,
    Cost,
    Machine,
    Operator,
    Report,
    Run,
    Variant,
)
from tvm_qnn.compiler import records, resolve
from tvm_qnn.errors import InputError, TargetError
from tvm_qnn.schedules.database import Database
from tvm_qnn.targets import Target

Array = NDArray[Any]
LONGEST = 5.0
"""Seconds of timing the kernels of one variant."""


@dataclass
class Entry:
    """A variant on its way: what it is, what runs it, what is known."""

    variant: Variant
    model: Model
    built: Built | None = None
    place: places.Place | None = None
    run: Runner | None = None

    @property
    def beside(self) -> tuple[str, str]:
        """What has the same value for variants whose times may be divided."""
        remote = self.place is not None and self.place.kind == REMOTE
        return self.variant.model, self.variant.machine if remote else places.THIS

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Give a board up that does not answer any more, with all that it told."""
        try:
            with self.place.guarded() if self.place is not None else nullcontext():
                yield
        except LostError as error:
            self.give_up(error)
            raise

    def give_up(self, why: LostError) -> None:
        """Model what could not be measured."""
        self.place = self.run = None
        self.variant = replace(
            self.variant, machine="", latency=None, ratio=None, check=None, parts=str(why)
        )


def compare(
    models: Sequence[Any], targets: Sequence[str | Target] = ("host",), *,
    lowerings: Sequence[str] = ("auto",), baseline: str | None = None,
    devices: Mapping[str, str] | None = None, database: str | Path | Database | None = None,
    threads: int = 1, limit: float = 30.0, inputs: str | Path | None = None,
    labels: str | Path | None = None, batch: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Report:  # fmt: skip
    """Compare models across targets and kernels.

    What runs on this machine, or on a board of ``devices``, is timed in interleaved rounds. For
    other boards the cycles are estimated, or taken from the cost table where the tools for that are
    missing. Every figure bears its kind.

    Args:
        models: each as for :func:`tvm_qnn.compile`.
        targets: names or records.
        lowerings: each as for :func:`tvm_qnn.compile`.
        baseline: ``onnxruntime`` to run the same ONNX files beside, or None.
        devices: for targets that are not this machine, ``rpc://HOST:PORT/KEY`` of a tracker.
        database: records of tuned kernels, as for :func:`tvm_qnn.compile`.
        threads: of a kernel.
        limit: seconds of interleaved rounds, unless the medians are stable before.
        inputs: .npz file with inputs of the one model; samples of the zoo or random ones if None.
        labels: .npy or .npz file with the right class for each of ``inputs``.
        batch: batch size where a model leaves it open.
        progress: called with what is being done, how much is done and how much there is.

    Raises:
        QnnError: with one clear line, for anything that the caller can do something about.
    """
    devices = dict(devices or {})
    records_, found = records(database), [resolve(target) for target in targets]
    _check(models, [t.name for t in found], baseline, devices, inputs, labels)
    where = {target.name: _place(target, devices, threads) for target in found}
    ready = [read_model(source, batch, inputs) for source in models]
    jobs = [(m, t, low) for m in ready for t in found for low in lowerings]
    entries: list[Entry] = []
    for done, (model, target, lowering) in enumerate(jobs):
        progress(f"compiling {model.name} for {target.name}", done, len(jobs))
        entries.append(_entry(model, target, lowering, where[target.name], records_))
    if baseline:
        entries += [_peer(model, threads) for model in ready]
    start = time.monotonic()
    _time(entries, limit, progress)
    seconds = time.monotonic() - start
    machines = _machines(entries, where, progress)
    timed = sum(entry.run is not None for entry in entries)
    for done, entry in enumerate(entries):
        if entry.built is not None:
            progress(f"kernels of {entry.variant.label}", done, len(entries))
            share = min(LONGEST, limit / 2 / max(timed, 1))
            _kernels(entry, machines, threads, share)
    answers.add_accuracy(entries, inputs, labels)
    order = {id(model): number for number, model in enumerate(ready)}
    entries.sort(key=lambda entry: order[id(entry.model)])
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    variants = tuple(entry.variant for entry in entries)
    return Report((Run(when, threads, round(seconds, 1), machines, variants),))


def _check(
    models: Sequence[Any], names: list[str], baseline: str | None, devices: Mapping[str, str],
    inputs: Any, labels: Any,
) -> None:  # fmt: skip
    """Refuse what cannot work before the work begins."""
    if baseline not in (None, PEER):
        raise InputError(f"baseline {baseline!r}: {PEER} is the only one")
    if not models or not names:
        raise InputError("nothing to compare: give at least one model and one target")
    if (inputs or labels) and len(models) > 1:
        raise InputError("inputs and labels belong to one model; compare the others apart")
    if labels and not inputs:
        raise InputError("labels need the inputs that they belong to: give those, too")
    if unknown := sorted(set(devices) - set(names)):
        raise TargetError(
            f"device for {unknown[0]}: it is none of the targets; add it to them, or leave it out"
        )


def _place(target: Target, devices: Mapping[str, str], threads: int) -> places.Place | None:
    """Return what runs code for a target, None where nothing does."""
    if target.name in devices:
        return places.Board(target, devices[target.name], threads)
    if target.gpu is None and known_targets.reachable(target).startswith("native"):
        return places.Here(target, threads)
    return None


def _entry(
    model: Model, target: Target, lowering: str, place: places.Place | None, tuned: Database
) -> Entry:
    """Compile a variant, and load it where it runs."""
    built = build(model, target, lowering, tuned)
    entry = Entry(replace(built.variant, inputs=model.origin), model, built, place)
    if place is not None:
        with suppress(LostError), entry.guarded():
            entry.run, outputs = place.program(built.artifact, model.arrays)
            check = answers.compared(place.kind, outputs, model.expected)
            entry.variant = replace(entry.variant, machine=place.key, check=check)
    return entry


def _peer(model: Model, threads: int) -> Entry:
    """Return the model in ONNX Runtime.

    Raises:
        InputError: it is no ONNX file, or ONNX Runtime does not take it.
    """
    path = onnx_file(model.source)
    run = places.onnx_runtime(path, model.arrays, threads)
    variant = Variant(
        model.name, "host", PEER, places.THIS, inputs=model.origin,
        artifact_bytes=path.stat().st_size,
    )  # fmt: skip
    return Entry(variant, model, run=run)


def _time(entries: Sequence[Entry], limit: float, progress: Progress) -> None:
    """Time all variants that run, in the same rounds."""
    runners = {i: _guarded(entry) for i, entry in enumerate(entries) if entry.run is not None}
    times = in_rounds(runners, limit, progress) if runners else {}
    bases: dict[tuple[str, str], int] = {}
    for wanted in (PEER, "float", None):
        for i in times:
            if wanted in (None, entries[i].variant.lowering):
                bases.setdefault(entries[i].beside, i)
    for i, found in times.items():
        entry, variant = entries[i], entries[i].variant
        kind = HERE if entry.place is None else entry.place.kind
        base = bases[entry.beside]
        beside = None if base == i else ratio(entries[base].variant.label, found, times[base])
        entry.variant = replace(variant, latency=cost(kind, found), ratio=beside)


def _guarded(entry: Entry) -> Runner:
    def run(count: int) -> float:
        with entry.guarded():
            assert entry.run is not None
            return entry.run(count)

    return run


def _machines(
    entries: Sequence[Entry], where: Mapping[str, places.Place | None], progress: Progress
) -> dict[str, Machine]:
    """Describe all machines that measured."""
    found: dict[str, Machine] = {}
    here = places.Here(known_targets.host(), 1)
    for place in (here, *(p for p in where.values() if p is not None)):
        used = any(entry.variant.machine == place.key for entry in entries)
        if place.key not in found and used:
            progress(f"looking at {place.key}", len(found), len(where))
            try:
                with place.guarded():
                    found[place.key] = place.machine()
            except LostError as error:
                for entry in entries:
                    if entry.place is place:
                        entry.give_up(error)
    return found


def _kernels(entry: Entry, machines: Mapping[str, Machine], threads: int, share: float) -> None:
    """Find the cost of every kernel of a variant, and of the whole where nothing runs it."""
    built = entry.built
    assert built is not None
    if entry.place is not None:
        machine = machines[entry.place.key]
        with suppress(LostError), entry.guarded():
            timed = operators.measured(
                built.operators, built.steps, entry.place, machine, built.target, threads, share
            )
            peak = peak_bytes(built.artifact.path, threads) if entry.place.kind == HERE else None
            entry.variant = replace(entry.variant, operators=timed, peak_bytes=peak)
            return
    _model(entry, built)


def _model(entry: Entry, built: Built) -> None:
    """Find the cycles of a variant that nothing runs."""
    lacking = emulate.missing(built.target) or operators.too_large(built.operators)
    check, known = None, [entry.variant.parts]
    if lacking is None:
        try:
            emulated = emulate.emulate(built.steps, built.target)
            found = operators.estimated(built.operators, built.steps, emulated, built.target)
            if all(result is not None for result in emulated.results):
                results = [result for result in emulated.results if result is not None]
                check = answers.compared(EMULATED, results, entry.model.expected)
        except RuntimeError as error:
            lacking = str(error)
    if lacking is not None:
        known.append(f"no estimate: {lacking}")
        found = operators.by_table(built.operators, built.lowered, built.target)
    kind = ESTIMATED if lacking is None else TABLE
    parts = "; ".join(filter(None, (*known, _left_out(found))))
    entry.variant = replace(
        entry.variant, operators=found, latency=_sum(kind, found), parts=parts, check=check
    )


def _sum(kind: str, found: Sequence[Operator]) -> Cost | None:
    """Add up the cycles of a program; None where they would leave out arithmetic."""
    costs = [operator.cost.median for operator in found if operator.cost is not None]
    whole = all(operator.cost is not None for operator in found if operator.macs)
    return Cost.model(kind, sum(costs)) if costs and whole else None


def _left_out(found: Sequence[Operator]) -> str:
    names = [operator.name for operator in found if operator.cost is None]
    if len(names) == len(found):
        return "not known: all of its kernels"
    return f"not known: {', '.join(names)}" if names else ""
