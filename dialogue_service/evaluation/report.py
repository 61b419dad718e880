"""What a person looks at before trusting a candidate. Nothing that anybody said stands in it."""

from dialogue_service.evaluation import small_talk
from dialogue_service.evaluation.scores import Scores
from shared import report
from shared.gate import Verdict

_AXIS = "mean log probability of a token, nats"
_INTRO = (
    "Both models were measured on the same votes, which neither has learned from, and were asked the same "
    "small talk, in which each reads its own replies. Replies are made as in service, with the same seeds."
)
_THUMBS = (
    '<p class="soft">Each dot is a held-out reply: above the line those with thumbs up, below it those with '
    "thumbs down. The further right the upper ones lie of the lower ones, the better a model agrees.</p>"
)


def page(name: str, verdict: Verdict, before: Scores, after: Scores) -> str:
    """As HTML."""
    sections = []
    if before.up or before.down:
        rows = [(verdict.against, before.up, before.down), (name, after.up, after.down)]
        sections.append(("How probable the voted replies are", _THUMBS + report.strips(rows, _AXIS)))
    answers = report.table(
        ("person", f"{verdict.against}, in service", f"{name}, the candidate"),
        [
            list(zip(turns[::2], map(_shown, old), map(_shown, new), strict=True))
            for turns, old, new in zip(small_talk.conversations(), before.replies, after.replies, strict=True)
        ],
    )
    sections.append(("Side by side", answers))
    return report.page(name, verdict, _INTRO, sections)


def _shown(reply: str) -> str:
    return reply or "(no words)"
