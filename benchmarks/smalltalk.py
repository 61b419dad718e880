"""Replies to be read: `python -m benchmarks.smalltalk` prints what the starter says to a hundred messages.

As the service samples: 8-bit weights, several candidates. The messages are those of
models/recipe/prompts.txt, each one the first of a conversation.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.held_out import RECIPE, REPLY_TOKENS, WINDOW
from benchmarks.recall import CANDIDATES
from benchmarks.replies import STARTER
from dialogue_service.generation.local import LocalGenerator

_SEED = 20261125


async def replies(folder: Path, messages: Sequence[str]) -> list[str]:
    """The reply to each message, seeded."""
    generator = LocalGenerator(
        folder,
        context_tokens=WINDOW,
        reply_tokens=REPLY_TOKENS,
        candidates=CANDIDATES,
        dtype="int8",
        queue=len(messages),
    )
    return await asyncio.gather(*(generator.reply([message], seed=_SEED) for message in messages))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object a line, `{"message", "reply"}`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smalltalk", description=__doc__)
    parser.add_argument("--model", type=Path, default=STARTER)
    given = parser.parse_args(arguments)
    messages = (RECIPE / "prompts.txt").read_text("utf-8").splitlines()
    for message, reply in zip(messages, asyncio.run(replies(given.model, messages)), strict=True):
        print(json.dumps({"message": message, "reply": reply}))


if __name__ == "__main__":
    main()
