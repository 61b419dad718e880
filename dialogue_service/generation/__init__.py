"""How replies are made: one protocol, one file for each way."""

import threading
from collections.abc import Sequence
from typing import Protocol


class Generator(Protocol):
    """Makes the next turn of a conversation."""

    def reply(self, turns: Sequence[str], stop: threading.Event) -> str:
        """The next turn after `turns` (oldest first; the last one is the message to answer).

        Not blank. Ends within one token of `stop` being set; what it returns then does not matter.
        Raises EmptyReply when the model has nothing to say.
        """
        ...
