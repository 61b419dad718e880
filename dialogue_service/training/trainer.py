"""One training run, start to end: data and model in, a `safetensors` folder with its card out."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from dialogue_service.generation.preference import Preference
from dialogue_service.training import card, preference, sft, thumbs
from dialogue_service.training.corpus import Corpus, gather
from dialogue_service.training.induction import plant
from dialogue_service.training.model import (
    check_saved,
    create,
    folder_of,
    load,
    read_generation_config,
    read_sizes,
    with_lora,
)
from dialogue_service.training.rows import IGNORED, collate
from dialogue_service.training.settings import SettingsError, TrainingSettings
from dialogue_service.training.sft import Batches
from shared.gate import Verdict
from shared.registry import Registry, make_private

log = logging.getLogger(__name__)

LEAST_STEPS = 10
"""Between two checkpoints, however short a pass over the data is."""
OnStep = Callable[[int, int], None]
"""Called with the steps that are done and the steps in all."""
Judging = Callable[[Path, Corpus], Verdict]
"""Called with the folder of the saved model, which it may add to, and what was held out."""
Scores = dict[str, float]


def run(
    settings: TrainingSettings, on_step: OnStep | None = None, judge: Judging | None = None
) -> dict[str, Any]:
    """Train and save as the settings say, and return the content of the `card.json` that was written.

    With a `judge` its verdict on the saved model stands on the card and among the scores.
    Raises `SettingsError`, `DataError` or `ModelError`, before training starts, for anything wrong with what
    was given. An interrupted run leaves its checkpoints, a finished one removes them.
    """
    # TRL and peft call what transformers has renamed.
    warnings.filterwarnings("ignore", r"`(is_)?gradient_checkpointing\w*` is deprecated", FutureWarning)
    settings.check()
    about = card.read_about(settings.about)
    generation_config = read_generation_config(settings.generation_config)
    corpus = gather(settings)
    set_seed(settings.seed)
    checkpoint = _newest_checkpoint(settings.checkpoints)
    model, tokenizer = _start(settings, corpus, checkpoint)
    valid = Batches(corpus.held_out, tokenizer, settings)

    def scores(liked: Preference | None) -> Scores:
        agreed = preference.agreement(model, tokenizer, liked, corpus.held_out_thumbs, settings.max_length)
        return score(model, valid) | ({} if agreed is None else {"agreement": agreed})

    before = _open_run(settings, corpus, lambda: scores(_preference(settings, model)))
    learner, done = _learner(settings, corpus, model, tokenizer, valid)
    log.info("learning from %s, measured on what is held out: %s", done["learned_from"], before)
    if on_step:
        learner.add_callback(_Steps(on_step))
    learner.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if settings.lora:
        adapted: Any = learner.model
        model = adapted.merge_and_unload()
    if settings.method == "kto":
        thumbs.step_back(model, load(str(settings.model), settings.revision)[0])
    liked = preference.fit(model, tokenizer, corpus.thumbs, settings.max_length)
    after = scores(liked)

    if generation_config is not None:
        model.generation_config = generation_config
    content = card.content(
        settings=settings,
        model=model,
        files=corpus.files,
        scores={"before": before, "after": after},
        training=_steps(learner) | done,
        about=about,
    )
    with _folder(settings, content) as folder:
        _save(settings, folder, model, tokenizer)
        if liked:
            liked.save(folder)
        if judge:
            # The registry writes the scores down when the folder is left.
            content["promotion"] = content["scores"]["promotion"] = judge(folder, corpus).recorded()
        card.write(folder, content)
    shutil.rmtree(settings.checkpoints)
    return content


def score(model: PreTrainedModel, held_out: Batches) -> Scores:
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


class _Steps(TrainerCallback):
    """Tells how far a training is."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._on_step(state.global_step, state.max_steps)

    on_step_end = on_train_begin


