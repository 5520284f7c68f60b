"""Where runs on Dask-backed arrays are computed: where Dask itself would, on a cluster if there is a client of one."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

__all__ = ["Cluster", "executor_here"]


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster that computes chunks."""

    executor: Executor
    """Takes batches of chunks, and is left open after a run."""
    workers: int
    """How many threads its workers have, and so how many batches are computed at once."""


def executor_here() -> Cluster | None:
    """Return the cluster of the `distributed.Client` that is active here; None where threads of our own are to compute.

    They are where there is no client, where Dask is set to another scheduler, inside of a task of a worker (which would wait
    for others, and they for it), and where a client cannot be waited for. No client is made, and `distributed` is not imported.

    Examples:
        >>> executor_here() is None
        True
    """
    distributed: Any = sys.modules.get("distributed")  # Any: untyped, and optional
    if distributed is None or _is_in_worker(distributed) or _has_other_scheduler():
        return None
    try:
        client = distributed.default_client()
    except ValueError:
        return None
    if client.status != "running" or client.asynchronous:
        return None
    # The same batch is never to be taken for one that was computed before, whose result is still there.
    executor: Executor = client.get_executor(pure=False)
    # A cluster that grows when there is work may have no worker yet.
    return Cluster(executor, max(1, sum(client.nthreads().values())))


def _is_in_worker(distributed: Any) -> bool:  # Any: untyped, and optional
    try:
        distributed.get_worker()
    except ValueError:
        return False
    return True


def _has_other_scheduler() -> bool:
    """Return whether the user has set Dask to compute elsewhere than with a client."""
    import dask  # noqa: PLC0415  # optional; distributed has imported it

    scheduler = dask.config.get("scheduler", None)
    return isinstance(scheduler, str) and scheduler not in ("dask.distributed", "distributed")
