"""What thumbs teach: `python -m benchmarks.learning --data FOLDER` writes benchmarks/learning.md.

A simulated person with one stated taste talks to the starter and votes on each reply. After so many votes the
training that `make train` runs makes a new version, and the person compares its replies to messages that
nobody voted on with those of the starter.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.progress import Progress

from benchmarks.held_out import CORPORA, contexts
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.settings import DialogueSettings
from dialogue_service.training.data import DataError, read_file
from dialogue_service.training.model import load
from dialogue_service.training.settings import Method, TrainingSettings
from dialogue_service.training.sft import Batches
from dialogue_service.training.trainer import run, score
from shared.settings import REPOSITORY

REPORT = Path(__file__).with_suffix(".md")
STARTER = REPOSITORY / "models" / "starter"
METHODS: tuple[Method, ...] = get_args(Method)
MOST_WORDS = 12
MEASURED = 25
"""Dialogues of each corpus whose perplexity is measured."""
TARGET_VOTES, PREFERRED_TARGET, PERPLEXITY_TARGET = 300, 0.75, 0.03

Conversation = tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one training; shares lie between 0 and 1."""

    votes: int
    preferred: float
    liked: float
    distinct: float
    perplexity: float
    """Relative change."""
    seconds: float = 0.0


def likes(reply: str) -> bool:
    """The person's taste: short replies that ask something back."""
    return reply.rstrip().endswith("?") and len(reply.split()) <= MOST_WORDS


def preferred(tuned: Sequence[str], untuned: Sequence[str]) -> float:
    """Share of the pairs in which the person likes the tuned reply better; a tie counts half."""
    wins = [0.5 + (likes(new) - likes(old)) / 2 for new, old in zip(tuned, untuned, strict=True)]
    return statistics.fmean(wins)


def listen(folder: Path, spoken: Sequence[Conversation], seed: int) -> list[str]:
    """The replies of the model in `folder`, made as the service makes them with its default settings."""
    defaults = DialogueSettings.model_fields
    generator = LocalGenerator(
        folder,
        **{
            name: defaults[name].default
            for name in ("context_tokens", "reply_tokens", "candidates", "dtype", "cache_mb")
        },
        queue=len(spoken),
    )

    async def talk() -> list[str]:
        seeds = (seed * 1_000_000 + number for number in range(len(spoken)))
        replies = (generator.reply(turns, seed=one) for turns, one in zip(spoken, seeds, strict=True))
        return list(await asyncio.gather(*replies))

    return asyncio.run(talk())


