"""What one training run is told: one dataclass, and every check that needs more than one option."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal


class SettingsError(ValueError):
    """The options of a run contradict each other or the disk; one problem per line."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The options of a run.

    `model` is a folder or hub id to fine-tune, `from_scratch` a JSON file of sizes; one of them is given,
    with the latter perhaps `induction`. Lengths count tokens, `warmup` and `valid_fraction` are shares
    between 0 and 1, `max_steps` stands instead of `epochs`.
    """

    data: tuple[Path, ...]
    output: Path
    model: str | None = None
    from_scratch: Path | None = None
    induction: bool = False
    valid_data: tuple[Path, ...] = ()
    valid_fraction: float = 0.05
    learn: Literal["replies", "all"] = "replies"
    epochs: float = 3.0
    max_steps: int | None = None
    learning_rate: float = 5e-5
    warmup: float = 0.03
    weight_decay: float = 0.01
    tokens_per_batch: int = 1600
    max_length: int = 256
    seed: int = 0
    checkpoint_every: int = 200
    resume: bool = False
    save_dtype: Literal["fp16", "fp32"] = "fp32"
    name: str | None = None
    about: Path | None = None
    generation_config: Path | None = None

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished run keeps what `--resume` needs."""
        return self.output / "checkpoints"

    @property
    def model_name(self) -> str:
        """The name written on the card: `name`, else the output folder's."""
        return self.name or self.output.resolve().name

    def check(self) -> None:
        """Raise `SettingsError` that names every problem at once."""
        problems = [*self._number_problems(), *self._source_problems(), *self._output_problems()]
        if problems:
            raise SettingsError("\n".join(problems))

    def recorded(self) -> dict[str, Any]:
        """Return what decides the result, as JSON values; files are named without their folders."""
        beside = {"output", "resume", "checkpoint_every", "name", "about"}
        beside |= {"epochs"} if self.max_steps else set()
        beside |= {"valid_fraction"} if self.valid_data else set()
        values = {option.name: _plain(getattr(self, option.name)) for option in fields(self)}
        if self.model is not None and Path(self.model).is_dir():
            values["model"] = Path(self.model).resolve().name
        return {option: value for option, value in values.items() if option not in beside}

    def _number_problems(self) -> Iterator[str]:
        positive = ("epochs", "learning_rate", "tokens_per_batch", "checkpoint_every")
        for option in positive:
            if not getattr(self, option) > 0:
                yield f"--{option.replace('_', '-')} must be greater than 0, not {getattr(self, option)}"
        if self.max_steps is not None and self.max_steps < 1:
            yield f"--max-steps must be at least 1, not {self.max_steps}"
        if self.max_length < 8:
            yield f"--max-length must be at least 8 tokens, not {self.max_length}"
        if self.tokens_per_batch < self.max_length:
            yield (
                f"--tokens-per-batch ({self.tokens_per_batch}) must hold one dialogue of --max-length"
                f" ({self.max_length}) tokens"
            )
        for option in ("valid_fraction", "warmup", "weight_decay"):
            if not 0 <= getattr(self, option) < 1:
                yield f"--{option.replace('_', '-')} must lie in [0, 1), not {getattr(self, option)}"
        if self.seed < 0:
            yield f"--seed must not be negative, not {self.seed}"

    def _source_problems(self) -> Iterator[str]:
        if (self.model is None) == (self.from_scratch is None):
            yield "give exactly one of --model (fine-tune it) and --from-scratch (sizes of a new model)"
        if self.induction and self.from_scratch is None:
            yield "--induction is for a new model: give it with --from-scratch"
        if not self.data:
            yield "--data needs at least one file"
        for path in (*self.data, *self.valid_data, self.from_scratch, self.about, self.generation_config):
            if path is not None and not path.is_file():
                yield f"{path}: no such file"
        if not self.valid_data and self.valid_fraction == 0:
            yield "nothing to measure on: give --valid-data, or a --valid-fraction above 0"

    def _output_problems(self) -> Iterator[str]:
        if (self.output / "card.json").exists():
            yield f"{self.output} already holds a trained model: choose another --output or remove the folder"
        unfinished = self.checkpoints.exists()
        if unfinished and not self.resume:
            yield f"{self.checkpoints} holds an unfinished run: continue with --resume, or remove the folder"
        if self.resume and not unfinished:
            yield f"nothing to resume: {self.checkpoints} does not exist"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
