"""What one training run is told: one dataclass, and every check that needs more than one option."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from intent_service import bundled, catalog


class SettingsError(ValueError):
    """The options of a run contradict each other or the disk; one problem per line."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The options of a run.

    `output` None means the registry. `encoder` is a folder or hub id, `most_refused` a share. `steps` and
    `learning_rate` are those of the fine-tuning; with `steps` None it goes through all texts `epochs` times.
    """

    output: Path | None = None
    data: tuple[Path, ...] = ()
    catalog: Path | None = catalog.SHIPPED
    encoder: str = bundled.NAME
    finetune_encoder: bool = False
    epochs: float = 8.0
    steps: int | None = None
    learning_rate: float = 1e-4
    most_refused: float = 0.035
    seed: int = 0
    name: str | None = None

    @property
    def model_name(self) -> str:
        """The name written on the card: `name`, else the output folder's."""
        return self.name or (self.output.resolve().name if self.output else "")

    def check(self) -> None:
        """Raise `SettingsError` that names every problem at once."""
        if problems := list(self._problems()):
            raise SettingsError("\n".join(problems))

    def recorded(self) -> dict[str, Any]:
        """Return what decides the result, as JSON values; files are named without their folders."""
        values = {option.name: _plain(getattr(self, option.name)) for option in fields(self)}
        if Path(self.encoder).is_dir():
            values["encoder"] = Path(self.encoder).resolve().name
        return {option: value for option, value in values.items() if option not in ("output", "name")}

    def _problems(self) -> Iterator[str]:
        if self.catalog is None and not self.data:
            yield "nothing to learn from: give --data, or a --catalog with examples"
        for path in (*self.data, self.catalog):
            if path is not None and not path.is_file():
                yield f"{path}: no such file"
        for option in ("epochs", "learning_rate"):
            if not getattr(self, option) > 0:
                yield f"--{option.replace('_', '-')} must be greater than 0, not {getattr(self, option)}"
        if self.steps is not None and self.steps < 1:
            yield f"--steps must be at least 1, not {self.steps}"
        if not 0 < self.most_refused < 1:
            yield f"--most-refused must lie between 0 and 1, not {self.most_refused}"
        if self.seed < 0:
            yield f"--seed must not be negative, not {self.seed}"
        if self.output and (self.output / "card.json").exists():
            yield f"{self.output} already holds a trained model: choose another --output or remove the folder"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
