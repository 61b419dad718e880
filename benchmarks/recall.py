"""Whether the starter uses what it was told: `python -m benchmarks.recall --data FOLDER` writes recall.md.

Generated conversations with values that no training dialogue holds, answered by the generator that the
service uses, as it samples: 8-bit weights, several candidates. A value is told, two to six messages later
asked for; or it is asked for without having been told.
"""

import argparse
import asyncio
import math
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM

from benchmarks.held_out import RECIPE, REPLY_TOKENS, WINDOW
from benchmarks.replies import STARTER, Rows, table
from dialogue_service.generation.local import LocalGenerator
from dialogue_service.settings import DialogueSettings
from dialogue_service.training.data import Dialogue
from dialogue_service.training.rows import IGNORED, encode
from shared.checkpoint import load_model, load_tokenizer

sys.path.insert(0, str(RECIPE))
import prepare  # type: ignore[import-not-found]
from recall import Case, Recall  # type: ignore[import-not-found]
from smalltalk import SmallTalk  # type: ignore[import-not-found]

REPORT = Path(__file__).with_suffix(".md")
OTHER_WORDINGS = Path(__file__).with_suffix(".yaml")
CANDIDATES: int = DialogueSettings.model_fields["candidates"].default
BETWEEN = range(1, 6)
"""Exchanges between the telling and the question, which is then the second to sixth message."""
ADMITS = re.compile(
    r"\b(?:haven't|have not|don't know|do not know|didn't|not told|not yet|no idea|tell me|what is it"
    r"|what is your|what's your)\b",
    re.IGNORECASE,
)
_SEED = 20261125


@dataclass(frozen=True)
class Answered:
    """A test conversation and the last reply."""

    case: Case
    between: int
    reply: str

    @property
    def right(self) -> bool:
        """It names the value, or where none was told, says so."""
        if not self.case.told:
            return bool(ADMITS.search(self.reply))
        return re.search(rf"\b{re.escape(self.case.fact.value)}\b", self.reply, re.IGNORECASE) is not None


def cases(data: Path, each: int, wordings: dict[str, Any]) -> list[tuple[Case, int]]:
    """`each` told and `each` untold ones of every distance."""
    talk = SmallTalk(prepare.chitchat_wordings(data, "valid"), _SEED)
    draw = Recall(talk.aside, _SEED + bool(wordings), unseen=True, wordings=wordings)
    return [
        (draw.case(told, between), between)
        for told in (True, False)
        for between in BETWEEN
        for _ in range(each)
    ]


async def talk_all(folder: Path, drawn: Sequence[tuple[Case, int]], candidates: int) -> list[Answered]:
    """All conversations at once, the model's own replies in between."""
    generator = LocalGenerator(
        folder,
        context_tokens=WINDOW,
        reply_tokens=REPLY_TOKENS,
        candidates=candidates,
        dtype="int8",
        queue=len(drawn),
    )

    async def talk(number: int, case: Case, between: int) -> Answered:
        turns: list[str] = []
        for message in case.messages:
            turns.append(message)
            turns.append(await generator.reply(turns, seed=_SEED + number))
        return Answered(case, between, turns[-1])

    return await asyncio.gather(*(talk(number, *one) for number, one in enumerate(drawn)))


def shares(answered: Sequence[Answered]) -> tuple[str, str]:
    """Right ones of the told, invented ones of the untold, in per cent."""
    told = [one.right for one in answered if one.case.told]
    untold = [not one.right for one in answered if not one.case.told]
    return f"{sum(told) / len(told):.1%}", f"{sum(untold) / len(untold):.1%}"


def held_out_turns(data: Path) -> Iterator[tuple[str, Dialogue]]:
    """Cleaned windows of the validation dialogues, the same for every model."""
    for corpus, (words, _, _) in prepare.WINDOWS.items():
        rows = prepare.read(data / corpus / "valid.jsonl")
        windows = [window for row in rows for window in prepare.windows(row["turns"], words)]
        for turns in windows[:400]:
            yield corpus, Dialogue(tuple(turns), tuple(i % 2 == 1 for i in range(len(turns))))


