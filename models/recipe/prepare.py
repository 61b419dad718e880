"""Make the starter's training data: clean the public corpora, add small talk and recall, write JSON Lines.

Usage: python models/recipe/prepare.py CORPORA OUTPUT. CORPORA is a folder with ms-chitchat,
synthetic-persona-chat, self-dialogue and topical-chat, each holding train.jsonl and valid.jsonl of
{"turns": [...]} rows; OUTPUT gets copy.jsonl, recall.jsonl, train.jsonl and valid.jsonl.
"""

import json
import random
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

from recall import Recall
from smalltalk import SmallTalk

SEED = 20261125
AUTHORED = {"train": 40_000, "valid": 150}
RECALL = {"train": 36_000, "valid": 150}
COPY = 8_000
COPY_FIRST = 30_000  # learned before anything else
CHITCHAT_PASSES = {"train": 3, "valid": 1}  # each pass draws other replies
CORPUS_PASSES = {"train": 2, "valid": 1}
WINDOWS = {  # corpus: (most words in a turn, windows to take for training, for validation)
    "synthetic-persona-chat": (24, 6_000, 100),
    "self-dialogue": (16, 7_000, 60),
    "topical-chat": (20, 800, 15),
}
MIXED = {"ms-chitchat": 16_000, "authored": 24_000, "recall": 24_000, "copy": 6_000}  # in train.jsonl at most
PER_TOPIC = 250  # of self-dialogue, which is mostly about films and music

TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "´": "'", "`": "'"}
)
WORD = re.compile(r"\w+")
PLACEHOLDER = re.compile(r"[\[\]{}<>()*]|\buser ?[12]\b|https?:|www\.", re.IGNORECASE)
OFFENSIVE = re.compile(
    r"\b(?:f+u+c+k\w*|shit\w*|bitch\w*|ass|asses|asshole\w*|dick\w*|cunt\w*|penis\w*|sex\w*|porn\w*|nig+\w*|damn\w*|crap\w*"
    r"|bastard\w*|slut\w*|whore\w*|rap(?:e|ed|ist|es)|suicid\w*|kill\w*|murder\w*|naked|nude\w*|hell|wtf|boob\w*|tit|tits"
    r"|hitler|nazi\w*|gay|lesbian|racis\w*|terroris\w*|drug|drugs|cocaine|die|dead)\b",
    re.IGNORECASE,
)


def main(corpora: Path, output: Path) -> None:
    """Write what each run learns from, and `valid.jsonl`, into `output`; print what each source gave.

    No training dialogue holds a name of a person, a pet or a place that is held out for tests.
    """
    output.mkdir(parents=True, exist_ok=True)
    for split in ("train", "valid"):
        seed = SEED + (split == "valid")
        talk = SmallTalk(chitchat_wordings(corpora, split), seed)
        recall = Recall(talk.aside, seed, unseen=split == "valid")
        shuffle = random.Random(f"{SEED} {split}")  # noqa: S311 - seeded data, no secret
        sources = {
            "ms-chitchat": [pair for _ in range(CHITCHAT_PASSES[split]) for pair in talk.pairs()],
            "authored": [talk.dialogue() for _ in range(AUTHORED[split])],
            "recall": [recall.dialogue() for _ in range(RECALL[split])],
            **pieces(corpora, split, shuffle),
        }
        if split == "train":
            names = recall.names(held_out=True)
            sources = {source: without(names, found) for source, found in sources.items()}
            said = [turn for found in sources.values() for turns in found for turn in turns]
            words = [word for turn in said for word in turn.split()]
            copies = [recall.copy(words) for _ in range(COPY_FIRST)]
            sources["copy"] = copies[:COPY]
            write(output / "copy.jsonl", copies)
            write(output / "recall.jsonl", sources["recall"] + sources["copy"])
            shuffle.shuffle(sources["ms-chitchat"])  # else whole scenarios would be cut off
            sources = {source: found[: MIXED.get(source)] for source, found in sources.items()}
        dialogues = [turns for found in sources.values() for turns in found]
        shuffle.shuffle(dialogues)
        write(output / f"{split}.jsonl", dialogues)
        for source, found in sources.items():
            count = sum(len(turn.split()) for turns in found for turn in turns)
            print(f"{split}, {source}: {len(found)} dialogues, {count} words")


def without(names: Set[str], dialogues: Sequence[list[str]]) -> list[list[str]]:
    """Leave out the dialogues in which one of the names stands."""
    return [turns for turns in dialogues if names.isdisjoint(WORD.findall(" ".join(turns)))]


def pieces(corpora: Path, split: str, shuffle: random.Random) -> dict[str, list[list[str]]]:
    """Take pieces of the corpora of long dialogues, `CORPUS_PASSES` times."""
    taken = {}
    for corpus, (words, train, valid) in WINDOWS.items():
        rows = read(corpora / corpus / f"{split}.jsonl")
        found = [window for row in per_topic(rows) for window in windows(row["turns"], words)]
        chosen = shuffle.sample(found, min(len(found), train if split == "train" else valid))
        taken[corpus] = chosen * CORPUS_PASSES[split]
    return taken


def write(path: Path, dialogues: Sequence[list[str]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps({"turns": turns}) + "\n" for turns in dialogues), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def clean(text: str) -> str:
    """Write typographic characters in ASCII, drop what has no ASCII form, and single the white space."""
    plain = unicodedata.normalize("NFKD", text.translate(TYPOGRAPHY)).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", plain).strip()


def chitchat_wordings(corpora: Path, split: str) -> dict[str, list[str]]:
    """Group the user lines of ms-chitchat by scenario, which its "friendly" reply names."""
    scenarios: defaultdict[str, list[str]] = defaultdict(list)
    for row in read(corpora / "ms-chitchat" / f"{split}.jsonl"):
        user, bot = row["turns"]
        if row["style"] == "friendly" and not OFFENSIVE.search(user):
            scenarios[bot].append(clean(user))
    return scenarios


def per_topic(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Keep at most `PER_TOPIC` dialogues of each topic; rows without a topic all stay."""
    seen: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        topic = row.get("topic")
        if topic is None or seen[topic] < PER_TOPIC:
            yield row
            seen[topic] += topic is not None


def windows(turns: Sequence[str], most_words: int, length: int = 8, stride: int = 5) -> Iterator[list[str]]:
    """Cut a dialogue into pieces of at most `length` turns without placeholders, offence or long turns.

    The odd stride makes each speaker the replying one in turn.
    """
    cleaned = [clean(turn) for turn in turns]
    if any(PLACEHOLDER.search(turn) for turn in cleaned):
        return
    for start in range(0, len(cleaned) - 3, stride):
        piece = cleaned[start : start + length]
        piece = piece[: len(piece) // 2 * 2]
        fine = all(0 < len(turn.split()) <= most_words and not OFFENSIVE.search(turn) for turn in piece)
        if fine and len(piece) >= 4 and len(set(piece)) == len(piece):
            yield piece


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
