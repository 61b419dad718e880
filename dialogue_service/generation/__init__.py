"""How replies are made: one protocol, one file for each way."""

from collections.abc import Callable, Sequence
from typing import Protocol

OnText = Callable[[str], None]
"""Called with each new piece of a reply, on the event loop of the caller."""


class Generator(Protocol):
    """Makes the next turn of a conversation.

    It owns what it computes with and is released when nobody refers to it any more: a caller that waits
    for a reply does.
    """

    @property
    def dtype(self) -> str:
        """What its layers compute with, such as float32; empty where that is not known."""
        ...

    async def reply(
        self, turns: Sequence[str], *, seed: int | None = None, on_text: OnText | None = None
    ) -> str:
        """The next turn after `turns` (oldest first; the last one is the message to answer). Not blank.

        With `on_text` the reply is handed out piece by piece as it is made, in order; the pieces joined are
        exactly what is returned. Then one candidate is made, else several of which the best is returned.
        `seed` makes the reply reproducible. Cancelling the call stops the computation within one token.
        Raises Overloaded at once when the queue is full, EmptyReply when the model has nothing to say.
        """
        ...

    def warm_up(self) -> None:
        """One real inference, blocking, for the thread that loads. Raises whatever a broken model raises."""
        ...