def voted(spoken: Sequence[Conversation], replies: Sequence[str]) -> str:
    """Votes as `GET /feedback/export` writes them."""
    rows = [
        {
            "id": f"{number}-1",
            "turns": [*turns, reply],
            "rating": "positive" if likes(reply) else "negative",
        }
        for number, (turns, reply) in enumerate(zip(spoken, replies, strict=True))
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


class Experiment:
    """What all trainings of one seed have in common."""

    def __init__(self, data: Path, seed: int, most_votes: int, prompts: int, folder: Path) -> None:
        held = [one.turns for corpus in CORPORA for one in contexts(data, corpus, most_votes + prompts, seed)]
        random.Random(seed).shuffle(held)  # noqa: S311 - a seeded shuffle, no secret
        held = [turns[-1:] for turns in held]  # each opens a conversation, which takes the least time
        self.seed = seed
        self._folder = folder
        self._asked, self._unseen = held[:most_votes], held[most_votes:][:prompts]
        self._said = listen(STARTER, self._asked, seed=3 * seed)
        self._untuned = listen(STARTER, self._unseen, seed=3 * seed + 1)
        self._dialogues = [
            dialogue
            for corpus in CORPORA
            for dialogue in read_file(data / corpus / "valid.jsonl").dialogues[:MEASURED]
        ]
        self._perplexity = self._measure(STARTER)

    def outcome(self, method: Method, votes: int) -> Outcome | None:
        """Train on the first `votes` votes; None when the training refuses because they are too few."""
        if not votes:
            return self._judge(STARTER, 0, 0.0)
        output = self._folder / f"{self.seed}-{method}-{votes}"
        data = self._folder / f"{self.seed}-{votes}.jsonl"
        data.write_text(voted(self._asked[:votes], self._said[:votes]), encoding="utf-8")
        began = time.perf_counter()
        settings = TrainingSettings(
            data=(data,), model=str(STARTER), output=output, method=method, seed=self.seed
        )
        try:
            run(settings)
        except DataError:
            return None
        return self._judge(output, votes, time.perf_counter() - began)

    def _judge(self, folder: Path, votes: int, seconds: float) -> Outcome:
        replies = listen(folder, self._unseen, seed=3 * self.seed + 2)
        return Outcome(
            votes,
            preferred(replies, self._untuned),
            statistics.fmean(map(likes, replies)),
            len(set(replies)) / len(replies),
            self._measure(folder) / self._perplexity - 1 if votes else 0.0,
            seconds,
        )

    def _measure(self, folder: Path) -> float:
        model, tokenizer = load(str(folder))
        settings = TrainingSettings(data=(), output=Path())
        return score(model, Batches(self._dialogues, tokenizer, settings))["perplexity"]


def table(outcomes: dict[tuple[Method, int], list[Outcome | None]]) -> str:
    """One line for each method and number of votes: medians over the seeds, and the range of the first."""
    lines = ["| method | votes | preferred | (range) | liked | different replies | perplexity | training |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for (method, votes), all_seeds in outcomes.items():
        done = [one for one in all_seeds if one]
        if not done:
            lines.append(f"| {method} | {votes} | refused: too few votes | | | | | |")
            continue

        def median(of: Callable[[Outcome], float], done: list[Outcome] = done) -> float:
            return statistics.median(map(of, done))

        shares = [one.preferred for one in done]
        lines.append(
            f"| {method} | {votes} | **{median(lambda o: o.preferred):.0%}** | {min(shares):.0%} to"
            f" {max(shares):.0%} | {median(lambda o: o.liked):.0%} | {median(lambda o: o.distinct):.0%} |"
            f" {median(lambda o: o.perplexity):+.1%} | {median(lambda o: o.seconds):.0f} s |"
        )
    return "\n".join(lines)


def verdict(outcomes: dict[tuple[Method, int], list[Outcome | None]]) -> str:
    """Whether the targets are met, in words."""
    said = []
    for method in METHODS:
        done = [one for one in outcomes.get((method, TARGET_VOTES), []) if one]
        if not done:
            continue
        share = statistics.median(one.preferred for one in done)
        worse = statistics.median(one.perplexity for one in done)
        liked = "met" if share >= PREFERRED_TARGET else "missed"
        kept = "met" if worse <= PERPLEXITY_TARGET else "missed"
        said.append(f"- {method}: preferred {share:.0%} ({liked}), perplexity {worse:+.1%} ({kept})")
    return "\n".join(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the report. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(CORPORA)}")
    parser.add_argument("--votes", type=int, nargs="+", default=[0, 50, 100, 200, 300])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--prompts", type=int, default=100, help="unseen messages that are answered")
    given = parser.parse_args(arguments)
    if missing := [corpus for corpus in CORPORA if not (given.data / corpus / "valid.jsonl").is_file()]:
        print(
            f"skipped: {given.data} lacks {', '.join(missing)}; name the folder with DATA=", file=sys.stderr
        )
        return 0
    began = time.perf_counter()
    outcomes: dict[tuple[Method, int], list[Outcome | None]] = {
        (method, votes): [] for method in METHODS for votes in given.votes
    }
    with Progress() as bars, tempfile.TemporaryDirectory() as folder:
        task = bars.add_task("learning", total=len(given.seeds) * len(outcomes))
        for seed in given.seeds:
            bars.update(task, description=f"seed {seed}: talking")
            experiment = Experiment(given.data, seed, max(given.votes), given.prompts, Path(folder))
            for (method, votes), found in outcomes.items():
                bars.update(task, description=f"seed {seed}: {method} on {votes} votes")
                found.append(experiment.outcome(method, votes))
                bars.console.print(f"seed {seed}, {method}: {found[-1]}", highlight=False)
                bars.advance(task)
    text = report(outcomes, given.seeds, given.prompts, (time.perf_counter() - began) / 60)
    REPORT.write_text(text, encoding="utf-8")
    print(text)
    return 0


def report(
    outcomes: dict[tuple[Method, int], list[Outcome | None]],
    seeds: Sequence[int],
    prompts: int,
    minutes: float,
) -> str:
    """As Markdown."""
    card = json.loads((STARTER / "card.json").read_text(encoding="utf-8"))
    starter = f"{card['parameters'] / 1e6:.1f} million parameters, trained on {card['date']}"
    return f"""# Does it learn from thumbs?

Written by `make bench-learning` on {time.strftime("%Y-%m-%d")}, in {minutes:.0f} minutes: {len(seeds)} seeds,
{prompts} messages, the starter with {starter}.
Times are those of the machine as it was, which others may have used too.

A simulated person likes replies of at most {MOST_WORDS} words that ask something back, and nothing else.
It says messages from the validation dialogues of {", ".join(CORPORA)}
(each opens a conversation), votes on each reply of the starter, and the training that
`make train` runs learns from the votes with its default settings. Replies are made by the service's own
generator as it is set by default, best of four candidates; a version that has learned from thumbs draws up to
twice more where it finds none likely to be liked.

- preferred: on {prompts} messages that nobody voted on, the tuned model's reply and the untuned one's are
  compared; the person prefers the one it likes, and a tie (both or neither liked) counts half. By chance, or
  without learning anything, that is 50 %.
- liked: share of the tuned model's replies that the person likes
- different replies: low where a model says the same to everything
- perplexity: change on the second speakers' turns of {MEASURED} validation dialogues of each corpus
- of the votes every fifth is held out, as always

Medians over the seeds {", ".join(map(str, seeds))}, each with its own messages, votes and training.

{table(outcomes)}

Target after {TARGET_VOTES} votes: preferred in {PREFERRED_TARGET:.0%} of the comparisons or more,
perplexity worse by {PERPLEXITY_TARGET:.0%} at most.

{verdict(outcomes)}
"""


if __name__ == "__main__":
    sys.exit(main())
