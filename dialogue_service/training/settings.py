"""What one training run is told: one dataclass, and every check that needs more than one option."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

Method = Literal["sft", "kto"]


DEFAULT_RATE: dict[Method, float] = {"sft": 5e-5, "kto": 2e-4}
"""Peak learning rates that benchmarks/learning.md was measured with, for a model as wide as the starter."""
DEFAULT_WIDTH = 256
"""A wider model gets less, in proportion (for Adam: Yang et al. 2022, arXiv:2203.03466)."""
LORA_RATE = 10
"""LoRA's matrices want a higher rate than the weights themselves, by about this much."""


class SettingsError(ValueError):
    """The options of a run contradict each other or the disk; one problem per line."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The options of a run.

    `model` is a folder or hub id to fine-tune (`revision` of it), `from_scratch` a JSON file of sizes
    (perhaps with `induction`); one of them is given. So is one of `output`, a folder for the model, and
    `registry`, the folder in which it becomes the version `name`. `method`: sft learns to say replies, kto
    learns from thumbs (see `thumbs`).
    `lora` is the rank of the matrices that are learned instead of the weights (Hu et al. 2021,
    arXiv:2106.09685), 0 for all weights. Lengths count tokens, `warmup` and `valid_fraction` are shares
    between 0 and 1, `max_steps` stands instead of `epochs`. After `checkpoint_every` steps, or each pass over
    the data if that is shorter (but 10 steps), the held-out loss is measured; what was best is kept, and
    training stops when it has not been better for `patience` times.
    """

    data: tuple[Path, ...]
    output: Path | None = None
    registry: Path | None = None
    model: str | None = None
    revision: str | None = None
    from_scratch: Path | None = None
    induction: bool = False
    valid_data: tuple[Path, ...] = ()
    valid_fraction: float = 0.1
    method: Method = "sft"
    lora: int = 0
    learn: Literal["replies", "all"] = "replies"
    epochs: float = 6.0
    max_steps: int | None = None
    learning_rate: float | None = None
    beta: float = 3.0
    warmup: float = 0.03
    weight_decay: float = 0.01
    tokens_per_batch: int = 1600
    max_length: int = 256
    seed: int = 0
    checkpoint_every: int = 200
    patience: int = 3
    resume: bool = False
    save_dtype: Literal["fp16", "fp32"] = "fp32"
    name: str | None = None
    about: Path | None = None
    generation_config: Path | None = None

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished run keeps what `--resume` needs."""
        return self.output / "checkpoints" if self.output else (self.registry or Path()) / ".training"

    @property
    def note(self) -> Path:
        """What an unfinished run was begun with."""
        return self.checkpoints / "run.json"

    def peak_rate(self, width: int) -> float:
        """The learning rate for a model whose hidden states have `width` numbers."""
        usual = DEFAULT_RATE[self.method] * (LORA_RATE if self.lora else 1) * DEFAULT_WIDTH / width
        return self.learning_rate or usual

    @property
    def model_name(self) -> str:
        """The name written on the card: `name`, else the output folder's."""
        return self.name or (self.output.resolve().name if self.output else "")

    def check(self) -> None:
        """Raise `SettingsError` that names every problem at once."""
        problems = [*self._number_problems(), *self._source_problems(), *self._output_problems()]
        if problems:
            raise SettingsError("\n".join(problems))

    def recorded(self) -> dict[str, Any]:
        """Return what decides the result, as JSON values; files are named without their folders."""
        beside = {"output", "registry", "resume", "name", "about"}
        beside |= {"epochs"} if self.max_steps else set()
        beside |= {"beta"} if self.method != "kto" else set()
        values = {option.name: _plain(getattr(self, option.name)) for option in fields(self)}
        if self.model is not None and Path(self.model).is_dir():
            values["model"] = Path(self.model).resolve().name
        return {option: value for option, value in values.items() if option not in beside}

    def _number_problems(self) -> Iterator[str]:
        positive = ("epochs", "learning_rate", "beta", "tokens_per_batch", "checkpoint_every", "patience")
        for option in positive:
            if (given := getattr(self, option)) is not None and not given > 0:
                yield f"--{option.replace('_', '-')} must be greater than 0, not {given}"
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
        if self.lora < 0:
            yield f"--lora must be a rank, or 0 for none, not {self.lora}"
        if self.seed < 0:
            yield f"--seed must not be negative, not {self.seed}"

    def _source_problems(self) -> Iterator[str]:
        if (self.model is None) == (self.from_scratch is None):
            yield "give exactly one of --model (fine-tune it) and --from-scratch (sizes of a new model)"
        if self.induction and self.from_scratch is None:
            yield "--induction is for a new model: give it with --from-scratch"
        if self.from_scratch and (self.method == "kto" or self.lora):
            yield "--method kto and --lora need a --model to begin with, not --from-scratch"
        if not self.data:
            yield "--data needs at least one file"
        for path in (*self.data, *self.valid_data, self.from_scratch, self.about, self.generation_config):
            if path is not None and not path.is_file():
                yield f"{path}: no such file"
        if not self.valid_data and self.valid_fraction == 0:
            yield "nothing to measure on: give --valid-data, or a --valid-fraction above 0"

    def _output_problems(self) -> Iterator[str]:
        if (self.output is None) == (self.registry is None):
            yield "give exactly one of an output folder and a registry"
        if self.registry and not self.name:
            yield "a version in a registry needs a --name"
        if self.output and (self.output / "card.json").exists():
            yield f"{self.output} already holds a trained model: choose another --output or remove the folder"
        if self.note.exists() and not self.resume:
            yield f"{self.checkpoints} holds an unfinished run: continue with --resume, or remove the folder"
        if self.resume and not self.note.exists():
            yield f"nothing to resume: there is no unfinished run in {self.checkpoints}"


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return value.name
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
