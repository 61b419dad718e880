"""How good replies are: `python -m benchmarks.replies --data FOLDER` writes benchmarks/replies.md.

Two questions, both put to the starter on held-out dialogues. What does it buy to choose among several
candidates, and by which number? And what do 8-bit weights lose? One half of the contexts chooses the
numbers in dialogue_service/generation/ranking.py, the other half reports.
"""

import argparse
import copy
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from benchmarks.choices import (
    CHOICES,
    FIRST,
    OURS,
    Choose,
    Meaning,
    Rows,
    chosen_table,
    faults,
    rank_table,
    with_error,
)
from benchmarks.held_out import CORPORA, Context, Proposal, Voice, contexts, dialogues, learned_texts
from dialogue_service.evaluation.measures import distinct, phrases_again, runs, said_again, share
from dialogue_service.generation import int8
from dialogue_service.generation.candidate import OPENING
from dialogue_service.training.data import read_file
from dialogue_service.training.settings import TrainingSettings
from dialogue_service.training.sft import Batches
from dialogue_service.training.trainer import score
from shared.settings import REPOSITORY

REPORT = Path(__file__).with_suffix(".md")
STARTER = REPOSITORY / "models" / "starter"
CANDIDATES = 4
DISTRACTORS = 19
EXCHANGES = 6
_SEED = 20261122
VERDICT = """What the ranking buys stands below, in whole conversations: it keeps the model from saying again
what it has said. Of single replies it makes fewer odd ones, and no more than chance brings them nearer to
what a person said; so the starter's probabilities hardly tell which reply is the right one. The numbers were
chosen with the starter's first edition; no others do better by more than chance with this one.
"""


def weigh_true(voice: Voice, held: Sequence[Context], draw: random.Random) -> list[list[Proposal]]:
    """The true reply of each context and `DISTRACTORS` of other contexts of the same corpus."""
    weighed = []
    for context in held:
        others = sorted({other.reply for other in held if other.corpus == context.corpus} - {context.reply})
        weighed.append(voice.weigh(context.turns, [context.reply, *draw.sample(others, DISTRACTORS)]))
    return weighed


def talk(voice: Voice, opened: Sequence[Sequence[str]], choose: Choose) -> list[list[str]]:
    """Conversations of `EXCHANGES`: the first speakers' lines are real, the replies are the model's."""
    torch.manual_seed(_SEED)
    histories: list[list[str]] = [[] for _ in opened]
    for exchange in range(EXCHANGES):
        for history, turns in zip(histories, opened, strict=True):
            history.append(turns[2 * exchange])
        for history, some in zip(histories, voice.propose(histories, CANDIDATES), strict=True):
            # An empty turn would read as two ends in a row.
            history.append(choose(some, history).text or "...")
    return histories


def talk_table(voice: Voice, opened: Sequence[Sequence[str]]) -> Rows:
    """One row for each way to choose that is worth a conversation."""
    rows: Rows = []
    for name in (FIRST, "mean log p", "blandness 0.75, length 0.5", OURS):
        replies = [history[1::2] for history in talk(voice, opened, CHOICES[name])]
        every = [text for own in replies for text in own]
        rows.append(
            (
                name,
                f"{distinct(every, 1):.3f}",
                f"{distinct(every, 2):.3f}",
                f"{share(said_again(replies)):.1%}",
                f"{share(phrases_again(replies)):.1%}",
            )
        )
    return rows


def int8_table(voice: Voice, data: Path, each: int) -> Rows:
    """Loss on the second speakers' turns: exact, as the service makes the model, and all in int8."""
    held = [dialogue for c in CORPORA for dialogue in read_file(data / c / "valid.jsonl").dialogues[:each]]
    batches = Batches(held, voice.tokenizer, TrainingSettings(data=(), output=Path()))
    served, whole = copy.deepcopy(voice.model), copy.deepcopy(voice.model)
    int8.quantize(served)
    for parent in list(whole.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (Conv1D, nn.Linear)):
                weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
                setattr(parent, name, int8.Int8Linear(weight, layer.bias))
    whole.set_input_embeddings(int8.Int8Embedding(whole.get_input_embeddings().weight))
    models = {
        "fp32": voice.model,
        "int8 as served (the embedding, and layers of 500,000 weights and more: the output layer)": served,
        "int8 in every layer": whole,
    }
    scores = {name: score(model, batches) for name, model in models.items()}
    exact = scores["fp32"]["perplexity"]
    return [
        (name, f"{got['loss']:.4f}", f"{got['perplexity']:.3f}", f"{got['perplexity'] / exact - 1:+.2%}")
        for name, got in scores.items()
    ]


def table(head: tuple[str, ...], rows: Rows) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows))


