"""Running a batch on the workers of a Ray cluster: a local one that is started, or one that is there.

This process hands out the jobs, one to each worker at a time, so that ten thousand do not sit in Ray's
memory. It alone writes the journal. A worker that dies is replaced, and its job continued from its
checkpoint.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from specularip.batch.ledger import Attempt, Ledger, Result
from specularip.batch.table import Table
from specularip.batch.worker import Worker
from specularip.bounds import Range
from specularip.errors import UserError, first_line
from specularip.stopping import StopRequest, stop_on_signal
from specularip.version import __version__

POLL_SECONDS = 1.0
"""How often workers are asked where their jobs are, at most; a thousand of them are asked less often."""
POLLS_PER_SECOND = 100
START_SECONDS = 60.0
"""After so long without any worker, a line says why."""
STARTS = 3
"""After so many workers in a row that died before they ran, the batch ends."""
REACH_SECONDS = 10.0
"""Within which the cluster's address must answer. Ray itself tries for many minutes."""
WORKER_BYTES = 2.2e9
"""Memory of a worker of the compact preset, of which so many are started as have room."""


@dataclass(frozen=True)
class Cluster:
    """Where workers run, and what each of them gets.

    address: of a Ray cluster, as `ray.init` takes it; "": a local one is started. workers: None: as many as
    there is room for. cpus_per_worker: cores, and as many threads. gpus_per_worker: perhaps a part of one;
    None: one if a job needs it.
    """

    address: str = ""
    workers: Annotated[int | None, Range(1, 100_000)] = None
    cpus_per_worker: Annotated[int, Range(1, 1024)] = 1
    gpus_per_worker: Annotated[float | None, Range(0.0, 64.0)] = None


@dataclass
class Post:
    """A worker that was asked for. name: "" until its process runs. attempt: at work on it; since then."""

    actor: Any
    name: str = ""
    attempt: Attempt | None = None


def run_on_ray(ledger: Ledger, out: Path, pages: bool, table: Table, cluster: Cluster) -> None:
    """Run all that waits.

    Raises KeyboardInterrupt when it is stopped, after the jobs at work have saved their checkpoints, and
    UserError without Ray, without room for one worker, or if the journal cannot be written.
    """
    if not ledger.waiting:
        return
    # Stopped while it starts, Ray leaves processes behind for a minute. Then it has a handler of its own for
    # SIGTERM, which would end this process without a word to the workers.
    with stop_on_signal() as early, _connected(cluster, table) as ray, stop_on_signal() as stop:
        if early.requested:
            raise KeyboardInterrupt
        gpus, count = _room(ray, cluster, ledger)
        each = f"{cluster.cpus_per_worker} threads" + (f" and {gpus:g} GPU" if gpus else "")
        table.log(f"starting workers: {count}, each with {each}")
        actor = ray.remote(
            num_cpus=cluster.cpus_per_worker,
            num_gpus=gpus,
            memory=WORKER_BYTES,
            concurrency_groups={"watch": 1},
        )(Worker)
        arguments = str(out.resolve()), pages, cluster.cpus_per_worker
        _Driver(ray, ledger, table, stop, lambda: actor.remote(*arguments), count).run()