def _newest_checkpoint(folder: Path) -> Path | None:
    # The state file is the last one that Trainer writes, so a checkpoint that has it is whole.
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _start(
    settings: TrainingSettings, corpus: Corpus, checkpoint: Path | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if settings.model is not None:  # from where Trainer goes on to the checkpoint, if there is one
        model, tokenizer = load(settings.model, settings.revision)
    elif checkpoint is not None:
        model, tokenizer = load(str(checkpoint))
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


def _open_run(settings: TrainingSettings, corpus: Corpus, scores: Callable[[], Scores]) -> Scores:
    """Return the scores before training: measured and noted down at the start, read back on `--resume`.

    Raises `SettingsError` when the run to resume was begun with other settings or data.
    """
    now = {"settings": settings.recorded(), "data": [file.sha256 for file in corpus.files]}
    if settings.note.exists():
        begun = json.loads(settings.note.read_text(encoding="utf-8"))
        if begun["run"] != now:
            raise SettingsError(
                f"{settings.checkpoints} was begun with other settings or data: resume with the same ones"
                f" ({json.dumps(begun['run']['settings'])}), or remove the folder"
            )
        before: Scores = begun["before"]
        return before
    before = scores()
    make_private(settings.checkpoints)
    settings.note.write_text(json.dumps({"run": now, "before": before}), encoding="utf-8")
    return before


def _preference(settings: TrainingSettings, model: PreTrainedModel) -> Preference | None:
    """That of the model to begin with, which may have learned from thumbs before."""
    if settings.model is None:
        return None
    return Preference.load(folder_of(settings.model, settings.revision), model)


def _learner(
    settings: TrainingSettings,
    corpus: Corpus,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    valid: Batches,
) -> tuple[Trainer, dict[str, Any]]:
    """What trains, and what the card says of its data."""
    adapted = with_lora(model, settings.lora) if settings.lora else model
    done: dict[str, Any] = {"held_out_dialogues": len(valid.rows), "left_out_too_long": valid.dropped}
    learner: Trainer
    if settings.method == "kto":
        length, seed = settings.max_length, settings.seed
        learned = thumbs.examples(corpus.thumbs, tokenizer, length, seed)
        held_out = thumbs.examples(corpus.held_out_thumbs, tokenizer, length, seed)
        done |= {"learned_from": f"{len(learned)} thumbs", "held_out_thumbs": len(held_out)}
        done["left_out_too_long"] += len(corpus.thumbs) - len(learned)
        steps = math.ceil(len(learned) / thumbs.BATCH)
        arguments = _arguments(settings, model, steps, measured=bool(held_out))
        learner = thumbs.trainer(adapted, tokenizer, learned, held_out, settings.beta, arguments)
    else:
        train = Batches(corpus.learned, tokenizer, settings)
        done |= {"learned_from": f"{len(train.rows)} dialogues"}
        done["left_out_too_long"] += train.dropped
        learner = sft.trainer(adapted, tokenizer, train, valid, _arguments(settings, model, len(train)))
    learner.remove_callback(PrinterCallback)
    if learner.args.load_best_model_at_end:
        learner.add_callback(EarlyStoppingCallback(settings.patience))
    return learner, done


def _arguments(
    settings: TrainingSettings, model: PreTrainedModel, steps_per_epoch: int, measured: bool = True
) -> dict[str, Any]:
    """TrainingArguments of both methods; `measured`: there is something to measure on while training."""
    every = min(settings.checkpoint_every, max(steps_per_epoch, LEAST_STEPS))
    best = {
        "eval_strategy": "steps",
        "eval_steps": every,
        "prediction_loss_only": True,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "restore_callback_states_from_checkpoint": True,
    }
    return {
        "output_dir": str(settings.checkpoints),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.peak_rate(model.config.hidden_size),
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "seed": settings.seed,
        # Trainer refuses bf16 without an accelerator unless it is told to use the CPU.
        "use_cpu": not torch.accelerator.is_available(),
        "save_steps": every,
        "save_total_limit": 2,
        "logging_steps": 50,
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **(best if measured else {}),
    }


def _steps(learner: Trainer) -> dict[str, float]:
    """How many steps were done, after how many the model was as it is now, and how far they went at most."""
    steps, best = learner.state.global_step, learner.state.best_global_step
    return {"steps": steps, "best_step": best or steps, "learning_rate": learner.args.learning_rate}


@contextmanager
def _folder(settings: TrainingSettings, content: dict[str, Any]) -> Iterator[Path]:
    """Where the model goes: its own folder, or a version that is in the registry once it is whole."""
    if settings.output:
        settings.output.mkdir(parents=True, exist_ok=True)
        yield settings.output
    elif settings.registry:
        saving = Registry(settings.registry).saving(
            settings.model_name, kind="model", parent=content["base_model"], scores=content["scores"]
        )
        with saving as folder:
            yield folder


def _save(
    settings: TrainingSettings, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    if model.generation_config is not None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.pad_token_id = tokenizer.eos_token_id
    if settings.save_dtype == "fp16":
        model.half()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    check_saved(folder)
