"""Records that no kernel of this version can use."""

from __future__ import annotations

from tvm_qnn import targets
from tvm_qnn.ops.workload import CodebookWork
from tvm_qnn.schedules import family
from tvm_qnn.schedules.records import Record, digest, parse_work, target_key


def stale(record: Record) -> str:
    """Return why a record can no longer be used, or "".

    Records of targets that this version does not know are left alone.
    """
    known = {target_key(target): target for target in (*targets.all_targets(), targets.get("host"))}
    target = known.get(record.target)
    if target is None:
        return ""
    try:
        work = parse_work(record.work)
        chosen = family(record.family, codebook=isinstance(work, CodebookWork))
    except (KeyError, ValueError):
        return "its work or its family is unknown"
    refused = chosen.supports(work, target)
    if refused is not None:
        return str(refused)
    if digest(chosen, work, target) != record.kernel:
        return "the kernel has changed"
    return ""
