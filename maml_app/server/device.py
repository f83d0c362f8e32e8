"""Segmentations one after the other: a short queue, one computation for equal requests, none for clients that left."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from maml_app.machine import Abandoned, abandoned_when

LOOK_S = 0.25  # how often is looked whether a client is still there


@dataclass(frozen=True)
class Answer:
    """A segmentation: the label map's file, kept until everyone who asked has it, and what is told about it."""

    file: Path
    params: dict[str, Any]


Work = Callable[[Path], Answer]  # is given a folder for what it writes


@dataclass(eq=False)
class _Job:
    folder: Path
    future: asyncio.Future[Answer] = field(init=False)
    waiting: int = 0
    abandoned: threading.Event = field(default_factory=threading.Event)


class Gone(Exception):
    """The client left before its answer was there."""


class Device:
    """Runs segmentations in a thread of its own. All bookkeeping is on the event loop.

    Args:
        scratch: folder for answers.
        queue: so many may wait for the one that runs.
        limit_s: so long one client waits at most.
    """

    def __init__(self, scratch: Path, queue: int, limit_s: float) -> None:
        self._scratch = scratch
        self._queue = queue
        self._limit_s = limit_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="segmenting")
        self._jobs: set[_Job] = set()
        self._shared: dict[str, _Job] = {}
        self._last_s = 1.0

    @asynccontextmanager
    async def answer(self, key: str, work: Work, gone: Callable[[], Awaitable[bool]]) -> AsyncIterator[Answer]:
        """The answer of `work`; its file is there inside the `with` block.

        Args:
            key: equal keys have equal answers; '' is shared with nobody.
            gone: whether the client has left.

        Raises:
            HTTPException: 503 the queue is full, 504 it takes too long.
            Gone: the client left; the work stops if nobody else waits for it.
            Whatever `work` raises.
        """
        job = self._shared.get(key) or self._start(key, work)
        job.waiting += 1
        try:
            yield await self._wait(job, gone)
        finally:
            job.waiting -= 1
            if not job.waiting:
                await self._leave(key, job)

    def _start(self, key: str, work: Work) -> _Job:
        if len(self._jobs) > self._queue:
            wait = max(1, round(self._last_s * len(self._jobs)))
            raise HTTPException(
                503,
                f"{len(self._jobs)} segmentations are running or waiting; ask again in {wait} s.",
                {"Retry-After": str(wait)},
            )
        job = _Job(Path(tempfile.mkdtemp(prefix="answer-", dir=self._scratch)))
        job.future = asyncio.get_running_loop().run_in_executor(self._pool, self._do, job, work)
        self._jobs.add(job)
        if key:
            self._shared[key] = job
        job.future.add_done_callback(lambda _: self._done(key, job))
        return job

    def _do(self, job: _Job, work: Work) -> Answer:
        began = time.monotonic()
        try:
            with abandoned_when(job.abandoned.is_set):
                return work(job.folder)
        finally:
            self._last_s = time.monotonic() - began
            if job.abandoned.is_set():
                shutil.rmtree(job.folder, ignore_errors=True)

    def _done(self, key: str, job: _Job) -> None:
        self._jobs.discard(job)
        if self._shared.get(key) is job:
            del self._shared[key]
        if not job.future.cancelled():
            job.future.exception()  # seen, also where nobody waits any more

    async def _wait(self, job: _Job, gone: Callable[[], Awaitable[bool]]) -> Answer:
        end = time.monotonic() + self._limit_s
        while True:
            done, _ = await asyncio.wait([job.future], timeout=LOOK_S)
            if done:
                try:
                    return job.future.result()
                except Abandoned:
                    raise Gone from None
            if await gone():
                raise Gone
            if time.monotonic() > end:
                raise HTTPException(504, f"The segmentation took longer than {self._limit_s:g} s and was given up.")

    async def _leave(self, key: str, job: _Job) -> None:
        job.abandoned.set()
        if self._shared.get(key) is job:
            del self._shared[key]
        job.future.cancel()  # if it only waits; one that runs looks at `abandoned`
        with suppress(asyncio.CancelledError):
            await asyncio.to_thread(shutil.rmtree, job.folder, True)
