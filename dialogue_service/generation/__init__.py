"""How replies are made: one protocol, one file for each way."""

from collections.abc import Callable, Sequence
from typing import Protocol

OnText = Callable[[str], None]


class Generator(Protocol):
    """Makes the next turn of a conversation."""

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        """The next turn after `turns` (oldest first; the last one is the message to answer). Not blank.

        With `on_text` the reply is handed out piece by piece as it is made, on the caller's event loop, in
        order; the pieces joined are exactly the returned reply. Then one candidate is made, else several of
        which the best is returned. `seed` makes the reply reproducible.
        Cancelling the call stops the computation within one token (deadline and disconnect are both
        cancellations: callers use `asyncio.timeout`). Raises Overloaded at once when the queue is full
        (Retry-After from measured service time), EmptyReply when the model has nothing to say,
        ModelNotReady or another Problem for an upstream.
        """
        ...

    def warm_up(self) -> None:
        """One real inference, blocking, for the loader's thread.

        Raises ModelUnavailable, or whatever a broken folder makes it raise.
        """
        ...
