"""What the making of a candidate is told. Imports nothing heavy."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from dialogue_service.training.settings import TrainingSettings

FILE = "plan.json"
FEEDBACK = "feedback.jsonl"

_LARGE_BYTES = 400 * 10**6
_LORA_RANK = 16


class Plan(BaseModel):
    """A candidate that is to become the version `name` in `registry`.

    It is made from the model in the folder `base`, which serves under the name `against`. `generation` are
    the options by which replies are made.
    """

    data: tuple[Path, ...]
    method: Literal["sft", "kto"]
    base: Path
    against: str
    registry: Path
    name: str
    generation: dict[str, Any]

    def write(self, folder: Path) -> None:
        """For the process of a job."""
        (folder / FILE).write_text(self.model_dump_json(), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """What `write` wrote."""
        return cls.model_validate_json((folder / FILE).read_bytes())

    def training(self, work: Path) -> TrainingSettings:
        """How the candidate is trained, in the folder `work`.

        Of large models only matrices of a low rank are learned: all weights would take much memory.
        """
        size = sum(file.stat().st_size for file in self.base.glob("*.safetensors"))
        return TrainingSettings(
            data=self.data,
            output=work / "model",
            model=str(self.base),
            method=self.method,
            lora=_LORA_RANK if size > _LARGE_BYTES else 0,
            name=self.name,
        )
