"""Replies of Parley's engine next to its peers': from history, from nothing, one after another, at once."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.generation.model import Shape, Words
from benchmarks.generation.peers import CTRANSLATE2, LLAMA, NAIVE, Apart
from benchmarks.generation.report import PARLEY
from benchmarks.sections import Check, Section, Times
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.settings import DialogueSettings
from shared.worker import in_own_thread

REPLY = 20
HISTORY = 900
MESSAGE = 8
WINDOW: int = DialogueSettings.model_fields["context_tokens"].default
_SETTLE_S = 0.4  # OpenMP threads of one column go on spinning for a while, to the next one's cost
_FLOAT_BYTES, _READ_BYTES = 4, 1 << 30

Say = Callable[[str], None]


@dataclass
class Talk:
    """A conversation as the dialogue service has it: each reply becomes part of the next prompt."""

    words: Words
    turns: list[str] = field(default_factory=list)

    async def turn(self, generator: LocalGenerator) -> float:
        """Say something; returns the seconds until the reply."""
        asked = [*self.turns, self.words.turn(MESSAGE)]
        began = time.perf_counter()
        reply = await generator.reply(asked)
        seconds = time.perf_counter() - began
        self.turns = [*asked, reply]
        return seconds


@dataclass
class Bench:
    """What the sections share."""

    checkpoint: Path
    shape: Shape
    words: Words
    peers: dict[str, Apart]
    rounds: int
    say: Say

    def parley(self, **options: Any) -> LocalGenerator:
        """Parley's generator, with the window of the service and one candidate unless told otherwise.

        Have only one at a time, as a service has: each one's thread has OpenMP threads, see in_own_thread.
        """
        usual: dict[str, Any] = {"context_tokens": WINDOW, "reply_tokens": REPLY}
        generator = in_own_thread(lambda: LocalGenerator(self.checkpoint, **(usual | options)))
        generator.warm_up()
        self._expect_full_replies(generator, {**usual, **options}["reply_tokens"])
        return generator

    def _expect_full_replies(self, generator: LocalGenerator, tokens: int) -> None:
        """A streamed reply is not cut to whole sentences; read again, its text has about as many tokens."""
        pieces: list[str] = []
        asyncio.run(generator.reply([self.words.turn(MESSAGE)], on_text=pieces.append))
        if (made := len(self.words.tokenizer("".join(pieces))["input_ids"])) < tokens * 0.75:
            raise RuntimeError(f"Parley made about {made} tokens instead of {tokens}")


def timed(call: Callable[[], object]) -> float:
    """Seconds, after a moment of rest."""
    time.sleep(_SETTLE_S)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def replies(bench: Bench) -> Section:
    """A reply of 20 tokens, at a long history and at an empty one."""
    section = Section(
        "A reply of 20 tokens",
        "Parley and llama.cpp as they live in a server: what they computed for the turn before is still "
        f"there; 'cold' is without that. naive and CTranslate2 keep nothing. Parley reads {WINDOW} tokens at "
        "most, as the service does by default; the others read all.",
    )
    generator = bench.parley()
    for history in (HISTORY, 0):
        cold: dict[str, list[float]] = {}
        warm: dict[str, list[float]] = {}
        for _ in range(bench.rounds):
            before = bench.words.history(history)
            prompt = bench.words.ids([*before, bench.words.turn(MESSAGE)])
            for column, peer in bench.peers.items():
                bench.say(f"{column}: {history} tokens of history")
                cold.setdefault(column, []).append(timed(partial(peer.make, [prompt], REPLY)))
                if column == LLAMA and history:
                    more = prompt + bench.words.ids([bench.words.turn(REPLY), bench.words.turn(MESSAGE)])
                    warm.setdefault(column, []).append(timed(partial(peer.go_on, more, REPLY)))
            bench.say(f"{PARLEY}: {history} tokens of history")
            talk = Talk(bench.words, before)
            time.sleep(_SETTLE_S)
            cold.setdefault(PARLEY, []).append(asyncio.run(talk.turn(generator)))
            if history:
                time.sleep(_SETTLE_S)
                warm.setdefault(PARLEY, []).append(asyncio.run(talk.turn(generator)))
        what = f"{history} tokens of history" if history else "empty history"
        if history:
            section.rows.append((what, _shown(cold | warm)))
            section.rows.append((f"{what}, cold", _shown(cold)))
        else:
            section.rows.append((what, _shown(cold)))
        _compare(section, what, {**cold, **warm})
    return section


def _compare(section: Section, what: str, took: dict[str, list[float]]) -> None:
    medians = {column: Times(values).median for column, values in took.items()}
    bounds = {NAIVE: 20, CTRANSLATE2: 5} if what.startswith(str(HISTORY)) else {NAIVE: 5}
    for column, bound in bounds.items():
        if column in medians:
            ratio = medians[column] / medians[PARLEY]
            section.checks.append(Check.at_least(ratio, bound, f"Reply at {what}, against {column}", "times"))


def decode(bench: Bench) -> Section:
    """Tokens a second of one sequence, and what reading the weights alone would allow."""
    short, long = REPLY, REPLY + 64
    section = Section(
        "Decode, one sequence",
        f"Tokens a second: {long - short} tokens by the time that a reply of {long} tokens takes longer than "
        f"one of {short}, after a prompt of {MESSAGE} tokens. The floor is one reading of all int8 weights "
        "for each token, at the read bandwidth measured in between.",
    )
    rates: dict[str, list[float]] = {}
    bandwidths: list[float] = []
    for _ in range(bench.rounds):
        bench.say("read bandwidth")
        bandwidths.append(_bandwidth())
        prompt = bench.words.ids([bench.words.turn(MESSAGE)])
        for column, peer in bench.peers.items():
            bench.say(f"{column}: decode")
            took = [timed(partial(peer.make, [prompt], count)) for count in (short, long)]
            rates.setdefault(column, []).append((long - short) / (took[1] - took[0]))
        bench.say(f"{PARLEY}: decode")
        took = []
        for count in (short, long):
            generator = bench.parley(reply_tokens=count)
            time.sleep(_SETTLE_S)
            took.append(asyncio.run(Talk(bench.words).turn(generator)))
            del generator
        rates.setdefault(PARLEY, []).append((long - short) / (took[1] - took[0]))
    section.rows.append(("tokens a second", _shown(rates, 1)))
    weights = bench.shape.weights(len(bench.words.tokenizer))
    floor = max(bandwidths) / weights
    section.facts = {
        "read bandwidth, GB/s": Times([b / 1e9 for b in bandwidths]).shown(1),
        "int8 weights, MB": f"{weights / 1e6:.0f}",
        "floor, tokens a second (at the best bandwidth)": f"{floor:.1f}",
    }
    parley = Times(rates[PARLEY]).median
    if CTRANSLATE2 in rates:
        ratio = parley / Times(rates[CTRANSLATE2]).median
        section.checks.append(Check.at_least(ratio, 1.5, "Decode against CTranslate2 int8"))
    section.checks.append(
        Check.at_least(100 * parley / floor, 70, "Decode against the read-bandwidth floor", "%")
    )
    return section


def _bandwidth() -> float:
    """Bytes a second that all cores together read from memory, the best of five passes over a gigabyte."""

    def read() -> float:
        block = torch.ones(_READ_BYTES // _FLOAT_BYTES)
        return _READ_BYTES / min(timed(block.sum) for _ in range(5))

    return in_own_thread(read)


def at_once(bench: Bench) -> Section:
    """Token throughput of several conversations at once against one."""
    section = Section(
        "Conversations at once",
        f"Replies of {REPLY} tokens in conversations of 60 tokens so far, tokens a second of all together. "
        "Parley: as many callers, each conversation warm from its turn before. CTranslate2: one batch. naive "
        "and llama.cpp's bindings make one reply at a time.",
    )
    generator = bench.parley()
    rates: dict[int, dict[str, list[float]]] = {1: {}, 8: {}, 16: {}}
    for _ in range(bench.rounds):
        for callers, columns in rates.items():
            tokens = callers * REPLY
            bench.say(f"{PARLEY}: {callers} at once")
            seconds = asyncio.run(_together(bench, generator, callers))
            columns.setdefault(PARLEY, []).append(tokens / seconds)
            if peer := bench.peers.get(CTRANSLATE2):
                bench.say(f"{CTRANSLATE2}: {callers} at once")
                prompts = [bench.words.ids(bench.words.history(60)) for _ in range(callers)]
                columns.setdefault(CTRANSLATE2, []).append(tokens / timed(partial(peer.make, prompts, REPLY)))
    for callers, columns in rates.items():
        section.rows.append((f"{callers} at once", _shown(columns, 1)))
    for callers, bound in ((8, 4), (16, 6)):
        ratio = Times(rates[callers][PARLEY]).median / Times(rates[1][PARLEY]).median
        section.checks.append(Check.at_least(ratio, bound, f"{callers} conversations at once against one"))
    return section


async def _together(bench: Bench, generator: LocalGenerator, callers: int) -> float:
    talks = [Talk(bench.words, bench.words.history(60)) for _ in range(callers)]
    await asyncio.gather(*(talk.turn(generator) for talk in talks))
    await asyncio.sleep(_SETTLE_S)
    began = time.perf_counter()
    await asyncio.gather(*(talk.turn(generator) for talk in talks))
    return time.perf_counter() - began


def candidates(bench: Bench) -> Section:
    """The best of four replies against one."""
    section = Section(
        "Candidates",
        f"A reply of {REPLY} tokens in a warm conversation of {HISTORY} tokens: one candidate, and the best "
        "of four, ranked.",
    )
    took: dict[int, list[float]] = {1: [], 4: []}
    for _ in range(bench.rounds):
        before = bench.words.history(HISTORY)
        for count, seconds in took.items():
            bench.say(f"{PARLEY}: {count} candidates")
            generator = bench.parley(candidates=count)
            talk = Talk(bench.words, before)
            asyncio.run(talk.turn(generator))
            time.sleep(_SETTLE_S)
            seconds.append(asyncio.run(talk.turn(generator)))
            del generator
    for count, values in took.items():
        section.rows.append((f"{count} candidate{'s' * (count > 1)}", {PARLEY: Times(values).shown()}))
    ratio = Times(took[4]).median / Times(took[1]).median
    section.checks.append(Check.at_most(ratio, 1.6, "Four ranked candidates against one"))
    return section


def _shown(columns: dict[str, list[float]], digits: int = 2) -> dict[str, str]:
    return {column: Times(values).shown(digits) for column, values in columns.items()}


SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "replies": replies,
    "decode": decode,
    "at-once": at_once,
    "candidates": candidates,
}


def run(name: str, bench: Bench) -> Section:
    """One section; what it loaded is gone afterwards."""
    section = SECTIONS[name](bench)
    gc.collect()
    return section
