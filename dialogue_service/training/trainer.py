"""One training run, start to end: data and model in, a `safetensors` folder with its card out."""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from dialogue_service.training import card
from dialogue_service.training.data import DataError, DataFile, Dialogue, hold_out, read_files
from dialogue_service.training.induction import plant
from dialogue_service.training.model import check_saved, create, load, read_generation_config, read_sizes
from dialogue_service.training.rows import IGNORED, Row, batches, collate, encode
from dialogue_service.training.settings import SettingsError, TrainingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """The dialogues of a run: those to learn from, those to measure on, and the files both came from."""

    files: list[DataFile]
    learned: list[Dialogue]
    held_out: list[Dialogue]


class Batches(Dataset[list[Row]]):
    """Rows as `Trainer` sees them: an item is a whole batch, grouped by length. `dropped` are too long."""

    def __init__(
        self, dialogues: Sequence[Dialogue], tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings
    ) -> None:
        rows = [encode(dialogue, tokenizer, settings.max_length) for dialogue in dialogues]
        self.rows = [row for row in rows if row is not None]
        self.dropped = len(rows) - len(self.rows)
        if not self.rows:
            raise DataError(
                f"no reply fits into {settings.max_length} tokens together with the turn before it"
            )
        self.batches = batches(self.rows, settings.tokens_per_batch, settings.seed)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Row]:
        return self.batches[index]


def run(settings: TrainingSettings) -> dict[str, Any]:
    """Train and save as the settings say, and return the content of the `card.json` that was written.

    Raises `SettingsError`, `DataError` or `ModelError`, before training starts, for anything wrong with what
    was given. An interrupted run leaves its checkpoints, a finished one removes them.
    """
    settings.check()
    about = card.read_about(settings.about)
    generation_config = read_generation_config(settings.generation_config)
    corpus = _read(settings)
    set_seed(settings.seed)
    checkpoint = _newest_checkpoint(settings.checkpoints)
    model, tokenizer = _start(settings, corpus, checkpoint)
    train = Batches(corpus.learned, tokenizer, settings)
    valid = Batches(corpus.held_out, tokenizer, settings)
    before = _open_run(settings, corpus, model, valid)
    log.info("learning from %d dialogues, measuring on %d: %s", len(train.rows), len(valid.rows), before)

    steps = _train(settings, model, tokenizer, train, checkpoint)
    after = score(model, valid)

    if generation_config is not None:
        model.generation_config = generation_config
    _save(settings, model, tokenizer)
    content = card.content(
        settings=settings,
        model=model,
        files=corpus.files,
        scores={"before": before, "after": after},
        training={
            "steps": steps,
            "dialogues": len(train.rows),
            "held_out_dialogues": len(valid.rows),
            "left_out_too_long": train.dropped + valid.dropped,
        },
        about=about,
    )
    card.write(settings.output, content)
    shutil.rmtree(settings.checkpoints)
    return content


def score(model: PreTrainedModel, held_out: Batches) -> dict[str, float]:
    """Measure `loss` (mean cross-entropy of the learned tokens in nats), `perplexity`, `tokens`."""
    model.train(False)
    total, tokens = 0.0, 0
    with torch.no_grad():
        for batch in held_out.batches:
            inputs = {name: tensor.to(model.device) for name, tensor in collate(batch, pad_id=0).items()}
            count = int((inputs["labels"] != IGNORED).sum())
            total += float(model(**inputs).loss) * count
            tokens += count
    loss = total / tokens
    return {"loss": round(loss, 4), "perplexity": round(math.exp(min(loss, 100.0)), 3), "tokens": tokens}


def bf16_in_hardware() -> bool:
    """Whether this machine multiplies bfloat16 natively; emulated it is slower than float32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _read(settings: TrainingSettings) -> Corpus:
    files = read_files([*settings.data, *settings.valid_data], settings.learn)
    count = len(settings.data)
    learned = [dialogue for file in files[:count] for dialogue in file.dialogues]
    held_out = [dialogue for file in files[count:] for dialogue in file.dialogues]
    if not settings.valid_data:
        learned, held_out = hold_out(learned, settings.valid_fraction, settings.seed)
    return Corpus(files, learned, held_out)


def _newest_checkpoint(folder: Path) -> Path | None:
    # The state file is the last one that Trainer writes, so a checkpoint that has it is whole.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _start(
    settings: TrainingSettings, corpus: Corpus, checkpoint: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if checkpoint is not None:
        model, tokenizer = load(str(checkpoint))
    elif settings.model is not None:
        model, tokenizer = load(settings.model)
    elif settings.from_scratch is not None:
        texts = chain.from_iterable(dialogue.turns for dialogue in corpus.learned)
        model, tokenizer = create(read_sizes(settings.from_scratch), texts)
        if settings.induction:
            plant(model)
    window = getattr(model.config, "max_position_embeddings", None)
    if window is not None and settings.max_length > window:
        raise SettingsError(f"--max-length ({settings.max_length}) is more than the model's {window} tokens")
    # transformers reads the loss off the class name, and logs a warning about GPT2LMHeadModel.
    model.loss_type = "ForCausalLM"
    return model, tokenizer


def _open_run(
    settings: TrainingSettings, corpus: Corpus, model: PreTrainedModel, valid: Batches
) -> dict[str, float]:
    """Return the scores before training: measured and noted down at the start, read back on `--resume`.

    Raises `SettingsError` when the run to resume was begun with other settings or data.
    """
    note = settings.checkpoints / "run.json"
    now = {"settings": settings.recorded(), "data": [file.sha256 for file in corpus.files]}
    if note.exists():
        begun = json.loads(note.read_text(encoding="utf-8"))
        if begun["run"] != now:
            raise SettingsError(
                f"{settings.checkpoints} was begun with other settings or data: resume with the same ones"
                f" ({json.dumps(begun['run']['settings'])}), or remove the folder"
            )
        before: dict[str, float] = begun["before"]
        return before
    before = score(model, valid)
    settings.checkpoints.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"run": now, "before": before}), encoding="utf-8")
    return before


def _train(
    settings: TrainingSettings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Batches,
    checkpoint: Path | None,
) -> int:
    """Run transformers' `Trainer`, from the checkpoint if there is one; returns all optimizer steps taken."""
    arguments = TrainingArguments(
        output_dir=str(settings.checkpoints),
        per_device_train_batch_size=1,  # an item of `Batches` is a batch
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        # Trainer refuses bf16 without an accelerator unless it is told to use the CPU.
        use_cpu=not torch.accelerator.is_available(),
        bf16=bf16_in_hardware(),
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_steps=50,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    pad_id = tokenizer.eos_token_id
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train,
        data_collator=lambda items: collate([row for batch in items for row in batch], pad_id),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return int(trainer.state.global_step)


def _save(settings: TrainingSettings, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if model.generation_config is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id
    if settings.save_dtype == "fp16":
        model.half()  # type: ignore[no-untyped-call]
    model.save_pretrained(settings.output)
    tokenizer.save_pretrained(settings.output)
    check_saved(settings.output)