class _Driver:
    """Hands attempts to workers until none is left."""

    def __init__(
        self, ray: Any, ledger: Ledger, table: Table, stop: StopRequest, start: Any, count: int
    ) -> None:
        self._ray, self._ledger, self._table, self._stop, self._start = ray, ledger, table, stop, start
        self._calls: dict[Any, Post] = {}  # the references that Ray's answers come by
        self._asked: dict[Any, tuple[Post, Attempt]] = {}  # where their jobs are
        self._idle: list[Post] = []
        self._next_poll = 0.0
        self._stopping = False
        self._failed_starts = 0
        self._began: float | None = time.monotonic()  # None: some worker runs
        for _ in range(count):
            self._ask_for_worker()

    def run(self) -> None:
        while self._work_left():
            if self._stop.requested and not self._stopping:
                self._begin_to_stop()
            self._hand_out()
            ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=0.5)
            for call in ready:
                self._take(call)
            self._watch()
        if self._stop.requested:
            raise KeyboardInterrupt

    def _work_left(self) -> bool:
        at_work = any(post.attempt for post in self._calls.values())
        return at_work or (bool(self._ledger.waiting) and not self._stopping)

    def _ask_for_worker(self) -> None:
        actor = self._start()
        self._calls[actor.about.remote()] = Post(actor)

    def _hand_out(self) -> None:
        while self._idle and not self._stopping and (attempt := self._ledger.next()) is not None:
            post = self._idle.pop()
            self._ledger.begin(attempt, post.name)
            self._table.follow(post.name, attempt.job.name)
            post.attempt = attempt
            self._calls[post.actor.run.remote(attempt)] = post

    def _take(self, call: Any) -> None:
        """An answer has come, or none ever will."""
        post = self._calls.pop(call)
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._replace(post, error)
            return
        if post.attempt is None:
            post.name = answer.name
            self._check(answer)
            self._began, self._failed_starts = None, 0
        else:
            self._finish(post, answer)
        self._idle.append(post)

    def _replace(self, post: Post, error: Exception) -> None:
        with suppress(Exception):  # it may only be out of reach: nothing must go on in the job's folder
            self._ray.kill(post.actor)
        if post.attempt is None:
            self._failed_starts += 1
            if self._failed_starts == STARTS:
                raise UserError(f"no worker could be started: {first_line(error)}") from error
        elif isinstance(error, self._ray.exceptions.RayTaskError):  # such as a library that is missing there
            self._finish(post, Result("lost", first_line(error.cause)))
        else:
            self._finish(post, Result("lost"))
        if self._ledger.waiting > len(self._idle):
            self._ask_for_worker()

    def _finish(self, post: Post, result: Result) -> None:
        attempt, post.attempt = post.attempt, None
        assert attempt is not None
        self._table.idle(post.name)
        self._ledger.end(attempt, result, post.name)

    def _check(self, about: Any) -> None:
        if about.version != __version__:
            raise UserError(
                f"{about.name} has specularip {about.version}, not {__version__}: install the same everywhere"
            )
        if not about.sees_folder:
            raise UserError(
                f"{about.name} does not see the batch's folder: --out must be on a disk that all machines "
                "share, under the same name"
            )

    def _begin_to_stop(self) -> None:
        self._stopping = True
        self._table.log("stopping: jobs at work save a checkpoint")
        for post in self._calls.values():
            if post.attempt is not None:
                post.actor.stop.options(concurrency_group="watch").remote()

    def _watch(self) -> None:
        """Ask the workers where they are, if it is time for that."""
        now = time.monotonic()
        if self._began is not None and now - self._began > START_SECONDS:
            free = _words(self._ray.available_resources())
            self._table.log(f"waiting for room for a worker; the cluster has {free} free")
            self._began = now
        # Never waited for: a worker answers when its job lets go of the interpreter.
        asked = list(self._asked)
        for call in self._ray.wait(asked, num_returns=len(asked), timeout=0)[0] if asked else ():
            post, attempt = self._asked.pop(call)
            with suppress(self._ray.exceptions.RayError):  # it died: `_take` sees that, too
                stage = self._ray.get(call)
                if stage is not None and post.attempt is attempt:
                    self._table.follow(post.name, attempt.job.name)(stage)
        if now < self._next_poll:
            return
        unanswered = {id(post) for post, _ in self._asked.values()}
        at_work = [post for post in self._calls.values() if post.attempt is not None]
        for post in at_work:
            if id(post) not in unanswered and post.attempt is not None:
                call = post.actor.stage.options(concurrency_group="watch").remote()
                self._asked[call] = post, post.attempt
        self._next_poll = now + max(POLL_SECONDS, len(at_work) / POLLS_PER_SECOND)
        self._table.tick()


def import_ray() -> Any:
    """The module ray. Raises UserError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report this run to its makers
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"Ray cannot be loaded ({first_line(error)}): pip install 'specularip[ray]', or omit --ray"
        ) from error
    return ray


@contextmanager
def _connected(cluster: Cluster, table: Table) -> Iterator[Any]:
    """The module ray, connected to the cluster within the block."""
    ray = import_ray()
    table.log(f"connecting to the Ray cluster at {cluster.address}" if cluster.address else "starting Ray")
    local: dict[str, Any] = {"address": "local", "include_dashboard": False, "object_store_memory": 2**27}
    if cluster.workers is not None:
        local["num_cpus"] = cluster.workers * cluster.cpus_per_worker
    try:
        _reach(cluster.address)
        ray.init(
            **({"address": cluster.address} if cluster.address else local),
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except SystemExit:  # how Ray answers SIGTERM while it starts
        raise KeyboardInterrupt from None
    except Exception as error:  # of many kinds
        where = f"at {cluster.address}" if cluster.address else "here"
        raise UserError(f"no Ray cluster {where}: {first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise OSError, or another, if nothing answers at an address that has a port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()


def _room(ray: Any, cluster: Cluster, ledger: Ledger) -> tuple[float, int]:
    """GPUs of a worker, and the number of workers. Raises UserError if there is no room for one."""
    resources = ray.cluster_resources()
    has = {name: float(resources.get(name, 0)) for name in ("CPU", "GPU", "memory")}
    gpus = cluster.gpus_per_worker
    if gpus is None:
        gpus = float(any(config.device == "cuda" for config in ledger.configs()))
    needs = {"CPU": cluster.cpus_per_worker, "GPU": gpus, "memory": WORKER_BYTES}
    most = min(int(has[name] / need) for name, need in needs.items() if need)
    if not most:
        raise UserError(
            f"no room for a worker: it takes {_words(needs)}, and the cluster has {_words(has)}: "
            "see --cpus-per-worker and --gpus-per-worker"
        )
    wanted = most if cluster.workers is None else cluster.workers
    if wanted > most:
        raise UserError(
            f"no room for {wanted} workers: each takes {_words(needs)}, and the cluster has {_words(has)}: "
            f"use --workers {most}"
        )
    return gpus, min(wanted, ledger.waiting)


def _words(resources: dict[str, float]) -> str:
    memory = resources.get("memory", 0) / 1e9
    return (
        f"{resources.get('CPU', 0):g} cores, {resources.get('GPU', 0):g} GPUs and {memory:.1f} GB of memory"
    )