def differences(alike: dict[str, list[float]], than: str) -> str:
    """How much nearer the ranking's replies are to the true ones, pair by pair."""
    pairs = zip(alike[OURS], alike[than], strict=True)
    return with_error([ours - theirs for ours, theirs in pairs])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replies", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {', '.join(CORPORA)}")
    parser.add_argument("--contexts", type=int, default=120, help="of each corpus, at most")
    parser.add_argument("--conversations", type=int, default=24)
    given = parser.parse_args(arguments)
    voice, meaning = Voice(STARTER), Meaning()
    draw = random.Random(_SEED)  # noqa: S311 - a seeded draw, no secret
    torch.manual_seed(_SEED)
    held = [one for corpus in CORPORA for one in contexts(given.data, corpus, given.contexts, _SEED)]
    weighed = weigh_true(voice, held, draw)
    proposed = voice.propose([context.turns for context in held], CANDIDATES)
    heard = {run for text in learned_texts(given.data) for run in runs(text, 3)}
    tuned, _ = chosen_table(held[::2], proposed[::2], meaning, heard)
    reported, alike = chosen_table(held[1::2], proposed[1::2], meaning, heard)
    long = [turns for turns in dialogues(given.data, "self-dialogue") if len(turns) >= 2 * EXCHANGES]
    opened = draw.sample(long, given.conversations)

    dialogues_each = 2 * given.contexts
    choice = (
        "chosen by",
        "distinct-1",
        "distinct-2",
        "also said elsewhere",
        "ten commonest",
        "words",
        "unheard",
        "likeness",
    )
    rank = ("ordered by", "recall@1", "MRR")
    text = f"""# How good replies are

Written by `make bench-replies` on {time.strftime("%Y-%m-%d")}: the starter in float32, {len(held)} contexts
from the validation dialogues of {", ".join(CORPORA)} (at most
{given.contexts} of each, one of a dialogue), {
        CANDIDATES
    } candidates for each, sampled as the service samples. Every
second context chose the numbers, the others report. After ± stands one standard error.

## Choosing among candidates

p is the probability of a reply given the conversation, q that of its first {OPENING} tokens given nothing.
Parley orders by log p - blandness log q + length n c (MMI-antiLM, Li et al. 2016, arXiv:1510.03055), where n
is the number of tokens and c what a token costs on average in the candidates, in nats; it also takes off a
nat for each phrase of three words that the model said before in the conversation, and sets faulty candidates
aside.

- distinct-1, distinct-2: different words and word pairs among all of them (Li et al. 2016)
- also said elsewhere: replies that were given word for word in another context too; ten commonest: the
  share of the ten commonest replies
- unheard: runs of three words that occur nowhere in what the starter learned from, a rough measure of odd
  wording (what people wrote is new, not odd)
- likeness: cosine between the reply and the one a person gave, vectors by all-MiniLM-L6-v2 (an embedding
  metric as in Liu et al. 2016, arXiv:1603.08023)

Contexts that report:

{table(choice, reported)}

Parley's ranking less the first candidate, likeness: {differences(alike, FIRST)};
less the most probable per token: {differences(alike, "mean log p")}.

Contexts that chose:

{table(choice, tuned)}

## Finding the true reply

The reply a person gave among {
        DISTRACTORS
    } of other contexts of the same corpus (next utterance classification,
Lowe et al. 2015, arXiv:1506.08909). By chance recall@1 is 0.050 and MRR 0.180.

Contexts that report:

{table(rank, rank_table(weighed[1::2]))}

Contexts that chose:

{table(rank, rank_table(weighed[::2]))}

{VERDICT}

## Whole conversations

{len(opened)} dialogues of self-dialogue: the first speaker's lines are real, the model replies {
        EXCHANGES
    } times and
reads its own replies.

{
        table(
            (
                "chosen by",
                "distinct-1",
                "distinct-2",
                "replies said before",
                "phrases of 3 words said before",
            ),
            talk_table(voice, opened),
        )
    }

## Faults

What the ranking leaves out where it can, among all candidates and in what people wrote.

{
        table(
            ("whose", "no word", "cut off", "own turn again", "echo", "same four words twice"),
            faults(held, proposed),
        )
    }

## int8

The starter's loss on the second speakers' turns of the first {dialogues_each} validation dialogues of each
corpus (of ms-chitchat with its own replies, which the starter was not taught; hence the distance to the
perplexity on its card). Weights in int8 by output channel, activations by token. What larger models lose is
not measured here: Parley has no weights of theirs.

{
        table(
            ("weights", "nats per token", "perplexity", "change"),
            int8_table(voice, given.data, dialogues_each),
        )
    }
"""
    REPORT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
