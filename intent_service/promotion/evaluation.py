"""A candidate beside the model in service: on corrections, the catalogue's examples, and what is neither."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from intent_service.catalog import Catalog
from intent_service.classifiers import Classifier
from intent_service.classifiers import verdict as verdicts
from intent_service.examples import OUT_OF_SCOPE, Example
from shared import report
from shared.gate import Measure, Verdict, Z

_OUT_OF_SCOPE = Path(__file__).with_name("out_of_scope.txt")
_BATCH = 32


@dataclass(frozen=True)
class Answers:
    """What a classifier said to each message of three kinds: the label it named, None where it is unknown."""

    corrected: tuple[str | None, ...]
    catalogue: tuple[str | None, ...]
    strange: tuple[str | None, ...]


@dataclass(frozen=True)
class Material:
    """The messages: held-out corrections, the catalogue's examples, and the fixed ones out of scope."""

    catalog: Catalog
    corrected: Sequence[Example]

    @property
    def catalogue(self) -> list[Example]:
        """Both models have learned from these, so most must be right."""
        return [Example(text, intent.label) for intent in self.catalog.intents for text in intent.examples]

    def ask(self, classifier: Classifier) -> Answers:
        """Classify all."""
        return Answers(
            self._named(classifier, [example.text for example in self.corrected]),
            self._named(classifier, [example.text for example in self.catalogue]),
            self._named(classifier, out_of_scope()),
        )

    def _named(self, classifier: Classifier, texts: Sequence[str]) -> tuple[str | None, ...]:
        starts = range(0, len(texts), _BATCH)
        found = [a for at in starts for a in classifier.classify(texts[at : at + _BATCH], self.catalog)]
        return tuple(map(_label, found))


@cache
def out_of_scope() -> tuple[str, ...]:
    """Messages that are about none of what most catalogues hold."""
    return tuple(_OUT_OF_SCOPE.read_text(encoding="utf-8").splitlines())


def verdict(material: Material, before: Answers, after: Answers, against: str) -> Verdict:
    """What the gate says."""
    corrected = [_right(material.corrected, answers.corrected) for answers in (before, after)]
    measures = [
        Measure(
            name="corrections answered right",
            said=f"of {len(material.corrected)} held-out messages whose intent was corrected",
            before=_share(corrected[0]),
            after=_share(corrected[1]),
            better="higher",
            aim=True,
            condition=f"higher by over {Z} standard errors",
            bound=Z * _error(*corrected),
        )
    ]
    if examples := material.catalogue:
        known = [_right(examples, answers.catalogue) for answers in (before, after)]
        measures.append(
            _guard("catalogue answered right", f"of the catalogue's {len(examples)} examples", known, 0.03)
        )
    refused = [[label is None for label in answers.strange] for answers in (before, after)]
    said = f"of {len(before.strange)} fixed messages about other things, answered unknown"
    measures.append(_guard("out of scope refused", said, refused, 0.05))
    return Verdict(against, tuple(measures))


def _guard(name: str, said: str, hits: Sequence[Sequence[bool]], most: float) -> Measure:
    """What must not become worse by more than `most`, or by more than chance explains."""
    return Measure(
        name=name,
        said=said,
        before=_share(hits[0]),
        after=_share(hits[1]),
        better="higher",
        condition=f"at most {most} or {Z} standard errors lower",
        bound=max(most, Z * _error(*hits)),
    )


def page(name: str, judged: Verdict, before: Answers, after: Answers) -> str:
    """The report as HTML. No message of a conversation stands in it."""
    rows = [
        (text, old or "unknown", new or "unknown")
        for text, old, new in zip(out_of_scope(), before.strange, after.strange, strict=True)
    ]
    shown = report.table(
        ("message out of scope", f"{judged.against}, in service", f"{name}, the candidate"), [rows]
    )
    return report.page(name, judged, _INTRO, [("Side by side", shown)])


_INTRO = (
    "Both models answered the same messages: corrected ones that the candidate has not learned from, the "
    "catalogue's own examples, and fixed ones that are about none of its intents."
)


def _label(answer: verdicts.Verdict) -> str | None:
    return answer.ranking[0].label if answer.known else None


def _right(examples: Sequence[Example], named: Sequence[str | None]) -> list[bool]:
    return [
        label == (None if example.intent == OUT_OF_SCOPE else example.intent)
        for example, label in zip(examples, named, strict=True)
    ]


def _share(hits: Sequence[bool]) -> float:
    return sum(hits) / max(1, len(hits))


def _error(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Standard error of the difference of two shares of the same messages (as in McNemar 1947)."""
    changed = sum(old != new for old, new in zip(before, after, strict=True))
    return math.sqrt(changed) / max(1, len(before))
