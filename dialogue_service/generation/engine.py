"""Many replies at once, step by step, in one thread.

Each step is one pass of the model over the next tokens of all conversations: one token for every candidate
that is being written, and of the prompts still to be read as much as a budget allows, shared out in turn. So
neither a long prompt nor a long reply holds up a short one, and whoever gives up is gone within one step.
(Iteration-level scheduling: Orca, Yu et al. 2022; chunked prefill: Sarathi, Agrawal et al. 2023.)

transformers' own continuous batching is not used: it drops the repetition penalty, and knows neither
candidates that share a prompt nor prompts kept from turn to turn.
"""

import atexit
import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from dialogue_service.generation.job import Job
from dialogue_service.generation.packed import PackedModel
from dialogue_service.generation.piece import Piece
from dialogue_service.generation.prefixes import Prefixes
from dialogue_service.generation.sampling import Sampling
from dialogue_service.generation.threads import Threads
from shared.metrics import QUEUE_DEPTH
from shared.problems import Overloaded, Problem

logger = logging.getLogger(__name__)

_SEQUENCES = 16
"""Conversations computed at once; more wait."""
_CHUNK, _CHUNK_ALONE = 64, 128
"""Tokens of prompts read in one step, while others wait for their next token and while none does. A step with
64 takes a few times as long as one without; larger chunks read faster, but hold up more."""
_EXIT_S = 5.0


class Engine:
    """Runs jobs until `stop`. The thread begins with the first job."""

    def __init__(self, model: PackedModel, sampling: Sampling, *, queue: int, cache_bytes: int) -> None:
        """At most `queue` jobs wait; `cache_bytes` bounds what is kept of earlier prompts, see Prefixes."""
        self._model = model
        self._sampling = sampling
        self._queue = queue
        self._prefixes = Prefixes(cache_bytes)
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, float] = {}  # since when; prompts are read in this order
        self._changed = threading.Condition()
        self._stopped = False
        self._depth = QUEUE_DEPTH.labels("dialogue")
        self._typical_s = 1.0  # running average of a job's time from its first step to its reply
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)

    def submit(self, job: Job) -> None:
        """Queue a job. Raises Overloaded when too many wait."""
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.reply.cancelled())
            if len(self._waiting) >= self._queue:
                rounds = (len(self._waiting) + 1) / _SEQUENCES
                raise Overloaded(retry_after_s=self._typical_s * max(1.0, rounds))
            self._waiting.append(job)
            self._depth.set(len(self._waiting))
            if self._thread.ident is None:
                self._thread.start()
                atexit.register(_end, weakref.ref(self), self._thread)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread once nothing runs or waits any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _cancel(self) -> None:
        """Give all jobs up, and end the thread."""
        with self._changed:
            for job in [*self._waiting, *self._running]:
                job.reply.cancel()
        self.stop()

    def _work(self) -> None:
        threads = Threads()
        with torch.inference_mode():
            while self._admit():
                with threads.used():
                    self._step()

    def _admit(self) -> bool:
        """Wait for work and take in what may run. False: there will be none."""
        with self._changed:
            while not (self._waiting or self._running or self._stopped):
                self._changed.wait()
            room = _SEQUENCES - len(self._running)
            new = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            if new:
                self._depth.set(len(self._waiting))
        for job in new:
            if not job.reply.cancelled():
                self._running[job] = time.monotonic()
                with self._failing([job]):
                    job.begin(self._prefixes.take)
        return bool(self._running or not self._stopped)

    def _step(self) -> None:
        for job in [job for job in self._running if job.reply.cancelled()]:
            with self._failing([job]):
                self._leave(job)
        drawn: list[_Drawn] = []
        with self._failing(list(self._running)):
            drawn = self._compute(self._batch())
        for job, tokens, logprobs, without in drawn:
            with self._failing([job]):
                job.decoding.extend(tokens, logprobs, without)
                if job.progress():
                    self._typical_s += 0.2 * (time.monotonic() - self._running[job] - self._typical_s)
                    self._leave(job)

    def _batch(self) -> dict[Job, list[Piece]]:
        """What each job feeds in this step. Prompts take turns: who has read goes to the end of the line."""
        batch = {}
        alone = all(job.decoding.reading for job in self._running)
        budget = _CHUNK_ALONE if alone else _CHUNK
        for job in list(self._running):
            if not job.decoding.reading:
                batch[job] = job.decoding.step()
            elif budget:
                piece = job.decoding.tree.chunk(budget)
                batch[job], budget = [piece], budget - len(piece.ids)
                self._running[job] = self._running.pop(job)
        return batch

    def _compute(self, batch: dict[Job, list[Piece]]) -> "list[_Drawn]":
        """One pass of the model, and a token for every candidate whose prompt has been read."""
        pieces = [piece for fed in batch.values() for piece in fed]
        made = iter(self._model(pieces) if pieces else [])
        logits = {job: [next(made) for _ in fed] for job, fed in batch.items()}
        rows = {job: job.decoding.take(of) for job, of in logits.items() if not job.decoding.reading}
        if not rows:
            return []
        tokens, logprobs = self._sampling.draw(
            _joined([given for given, _ in rows.values()]),
            [reply for job in rows for reply in job.decoding.replies()],
            torch.cat([job.decoding.uniform() for job in rows]).to(self._model.device),
        )
        if not all(map(math.isfinite, logprobs)):
            raise ArithmeticError("the model computed something that is no number")
        drawn, begin = [], 0
        for job, (given, without) in rows.items():
            end = begin + len(given)
            drawn.append((job, tokens[begin:end], logprobs[begin:end], without))
            begin = end
        return drawn

    def _leave(self, job: Job) -> None:
        """Let a job go and keep what was computed for it."""
        del self._running[job]
        ids, keys_values = job.decoding.known(job.branch)
        self._prefixes.put(ids, min(len(ids), len(job.decoding.tree.prompt)), keys_values)

    @contextmanager
    def _failing(self, jobs: Iterable[Job]) -> Iterator[None]:
        """If the work within fails, so do the jobs it was for, and nothing of them is kept."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, Problem):
                logger.exception("generating a reply failed")
            for job in jobs:
                self._running.pop(job, None)
                job.settle(error)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """As `torch.cat`, but no copy where one pass made them all, row after row."""
    first, following = parts[0], [part.data_ptr() for part in parts[1:]]
    in_line = [part.data_ptr() + part.nbytes for part in parts[:-1]] == following
    stores = {part.untyped_storage().data_ptr() for part in parts}
    if in_line and len(stores) == 1 and all(part.is_contiguous() for part in parts):
        return first.as_strided((sum(map(len, parts)), first.shape[1]), first.stride())
    return torch.cat(list(parts))


def _end(engine: "weakref.ref[Engine]", thread: threading.Thread) -> None:
    """At the interpreter's exit: a thread that still ran then, if only its last steps, would crash it."""
    if alive := engine():
        alive._cancel()
        del alive
    thread.join(_EXIT_S)


_Drawn = tuple[Job, list[int], list[float], Tensor | None]
