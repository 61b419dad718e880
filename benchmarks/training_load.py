"""What a training job costs those who chat meanwhile: `python -m benchmarks.training_load`.

Parley as `make run` starts it, with the shipped starter. It writes benchmarks/training_load.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from benchmarks.generation.stack import Stack, running
from dialogue_service.evaluation import small_talk

REPORT = Path(__file__).with_suffix(".md")
TARGET = 2.0
_SAY = Console(stderr=True)


def lines() -> list[str]:
    """What is said: the person's part of the small talk that is shipped."""
    return [line for turns in small_talk.conversations() for line in turns[::2]]


def vote(client: httpx.Client, count: int) -> None:
    """Thumbs up for every second reply to what was said, down for the others."""
    replies = [reply for turns in small_talk.conversations() for reply in turns[1::2]]
    for number in range(count):
        said = {
            "input": f"{lines()[number % len(replies)]} ({number})",
            "response": replies[number % len(replies)],
        }
        feedback = "positive" if number % 2 else "negative"
        client.post("/feedback", json=said | {"feedback": feedback}).raise_for_status()


class Chat:
    """Somebody who says one line after the other, each conversation three lines long."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._said = 0

    def turn(self) -> float:
        """Milliseconds of one request."""
        conversation = f"bench-{self._said // 3}"
        message = lines()[self._said % len(lines())]
        self._said += 1
        began = time.perf_counter()
        self._client.post("/chat", json={"message": message, "conversation": conversation}).raise_for_status()
        return 1000 * (time.perf_counter() - began)


def measure(stack: Stack, votes: int, turns: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """The latencies by what went on meanwhile, and the job at its end."""
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.port}", timeout=120) as client:
        vote(client, votes)
        chat = Chat(client)
        for _ in range(10):
            chat.turn()
        _SAY.print(f"{turns} turns without a job")
        took = {"no job": [chat.turn() for _ in range(turns)]}
        began = time.perf_counter()
        job = client.post("/training", json={"method": "kto", "activate": False}).raise_for_status().json()
        while not job["ended"]:
            stage = job["stage"]
            latency = chat.turn()
            job = client.get(f"/training/{job['id']}").json()
            if job["stage"] == stage:  # a turn between two stages belongs to neither
                took.setdefault(stage, []).append(latency)
            _SAY.print(f"{stage}, step {job['step']} of {job['total']}: {latency:.0f} ms")
        if job["error"]:
            raise SystemExit(f"the job failed: {job['error']}")
        return took, job | {"seconds": time.perf_counter() - began}


def p95(values: Sequence[float]) -> float:
    """Of at least two."""
    return statistics.quantiles(values, n=20)[-1]


def report(took: dict[str, list[float]], job: dict[str, Any], votes: int) -> str:
    """As Markdown."""
    idle = took["no job"]
    rows = []
    for stage, values in took.items():
        if len(values) < 20:  # too short a stage to say anything of
            continue
        median = statistics.median(values)
        ratios = f"{median / statistics.median(idle):.2f} | {p95(values) / p95(idle):.2f}"
        rows.append(f"| {stage} | {len(values)} | {median:.0f} | {p95(values):.0f} | {ratios} |")
    whole = [latency for stage, values in took.items() if stage != "no job" for latency in values]
    ratio = statistics.median(whole) / statistics.median(idle)
    verdict = "met" if ratio <= TARGET else "missed"
    return f"""# Chatting while a training job runs

Written by `make bench-training` on {time.strftime("%Y-%m-%d")}, with {os.cpu_count()} processors: Parley as
`make run` starts it, the shipped starter, one person who chats without a pause, and a job of method
{job["method"]} on {votes} votes, which took {job["seconds"]:.0f} s beside that.
Milliseconds of a `POST /chat`.

| meanwhile | turns | median | p95 | median, times no job | p95, times no job |
|---|---|---|---|---|---|
{chr(10).join(rows)}

The median over the whole job is {ratio:.2f} times that without one; the target, at most {TARGET:g} times, is
{verdict}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_load", description=__doc__)
    parser.add_argument("--votes", type=int, default=120)
    parser.add_argument("--turns", type=int, default=150, help="without a job")
    given = parser.parse_args(arguments)
    with running(DIALOGUE_MODEL="", DIALOGUE_DEADLINE="120") as stack:
        took, job = measure(stack, given.votes, given.turns)
    text = report(took, job, given.votes)
    REPORT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
