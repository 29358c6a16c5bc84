"""Between callers without an event loop and programs, which always run on one.

One loop in one daemon thread runs the programs of all such callers.  A program written with plain
`def` may block, so its function runs in a thread that may: its caller's own where that one waits
anyway, else one of a bounded pool, and inside of another program in a thread of its own (so that
programs that wait for each other never wait for the pool).
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from sgen.errors import CancelledError, EngineClosedError, ProgramError

T = TypeVar("T")

Worker = Callable[[Callable[[], Any]], Coroutine[Any, Any, Any]]
"""Runs a blocking function in some thread."""

POOL_THREADS = 256

IDLE_SECONDS = 10.0
"""How long a thread of the pool waits for another job."""

EXIT_SECONDS = 2.0

CLEANUP_SECONDS = 10.0
"""How long a caller that leaves a run early waits for it to clean up."""


class Running(Generic[T]):
    """A coroutine that runs on a loop in another thread; `future` is done when it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._start)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.future.set_exception(CancelledError("the run was cancelled"))
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def cancel(self) -> None:
        """Ask it to stop."""
        if not self.future.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        assert self._task is not None, "calls reach the loop in order"
        self._task.cancel()

    def stop(self) -> None:
        """Have it stopped and cleaned up; nothing happens if it is over."""
        self.cancel()
        concurrent.futures.wait([self.future], timeout=CLEANUP_SECONDS)


class Pool:
    """Up to `limit` daemon threads that run jobs, started as they are needed; one that had no job
    for `idle_seconds` ends."""

    def __init__(self, limit: int, idle_seconds: float = IDLE_SECONDS) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._backlog = 0

    def submit(self, job: Job) -> None:
        """Run the job when a thread is free."""
        with self._lock:
            self._jobs.put(job)
            if self._idle > 0:
                self._idle -= 1
            elif self._threads < self._limit:
                self._threads += 1
                threading.Thread(target=self._work, name="sgen-program", daemon=True).start()
            else:
                self._backlog += 1

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._idle_seconds)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:  # else a job has been put for this thread meanwhile
                        self._idle -= 1
                        self._threads -= 1
                        return
                continue
            job.run()
            with self._lock:
                if self._backlog > 0:
                    self._backlog -= 1
                else:
                    self._idle += 1


class Host:
    """The loop's thread and the pool, both started when they are first needed.

    When the interpreter exits, what still runs is cancelled, and nothing waits for it any more:
    its threads are daemons.
    """

    def __init__(self) -> None:
        self.pool = Pool(POOL_THREADS)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, running.  A forked process, which has lost the thread, gets a new one."""
        with self._lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                if self._loop is None:
                    atexit.register(self._close)
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_run, args=(self._loop,), name="sgen-programs", daemon=True
                )
                self._thread.start()
            return self._loop

    def _close(self) -> None:
        """Cancel what runs; called at exit."""
        self._closed = True
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            ending = asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop)
            concurrent.futures.wait([ending], timeout=EXIT_SECONDS)

    def submit(self, work: Coroutine[Any, Any, T]) -> Running[T]:
        """Start a coroutine on the loop."""
        if self._closed:
            work.close()
            raise EngineClosedError("the interpreter exits, nothing can run any more")
        loop = self.loop()
        if self._thread is threading.current_thread():
            work.close()
            raise ProgramError(
                "this would block the event loop that the calling program runs on",
                hint="in an async program, await .arun(...) or iterate over .astream(...)",
            )
        return Running(loop, work)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait; an interrupt of the wait cancels it."""
        running = self.submit(work)
        try:
            return running.future.result()
        finally:
            running.stop()

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of an async generator, which runs on the loop."""
        try:
            while True:
                try:
                    item = self.call(anext_of(items))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            if not self._closed:
                self.call(items.aclose())


HOST = Host()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop; a program's `sys.exit()` is its caller's, and must not end it."""
    while True:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()


async def _cancel_others() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


async def anext_of(items: AsyncGenerator[T, None]) -> T:
    """The next item, as a coroutine."""
    return await items.__anext__()


class CallerThread:
    """A worker that runs the function in the thread that waits for the run."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()

    async def __call__(self, function: Callable[[], Any]) -> Any:
        job = Job(function)
        self._jobs.put(job)
        return await asyncio.wrap_future(job.future)

    def serve(self, running: Running[T]) -> T:
        """Do what comes, until the run is over."""
        running.future.add_done_callback(lambda _: self._jobs.put(None))
        try:
            while (job := self._jobs.get()) is not None:
                if (ending := job.run()) is not None:
                    raise ending
            return running.future.result()
        finally:
            running.stop()


async def in_pool(function: Callable[[], Any]) -> Any:
    """A worker for runs of their own."""
    job = Job(function)
    HOST.pool.submit(job)
    return await asyncio.wrap_future(job.future)


async def in_own_thread(function: Callable[[], Any]) -> Any:
    """A worker for what runs inside of another program."""
    job = Job(function)
    threading.Thread(target=job.run, name="sgen-subprogram", daemon=True).start()
    return await asyncio.wrap_future(job.future)


class Job:
    """A function to call in another thread, in the context of whoever asked."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._function = function
        self._context = contextvars.copy_context()

    def run(self) -> BaseException | None:
        """Call it.  What would end the thread (an interrupt, `sys.exit()`) is returned."""
        if not self.future.set_running_or_notify_cancel():
            return None
        try:
            result = self._context.run(self._function)
        except StopIteration as error:  # no future can carry it
            self.future.set_exception(RuntimeError(f"the program raised {error!r}"))
        except Exception as error:
            self.future.set_exception(error)
        except BaseException as error:
            self.future.set_exception(ProgramError(f"the program was ended by {error!r}"))
            return error
        else:
            self.future.set_result(result)
        return None
