"""One reply that somebody waits for: text in, text out. What lies between is decoding's."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dialogue_service import metrics, prompt
from dialogue_service.generation import OnText, ranking
from dialogue_service.generation.candidate import Candidate
from dialogue_service.generation.decoding import Blank, Branch, Decoding
from dialogue_service.generation.piece import KeyValues
from dialogue_service.generation.preference import Preference
from dialogue_service.generation.text import Stream, whole_sentences
from shared.metrics import QUEUE_WAIT, TOKENIZATION
from shared.problems import EmptyReply

_ATTEMPTS = 3


@dataclass(frozen=True)
class Speaker:
    """What all replies of a model have in common."""

    tokenizer: Any
    ids_of: prompt.Ids
    window: int
    """Tokens of a prompt at most."""
    reply_tokens: int
    candidates: int
    end_ids: frozenset[int]
    blank: Blank
    like: Tensor
    preference: Preference | None = None

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, white space at the beginning included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Job:
    """From turns to `reply`, a future that anybody may wait for, and cancel. The rest is the engine's
    thread's."""

    def __init__(
        self, speaker: Speaker, turns: Sequence[str], seed: int | None, on_text: OnText | None
    ) -> None:
        self.reply: Future[str] = Future()
        self.decoding: Decoding
        self._speaker = speaker
        self._turns = turns
        self._seed = seed
        self._stream = Stream(on_text) if on_text else None
        self._attempts = 0
        self._drawn: list[Candidate] = []
        self.branch: int | None = 0
        """The one that became the reply; None for one of an earlier attempt."""
        self._made = time.monotonic()
        self._began: float
        self._spoke: float | None = None  # when the first token came

    def begin(self, known: Callable[[Sequence[int]], KeyValues]) -> None:
        """Encode the prompt and take what is known of it."""
        speaker = self._speaker
        self._began = time.monotonic()
        QUEUE_WAIT.labels("dialogue").observe(self._began - self._made)
        with TOKENIZATION.labels("dialogue").time():
            ids = prompt.encode(speaker.tokenizer, self._turns, speaker.window, speaker.ids_of)
        reused = known(ids)
        metrics.PROMPT_TOKENS.inc(len(ids))
        metrics.REUSED_TOKENS.inc(reused.length)
        self.decoding = Decoding(
            ids,
            reused,
            branches=1 if self._stream else speaker.candidates,
            reply_tokens=speaker.reply_tokens,
            end_ids=speaker.end_ids,
            seed=self._seed,
            blank=speaker.blank,
            like=speaker.like,
        )

    def progress(self) -> bool:
        """Called after each token. True: there is a reply, and `branch` is what became it."""
        if self._spoke is None:
            self._spoke = time.monotonic()
        if self._stream:
            self._stream.show(self._speaker.text(self.decoding.branches[0].ids))
        if not self.decoding.done:
            return False
        self._attempts += 1
        metrics.GENERATED_TOKENS.inc(sum(len(branch.ids) for branch in self.decoding.branches))
        if text := self._streamed() if self._stream else self._best():
            metrics.PREFILL.observe(self._spoke - self._began)
            metrics.DECODE.observe(time.monotonic() - self._spoke)
            self.settle(text)
            return True
        if self._attempts == _ATTEMPTS:
            raise EmptyReply
        self.decoding.again()
        return False

    def settle(self, result: str | Exception) -> None:
        """Give the waiting one a reply or an error."""
        with suppress(InvalidStateError):  # it gave up in this moment
            if isinstance(result, str):
                self.reply.set_result(result)
            else:
                self.reply.set_exception(result)

    def _streamed(self) -> str:
        assert self._stream  # noqa: S101  # narrows the type
        return self._stream.end(self._speaker.text(self.decoding.branches[0].ids))

    def _best(self) -> str:
        """The best of all that were drawn so far; nothing where another attempt may bring a better one."""
        new = [self._candidate(branch) for branch in self.decoding.branches]
        self._drawn += new
        best = ranking.best(self._drawn, self._turns)
        unlikely = self._speaker.preference is not None and best is not None and best.liking <= 0
        if best is None or (unlikely and self._attempts < _ATTEMPTS):
            return ""
        self.branch = new.index(best) if best in new else None
        return best.text

    def _candidate(self, branch: Branch) -> Candidate:
        text, preference = self._speaker.text(branch.ids).strip(), self._speaker.preference
        return Candidate(
            text=text if branch.finished else whole_sentences(text),
            ids=tuple(branch.ids),
            logprob=branch.logprob,
            opening_logprob=branch.opening_logprob,
            unconditional=branch.unconditional,
            finished=branch.finished,
            liking=preference.log_odds(branch.terms) if preference else 0.0,
        )


def on_loop(loop: asyncio.AbstractEventLoop, on_text: OnText) -> OnText:
    """`on_text` for another thread: called on `loop`, in order."""

    def hand_over(piece: str) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            loop.call_soon_threadsafe(on_text, piece)

    return hand_over
