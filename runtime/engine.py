"""The engine core: a step function, and a thread that calls it.

A step is: take what arrived, schedule, run the model, sample, commit.  `submit`, `submit_score`,
`cancel`, `withdraw`, `stats` and `close` may be called from any thread; everything else belongs to
whoever steps, which is the engine's own thread after `start`, or the caller of `step`.

Every request ends with exactly one call: its last chunk, or `on_error`; one that scores several
sequences, with one for each (`on_done`, or `on_error`).
Callbacks run on the stepping thread and must not block; one that raises ends its own request and
no other.  A request's matcher, likewise.  They come between two runs of the model, when waking
another thread would make the step wait for Python's lock: `deliver` is called when it does not,
as the model begins to run, and when there is nothing left to do.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

import torch

from sgen.errors import EngineClosedError, InvalidRequestError, SgenError
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import SamplingParams
from sgen.runtime.admission import Bounds, check_closes
from sgen.runtime.batch import KVCache, Model
from sgen.runtime.jobs import Generation, Handle, Job, OnChunk, OnDone, OnError, OnRow, Scoring
from sgen.runtime.masking import Masks, MaskThread
from sgen.runtime.output import OutputStream, Speller
from sgen.runtime.pages import PagePool
from sgen.runtime.plan import build_batch
from sgen.runtime.radix import RadixCache
from sgen.runtime.request import Matcher, Request, State
from sgen.runtime.sampling import Pick, Sampled, Sampler, sample
from sgen.runtime.scheduler import Extension, Limits, Scheduler
from sgen.runtime.stats import EngineStats

MAX_FAILED_STEPS = 3
"""So many failed steps in a row, and the engine is dead: the device is broken, not a request."""

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


class EngineCore:
    """Runs requests on a model with `num_pages` pages of KV cache.

    `debug` asserts the invariants of pages, tree and requests whenever the engine falls idle.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        num_pages: int,
        *,
        limits: Limits | None = None,
        deliver: Callable[[], None] = lambda: None,
        debug: bool = False,
    ) -> None:
        self._model = model
        self._deliver = deliver
        self._speller = Speller(vocabulary)
        self._kv: KVCache = model.allocate(num_pages)
        self._pool = PagePool(num_pages)
        self._cache = RadixCache(self._pool)
        self._scheduler = Scheduler(self._pool, self._cache, limits or Limits(), self._kv.copy_page)
        self._bounds = Bounds(model.vocab_size, model.context_length, num_pages)
        self._masks = MaskThread()
        self._debug = debug
        self._pid = os.getpid()
        self._failed_steps = 0
        self._wake = threading.Condition()  # guards the six below
        self._live: dict[Request, Job] = {}
        self._names: dict[str, int] = {}  # ids in use, and how many live jobs each has
        self._arrived: list[Job] = []
        self._cancelled: list[Job] = []
        self._closed = ""  # why, once it is
        self._stepping = False
        self._cause: Exception | None = None
        self._thread: threading.Thread | None = None

    # -- from any thread ------------------------------------------------------------------

    def submit(
        self,
        tokens: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        on_chunk: OnChunk,
        on_error: OnError,
        matcher: Matcher | None = None,
        salt: str = "",
    ) -> Handle:
        """Queue a request that extends `tokens`; its chunks go to `on_chunk`.

        The matcher is the engine's until the request ends.  `max_tokens=None` means up to the end
        of the context or of the cache.  InvalidRequestError: empty prompt, token ids outside the
        vocabulary, an id that is in use, `max_tokens` below the grammar's shortest output.
        CapacityError: more tokens than the context or the cache could ever hold.
        """
        self._bounds.check_tokens(tokens)
        self._bounds.check_ids(params)
        max_tokens = self._bounds.room(len(tokens), params.max_tokens)
        if matcher is not None and params.finish == "valid":
            check_closes(matcher.shortest_close(), max_tokens)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        request = Request(request_id, tokens, salt=salt)
        stream = OutputStream(self._speller, params, max_tokens, matcher)
        sampler = Sampler(params, seed, tokens)
        return self._enqueue((Generation(request, stream, sampler, on_chunk, on_error),))

    def submit_score(
        self,
        sequences: Sequence[Sequence[int]],
        score_from: int,
        *,
        request_id: str,
        on_row: OnRow,
        on_done: OnDone,
        on_error: OnError,
        salt: str = "",
    ) -> Handle:
        """Queue a request that samples nothing, but hands out logits of some token sequences.

        For each position of `sequences[i]` from `score_from` to the last, in order and once each,
        `on_row(i, position, row)` gets what the model predicts to follow that position: fp32 [V],
        valid during the call only (clone what you keep).  Then `on_done(usage)`, once for each
        sequence.
        """
        jobs = []
        for i, tokens in enumerate(sequences):
            self._bounds.check_tokens(tokens)
            self._bounds.room(len(tokens), 0)
            if not 0 <= score_from < len(tokens):
                raise InvalidRequestError(
                    f"score_from is {score_from}, but there are {len(tokens)} tokens",
                    param="score_from",
                )
            request = Request(request_id, tokens, salt=salt, score_from=score_from)
            jobs.append(Scoring(request, partial(on_row, i), on_done, on_error))
        return self._enqueue(tuple(jobs))

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; unknown and finished ones are ignored.

        Its last chunk has finish_reason "cancelled" (a scoring request gets `on_error`).
        """
        if os.getpid() != self._pid:
            return
        with self._wake:
            if request_id in self._names:
                self._cancelled += [j for r, j in self._live.items() if r.id == request_id]
                self._wake.notify()

    def withdraw(self, handle: Handle) -> None:
        """Cancel what one call submitted, and never another request that has its id by now."""
        if os.getpid() != self._pid:
            return
        with self._wake:
            live = [job for job in handle if job.request in self._live]
            if live:
                self._cancelled += live
                self._wake.notify()

    def check_open(self) -> None:
        """EngineClosedError if nothing can be submitted (any more, or in this process)."""
        self._check_process()
        if self._closed:
            raise self._closed_error()

    def stats(self) -> EngineStats:
        self._check_process()
        scheduler = self._scheduler
        with self._wake:
            # The scheduler's lists change without the lock; what lives and does not run, waits.
            num_live = len(self._live)
            num_running = min(scheduler.num_running, num_live)
        return EngineStats(
            num_running=num_running,
            num_waiting=num_live - num_running,
            num_pages=self._pool.num_pages,
            free_pages=self._pool.num_free,
            tree_pages=self._cache.num_pages,
            evictions=self._cache.evictions,
            counters=replace(scheduler.counters),
        )

    def start(self) -> None:
        """Step in a daemon thread of the engine's own, which sleeps when there is nothing to do.

        An engine that is not closed is closed when the interpreter exits: a thread that is inside
        the model while the interpreter is torn down would abort the process.
        """
        assert self._thread is None, "the engine was started twice"
        atexit.register(self.close)
        self._thread = threading.Thread(target=self._loop, name="sgen-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every request with EngineClosedError and stop the thread.  May be called again.

        Returns when all callbacks have returned, unless it is called from one of them.
        """
        if os.getpid() != self._pid:  # a fork's copy: neither the thread nor its requests are here
            atexit.unregister(self.close)
            return
        with self._wake:
            self._closed = self._closed or "the engine was closed"
            self._wake.notify()
            stepping = self._stepping
        thread = self._thread
        if thread is None:
            if not stepping:
                self._end_all()
        elif thread is not threading.current_thread():
            thread.join()
            atexit.unregister(self.close)

    # -- on the stepping thread -----------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Would `step` do anything?"""
        if self._closed:
            return False
        scheduler = self._scheduler
        return bool(
            self._arrived or self._cancelled or scheduler.num_running or scheduler.num_waiting
        )

    def step(self) -> bool:
        """Do one step; False when there was nothing to do.

        A failure of the model ends the requests of the step with `on_error`, and the next step
        goes on; after MAX_FAILED_STEPS in a row, or when the step function itself fails, the engine
        is dead: all requests end, and every later call raises EngineClosedError with the cause.
        """
        with self._wake:
            if self._closed:
                raise self._closed_error()
            self._stepping = True
        worked = True
        try:
            worked = self._step()
        except Exception as error:
            _log.exception("the engine's step failed; it is closed")
            self._cause = error
        finally:
            with self._wake:
                self._stepping = False
                if self._cause is not None:
                    self._closed = f"the engine died: {self._cause}"
        if self._closed:
            self._end_all()
        return worked

    def _loop(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self.has_work or self._closed)
                if self._closed:
                    break
            try:
                self.step()
            except EngineClosedError:  # closed just now
                break
        self._end_all()

    def _step(self) -> bool:
        self._take_arrivals()
        plan = self._scheduler.schedule()
        if plan:
            jobs = [self._live[e.request] for e in plan if e.logit_positions]
            try:
                batch = build_batch(plan)
                # Last of all: while they are made, the model has let go of Python's lock.
                self._masks.begin([job for job in jobs if isinstance(job, Generation)])
                self._deliver()
                with torch.inference_mode():
                    logits = self._model.forward(batch, self._kv)
            except Exception as error:
                self._masks.wait()
                self._fail_step(plan, error)
            else:
                self._failed_steps = 0
                self._commit(plan, logits, self._masks.wait())
        if not self.has_work:
            self._deliver()
            if self._debug:
                self._scheduler.check_integrity()
        return bool(plan)

    def _take_arrivals(self) -> None:
        with self._wake:
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
        for job in arrived:
            self._scheduler.add(job.request)
        for job in cancelled:
            if job.request.state is not State.FINISHED:
                self._retire(job)
                self._guard(job, job.cancelled)

    def _commit(self, plan: Sequence[Extension], logits: torch.Tensor, masks: Masks) -> None:
        """Account for the step's KV, hand out logits, sample, and advance every request."""
        picks: list[Pick] = []
        picked: list[Generation] = []
        row = 0
        for extension in plan:
            positions = extension.logit_positions
            self._scheduler.commit(extension)
            job = self._live[extension.request]
            if isinstance(job, Scoring):
                self._guard(job, self._hand_out, job, positions, logits[row : row + len(positions)])
            elif positions:
                allowed = masks.get(job)
                if isinstance(allowed, Exception):
                    self._fail(job, allowed)
                else:
                    picks.append(Pick(row, job.sampler, len(job.request.tokens), allowed))
                    picked.append(job)
            row += len(positions)
        for job, sampled in zip(picked, sample(logits, picks), strict=True):
            if isinstance(sampled, Exception):
                self._fail(job, sampled)
                continue
            self._scheduler.counters.decoded_tokens += 1
            try:
                self._advance(job, sampled)
            except Exception as error:  # of its matcher or its callback
                self._fail(job, error)

    def _advance(self, job: Generation, sampled: Sampled) -> None:
        chunk = job.push(sampled)
        if job.stream.finish_reason is not None:
            self._retire(job)
        if chunk is not None:
            job.send(chunk)

    def _hand_out(self, job: Scoring, positions: range, logits: torch.Tensor) -> None:
        job.hand_out(positions, logits)
        if job.request.num_remaining == 0:
            self._retire(job)
            job.finished()

    def _retire(self, job: Job) -> None:
        """Free what a request holds, and its id; before its last callback, which may use both."""
        self._scheduler.finish(job.request)
        with self._wake:
            del self._live[job.request]
            self._names[job.request.id] -= 1
            if not self._names[job.request.id]:
                del self._names[job.request.id]

    def _guard(
        self, job: Job, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T | None:
        """Call what may run a request's matcher or callbacks: its failure is that request's."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._fail(job, error)
            return None

    def _fail(self, job: Job, error: Exception) -> None:
        """End a request with an error; one that had ended already can only be logged."""
        if job.request.state is State.FINISHED:
            _log.error("the last callback of request %r failed", job.request.id, exc_info=error)
            return
        self._retire(job)
        self._report(job, error if isinstance(error, SgenError) else _wrapped(job, error))

    def _report(self, job: Job, error: SgenError) -> None:
        try:
            job.on_error(error)
        except Exception:
            _log.exception("the error callback of request %r failed", job.request.id)

    def _fail_step(self, plan: Sequence[Extension], error: Exception) -> None:
        """The model raised: its requests end, nothing that the step wrote is kept."""
        _log.error("a step of %d requests failed", len(plan), exc_info=error)
        for extension in plan:
            job = self._live[extension.request]
            self._fail(job, _wrapped(job, error))
        self._failed_steps += 1
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise error

    def _end_all(self) -> None:
        """Closed: end what is left.  If the step itself failed, its accounts may be broken."""
        self._masks.close()
        with self._wake:
            jobs = list(self._live.values())
            self._arrived.clear()
            self._cancelled.clear()
        for job in jobs:
            if job.request.root is not None:  # the scheduler knows it
                try:
                    self._scheduler.finish(job.request)
                except Exception:
                    _log.exception("request %r could not be freed", job.request.id)
        with self._wake:
            self._live.clear()
            self._names.clear()
        for job in jobs:
            self._report(job, self._closed_error())
        self._deliver()

    def _closed_error(self) -> EngineClosedError:
        error = EngineClosedError(self._closed)
        error.__cause__ = self._cause
        return error

    def _check_process(self) -> None:
        """Before any lock is taken: a fork may have copied it while somebody held it."""
        if os.getpid() != self._pid:
            raise EngineClosedError(
                f"the engine belongs to its parent process {self._pid}: this one is a fork, in "
                "which the engine's thread does not exist",
                hint="load the engine in the child process",
            )

    def _enqueue(self, jobs: Handle) -> Handle:
        self.check_open()
        with self._wake:
            if self._closed:
                raise self._closed_error()
            name = jobs[0].request.id
            if name in self._names:
                raise InvalidRequestError(
                    f"request id {name!r} is in use", param="id", hint="choose another id"
                )
            self._names[name] = len(jobs)
            self._live.update((job.request, job) for job in jobs)
            self._arrived += jobs
            self._wake.notify()
        return jobs


def _wrapped(job: Job, error: Exception) -> SgenError:
    wrapped = SgenError(f"request {job.request.id!r} failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