@torch.inference_mode()
def nats_per_byte(folder: Path, data: Path) -> dict[str, float]:
    """Loss on the second speakers' turns by corpus, per byte of text and end of turn: tokenizers differ."""
    model, tokenizer = load_model(AutoModelForCausalLM, folder), load_tokenizer(folder)
    nats: defaultdict[str, float] = defaultdict(float)
    size: Counter[str] = Counter()
    for corpus, dialogue in held_out_turns(data):
        if (row := encode(dialogue, tokenizer, WINDOW)) is None:
            raise ValueError("a piece is longer than the window")
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        learned = labels[0, 1:] != IGNORED
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        logprob = float(logprobs.gather(1, ids[0, 1:, None])[learned].sum())
        said = dialogue.turns[1::2]
        for name in (corpus, "all"):
            nats[name] -= logprob
            size[name] += sum(len(turn.encode()) + 1 for turn in said)
    return {name: nats[name] / size[name] for name in nats}


def measure(folder: Path, data: Path, each: int) -> tuple[Rows, list[Answered]]:
    """Recall of one model, row by row, and its answers as the service makes them."""
    other = yaml.safe_load(OTHER_WORDINGS.read_text("utf-8"))
    drawn = cases(data, each, {})
    answered = asyncio.run(talk_all(folder, drawn, CANDIDATES))
    rows = [("all", *shares(answered))]
    for between in BETWEEN:
        rows.append((f"{between + 1} messages later", *shares([a for a in answered if a.between == between])))
    for kind in sorted({one.case.fact.kind for one in answered}):
        rows.append((kind, *shares([one for one in answered if one.case.fact.kind == kind])))
    rows.append(("as streamed: one candidate", *shares(asyncio.run(talk_all(folder, drawn, 1)))))
    foreign = asyncio.run(talk_all(folder, cases(data, each, other), CANDIDATES))
    rows.append(("told and asked in wordings never taught", *shares(foreign)))
    return rows, answered


def spoken(answered: Sequence[Answered], count: int) -> str:
    """The last words of some wrong answers."""
    wrong = [one for one in answered if not one.right][:count]
    return "\n".join(
        f"- {one.case.fact.value if one.case.told else 'not told'}: "
        f"{' / '.join(one.case.messages)} \N{RIGHTWARDS ARROW} {one.reply}"
        for one in wrong
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recall", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the dialogue corpora")
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--against", type=Path, help="another edition's folder, to stand beside it")
    parser.add_argument("--each", type=int, default=40, help="told and untold conversations of each distance")
    parser.add_argument("--report", type=Path, default=REPORT)
    given = parser.parse_args(arguments)
    editions = {"starter": given.model} | ({"before": given.against} if given.against else {})
    measured = {name: measure(folder, given.data, given.each) for name, folder in editions.items()}
    losses = {name: nats_per_byte(folder, given.data) for name, folder in editions.items()}
    first, answered = measured["starter"]
    rows = [
        (row[0], *(cell for name in editions for cell in measured[name][0][index][1:]))
        for index, row in enumerate(first)
    ]
    head = (
        "",
        *(f"{name}: {what}" for name in editions for what in ("right when told", "invented when not")),
    )
    loss_rows = [
        (corpus, *(f"{losses[name][corpus]:.4f} ({math.exp(losses[name][corpus]):.3f})" for name in editions))
        for corpus in losses["starter"]
    ]
    given.report.write_text(
        f"""# Whether the starter uses what it was told

Written by `make bench-recall` on {time.strftime("%Y-%m-%d")}: {len(answered)} generated conversations,
one half with a value told (a name, a home, a pet's or a relative's name, a favorite thing), one half without.
The values are in no training dialogue of models/recipe. Between telling and question the person makes small
talk, or tells something else, and the model answers itself: {CANDIDATES} candidates, as the service samples,
with 8-bit weights. Right: the reply to the question names the value. Invented: nothing was told, and the
reply does not say so. "before" is the edition that it is compared with (`--against`).

{table(head, rows)}

## Wrong answers, the first twenty

{spoken(answered, 20)}

## Held-out loss

Cleaned pieces of the corpora's validation dialogues, the second speaker's turns: nats per byte of text and
end of turn, for the editions have different tokens; in brackets the perplexity per byte.

{table(("corpus", *editions), loss_rows)}
""",
        encoding="utf-8",
    )
    print(f"written to {given.report}")


if __name__ == "__main__":
    main()
