"""The engine core: a step function, and a thread that calls it.

A step is: take what arrived, schedule, run the model, sample, commit.  `submit`, `submit_score`,
`cancel`, `stats` and `close` may be called from any thread; everything else belongs to whoever
steps, which is the engine's own thread after `start`, or the caller of `step`.

Every request ends with exactly one call: its last chunk (`on_done` when scoring), or `on_error`.
Callbacks run on the stepping thread and must not block; one that raises ends its own request and
no other.  A request's matcher, likewise.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import torch

from sgen.errors import CapacityError, EngineClosedError, InvalidRequestError, SgenError
from sgen.grammars.vocabulary import Vocabulary
from sgen.protocol import SamplingParams
from sgen.runtime.batch import PAGE_SIZE, KVCache, Model
from sgen.runtime.jobs import Generation, Job, OnChunk, OnDone, OnError, OnRow, Scoring
from sgen.runtime.output import OutputStream, Speller
from sgen.runtime.pages import PagePool, pages_for
from sgen.runtime.plan import build_batch
from sgen.runtime.radix import RadixCache
from sgen.runtime.request import Matcher, Request, State
from sgen.runtime.sampling import Pick, Sampled, Sampler, sample
from sgen.runtime.scheduler import Counters, Extension, Limits, Scheduler

MAX_FAILED_STEPS = 3
"""So many failed steps in a row, and the engine is dead: the device is broken, not a request."""

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot.  free + tree + private pages = all pages; see Counters for the tokens."""

    num_running: int
    num_waiting: int
    num_pages: int
    free_pages: int
    tree_pages: int
    evictions: int
    counters: Counters


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
        debug: bool = False,
    ) -> None:
        self._model = model
        self._speller = Speller(vocabulary)
        self._kv: KVCache = model.allocate(num_pages)
        self._pool = PagePool(num_pages)
        self._cache = RadixCache(self._pool)
        self._scheduler = Scheduler(self._pool, self._cache, limits or Limits(), self._kv.copy_page)
        self._debug = debug
        self._failed_steps = 0
        self._wake = threading.Condition()  # guards the five below
        self._live: dict[str, Job] = {}
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
    ) -> None:
        """Queue a request that extends `tokens`; its chunks go to `on_chunk`.

        The matcher is the engine's until the request ends.  `max_tokens=None` means up to the end
        of the context or of the cache.  InvalidRequestError: empty prompt, token ids outside the
        vocabulary, an id that is in use, `max_tokens` below the grammar's shortest output.
        CapacityError: more tokens than the context or the cache could ever hold.
        """
        self._check_tokens(tokens)
        self._check_ids(params)
        max_tokens = self._room(len(tokens), params.max_tokens)
        if matcher is not None and params.finish == "valid":
            _check_closes(matcher.shortest_close(), max_tokens)
        seed = secrets.randbits(64) if params.seed is None else params.seed
        request = Request(request_id, tokens, salt=salt)
        stream = OutputStream(self._speller, params, max_tokens, matcher)
        sampler = Sampler(params, seed, tokens)
        self._enqueue(Generation(request, stream, sampler, on_chunk, on_error))

    def submit_score(
        self,
        tokens: Sequence[int],
        score_from: int,
        *,
        request_id: str,
        on_row: OnRow,
        on_done: OnDone,
        on_error: OnError,
        salt: str = "",
    ) -> None:
        """Queue a request that samples nothing, but hands out logits.

        For each position from `score_from` to the last, in order and once each,
        `on_row(position, row)` gets what the model predicts to follow that position: fp32 [V],
        valid during the call only (clone what you keep).  Then `on_done(usage)`.
        """
        self._check_tokens(tokens)
        self._room(len(tokens), 0)
        if not 0 <= score_from < len(tokens):
            raise InvalidRequestError(
                f"score_from is {score_from}, but there are {len(tokens)} tokens",
                param="score_from",
            )
        request = Request(request_id, tokens, salt=salt, score_from=score_from)
        self._enqueue(Scoring(request, on_row, on_done, on_error))

    def cancel(self, request_id: str) -> None:
        """End a request before the next step; unknown and finished ones are ignored.

        Its last chunk has finish_reason "cancelled" (a scoring request gets `on_error`).
        """
        with self._wake:
            job = self._live.get(request_id)
            if job is not None:
                self._cancelled.append(job)
                self._wake.notify()

    def stats(self) -> EngineStats:
        scheduler = self._scheduler
        return EngineStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting + len(self._arrived),
            num_pages=self._pool.num_pages,
            free_pages=self._pool.num_free,
            tree_pages=self._cache.num_pages,
            evictions=self._cache.evictions,
            counters=replace(scheduler.counters),
        )

    def start(self) -> None:
        """Step in a daemon thread of the engine's own, which sleeps when there is nothing to do."""
        assert self._thread is None, "the engine was started twice"
        self._thread = threading.Thread(target=self._loop, name="sgen-engine", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every request with EngineClosedError and stop the thread.  May be called again.

        Returns when all callbacks have returned, unless it is called from one of them.
        """
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
            try:
                with torch.inference_mode():
                    logits = self._model.forward(build_batch(plan), self._kv)
            except Exception as error:
                self._fail_step(plan, error)
            else:
                self._failed_steps = 0
                self._commit(plan, logits)
        if self._debug and not self.has_work:
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

    def _commit(self, plan: Sequence[Extension], logits: torch.Tensor) -> None:
        """Account for the step's KV, hand out logits, sample, and advance every request."""
        picks: list[Pick] = []
        picked: list[Generation] = []
        row = 0
        for extension in plan:
            positions = extension.logit_positions
            self._scheduler.commit(extension)
            job = self._live[extension.request.id]
            if isinstance(job, Scoring):
                self._guard(job, self._hand_out, job, positions, logits[row : row + len(positions)])
            elif positions:
                pick = self._guard(job, self._pick, job, row)
                if pick is not None:
                    picks.append(pick)
                    picked.append(job)
            row += len(positions)
        for job, sampled in zip(picked, sample(logits, picks), strict=True):
            if isinstance(sampled, SgenError):
                self._fail(job, sampled)
            else:
                self._scheduler.counters.decoded_tokens += 1
                self._guard(job, self._advance, job, sampled)

    def _pick(self, job: Generation, row: int) -> Pick:
        return Pick(row, job.sampler, len(job.request.tokens), job.stream.allowed())

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
            del self._live[job.request.id]

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
            job = self._live[extension.request.id]
            self._fail(job, _wrapped(job, error))
        self._failed_steps += 1
        if self._failed_steps >= MAX_FAILED_STEPS:
            raise error

    def _end_all(self) -> None:
        """Closed: end what is left.  If the step itself failed, its accounts may be broken."""
        with self._wake:
            jobs = list(self._live.values())
            self._live.clear()
            self._arrived.clear()
            self._cancelled.clear()
        for job in jobs:
            if job.request.root is not None:  # the scheduler knows it
                try:
                    self._scheduler.finish(job.request)
                except Exception:
                    _log.exception("request %r could not be freed", job.request.id)
            self._report(job, self._closed_error())

    def _closed_error(self) -> EngineClosedError:
        error = EngineClosedError(self._closed)
        error.__cause__ = self._cause
        return error

    # -- at the door ----------------------------------------------------------------------

    def _enqueue(self, job: Job) -> None:
        with self._wake:
            if self._closed:
                raise self._closed_error()
            if job.request.id in self._live:
                raise InvalidRequestError(
                    f"request id {job.request.id!r} is in use", param="id", hint="choose another id"
                )
            self._live[job.request.id] = job
            self._arrived.append(job)
            self._wake.notify()

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if len(tokens) == 0:
            raise InvalidRequestError(
                "the prompt has no tokens", param="prompt", hint="start with a BOS token or text"
            )
        low, high = min(tokens), max(tokens)
        if low < 0 or high >= self._model.vocab_size:
            raise InvalidRequestError(
                f"token {low if low < 0 else high} is outside the model's vocabulary of "
                f"{self._model.vocab_size}",
                param="prompt",
            )

    def _check_ids(self, params: SamplingParams) -> None:
        for name in ("logit_bias", "stop_token_ids"):
            for token in getattr(params, name):
                if not 0 <= token < self._model.vocab_size:
                    raise InvalidRequestError(
                        f"{name} names token {token}, outside the model's vocabulary of "
                        f"{self._model.vocab_size}",
                        param=name,
                    )

    def _room(self, num_prompt: int, max_tokens: int | None) -> int:
        """`max_tokens`, or what fits; CapacityError if prompt and output can never fit."""
        context, pages = self._model.context_length, self._pool.num_pages
        room = min(context, pages * PAGE_SIZE) - num_prompt
        wanted = max(1, room) if max_tokens is None else max_tokens
        total = num_prompt + wanted
        remedy = f"lower max_tokens to at most {room}" if room > 0 else "shorten the prompt"
        if total > context:
            raise CapacityError(
                f"{num_prompt} prompt tokens and {wanted} new ones are {total}, "
                f"but the model's context is {context} tokens",
                param="max_tokens",
                hint=remedy,
            )
        if pages_for(total) > pages:
            raise CapacityError(
                f"{num_prompt} prompt tokens and {wanted} new ones need {pages_for(total)} pages "
                f"of {PAGE_SIZE} tokens, but the KV cache has {pages}",
                param="max_tokens",
                hint=f"{remedy}, or give the engine a larger KV cache",
            )
        return wanted


def _check_closes(shortest: int, max_tokens: int) -> None:
    if shortest > max_tokens:
        raise InvalidRequestError(
            f"the shortest output that the grammar allows takes {shortest} tokens, "
            f"but max_tokens is {max_tokens}",
            param="max_tokens",
            hint=f'set max_tokens to at least {shortest}, or finish to "truncate"',
        )


def _wrapped(job: Job, error: Exception) -> SgenError:
    wrapped = SgenError(f"request {job.request.id!r} failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
