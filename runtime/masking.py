"""Which tokens each constrained row of a step may take, found out while the model runs.

Masks depend only on what was accepted before the step, so they are made in a thread of their own,
and waited for before anything is sampled: while they are made, nobody else touches the streams
and matchers.  The thread starts with the first constrained row and ends with `close`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from sgen.runtime.jobs import Generation

Allowed = NDArray[np.uint32] | None
"""As in OutputStream.allowed."""

Masks = dict[Generation, Allowed | Exception]
"""Of each constrained row; or why there is none, which concerns that request alone."""


class MaskThread:
    """For one step at a time: `begin`, then `wait`, from one thread."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._pending: Future[Masks] | None = None

    def begin(self, jobs: Sequence[Generation]) -> None:
        """Begin with the masks of some rows; those that are not constrained need none."""
        self.wait()  # a step that was interrupted has left its masks behind
        constrained = [job for job in jobs if job.stream.constrained]
        if constrained:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, thread_name_prefix="sgen-masks")
            try:
                self._pending = self._executor.submit(_fill, constrained)
            except RuntimeError:  # no thread can be started, or the interpreter is ending
                self._pending = Future()
                self._pending.set_result(_fill(constrained))

    def wait(self) -> Masks:
        """What came of the last `begin`."""
        pending, self._pending = self._pending, None
        return {} if pending is None else pending.result()

    def close(self) -> None:
        """End the thread, once it is done with what it was given."""
        if self._executor is not None:
            self._executor.shutdown()


def _fill(jobs: Sequence[Generation]) -> Masks:
    masks: Masks = {}
    for job in jobs:
        try:
            masks[job] = job.stream.allowed()
        except Exception as error:
            masks[job] = error
    return masks
