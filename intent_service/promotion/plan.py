"""What the making of a candidate is told, and which corrections it must not learn from. Nothing heavy."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from intent_service.catalog import Catalog
from intent_service.examples import Example

FILE = "plan.json"
FEEDBACK = "feedback.jsonl"

LEAST = 12
"""Corrections to learn from, at least."""
LEAST_HELD_OUT = 4
"""And to measure on: with fewer the gate could not tell anything."""

_HELD_OUT = 0.2


class Plan(BaseModel):
    """A head for `catalog` that is to become the version `name` in `registry`.

    It is compared with the model in the folder `base`, which serves under the name `against`; `encoder`, a
    folder or hub id, is what it stands on. The rest is what an NLI model is told, and how exactly `base`
    computes.
    """

    feedback: Path
    catalog: Path
    base: Path
    against: str
    encoder: str
    registry: Path
    name: str
    hypothesis: str
    nli_known: float
    nli_lead: float
    fast: bool

    def write(self, folder: Path) -> None:
        """For the process of a job."""
        (folder / FILE).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """What `write` wrote."""
        return cls.model_validate_json((folder / FILE).read_bytes())


def usable(corrections: Sequence[Example], catalog: Catalog) -> list[Example]:
    """Those to an intent of the catalogue, or to none; each message once, as it was corrected last."""
    labels = {intent.label for intent in catalog.intents}
    known = [example for example in corrections if example.intent in labels or not example.in_scope]
    return list({_key(example): example for example in known}.values())


def hold_out(corrections: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Split into (learned from, held out): a message is always on the same side."""
    held = [example for example in corrections if _is_held_out(example)]
    return [example for example in corrections if not _is_held_out(example)], held


def _key(example: Example) -> str:
    return " ".join(example.text.casefold().split())


def _is_held_out(example: Example) -> bool:
    return int.from_bytes(hashlib.sha256(_key(example).encode()).digest()[:8]) / 2**64 < _HELD_OUT
