"""Preference tuning by KTO, with TRL's own trainer on a tiny model."""

import shutil
from pathlib import Path

import pytest
import torch

from dialogue_service.training import preference, thumbs, trainer
from dialogue_service.training.corpus import gather
from dialogue_service.training.data import Thumb
from dialogue_service.training.model import load
from dialogue_service.training.trainer import run
from tests.dialogue_service.training.conftest import Tune
from tests.dialogue_service.training.test_trainer import same_weights, weights

THUMBS = [Thumb(("hello", "hi there"), True, "1-1"), Thumb(("a", "b", "thanks", "no"), False, "2-1")]


def test_the_prompt_and_the_padding_are_masked_and_the_end_is_learned(base: Path) -> None:
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    _, tokenizer = load(str(base))
    end = tokenizer.eos_token_id
    short, long = sorted(
        thumbs.examples(THUMBS, tokenizer, 64, seed=0), key=lambda one: len(one["prompt_ids"])
    )
    assert tokenizer.decode(short["prompt_ids"]) == "hello<|endoftext|>"
    assert tokenizer.decode(short["completion_ids"]) == "hi there<|endoftext|>"
    assert tokenizer.decode(long["prompt_ids"]) == "a<|endoftext|> b<|endoftext|> thanks<|endoftext|>"
    assert (short["label"], long["label"]) == (True, False)
    assert short["KL_completion_ids"] == long["completion_ids"]

    batch = DataCollatorForUnpairedPreference(pad_token_id=end)([short, long])
    for row, example in enumerate((short, long)):
        said, reply = len(example["prompt_ids"]), len(example["completion_ids"])
        mask = batch["completion_mask"][row].tolist()
        assert mask == [0] * said + [1] * reply + [0] * (len(mask) - said - reply)
        assert batch["input_ids"][row, said + reply - 1] == end


def test_examples_are_shuffled_by_the_seed_and_too_long_ones_left_out(base: Path) -> None:
    _, tokenizer = load(str(base))
    many = [Thumb(("hello", "x" * n), n % 2 == 0, f"{n}-1") for n in range(1, 30)]
    one, same, other = (thumbs.examples(many, tokenizer, 24, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert len(one) < len(many)
    assert all(len(row["prompt_ids"] + row["completion_ids"]) <= 24 for row in one)


def test_log_probabilities_are_those_of_the_reply_alone(base: Path) -> None:
    model, tokenizer = load(str(base))
    rows = [thumbs.encode_thumb(thumb, tokenizer, 64) for thumb in THUMBS]
    scores = thumbs.mean_log_probabilities(model, [row for row in rows if row])
    row = rows[0]
    assert row
    ids = torch.tensor([row.input_ids])
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
    reply = [i for i, label in enumerate(row.labels) if label >= 0]
    alone = sum(float(logprobs[i - 1, row.input_ids[i]]) for i in reply) / len(reply)
    assert scores[0] == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("lora", [0, 4])
def test_what_is_liked_becomes_likelier_than_what_is_not(tune: Tune, base: Path, lora: int) -> None:
    settings = tune(lora=lora, learning_rate=5e-3 if lora else 1e-3)
    card = run(settings)
    unseen = gather(settings).held_out_thumbs

    def agreement(folder: Path | None) -> float:
        """By what the model finds probable alone."""
        assert folder
        return preference.agreement(*load(str(folder)), None, unseen, 32) or 0.0

    assert agreement(base) < 0.9 <= agreement(settings.output)
    assert card["scores"]["before"]["agreement"] == agreement(base)
    assert card["scores"]["after"]["agreement"] > 0.9
    assert card["training"]["learned_from"].endswith(" thumbs")
    assert card["training"]["held_out_thumbs"] > 10
    assert card["base_model"] == "base"
    assert {"trl"} | ({"peft"} if lora else set()) < set(card["versions"])
    assert "thumbs up ranks above" in (settings.output / "README.md").read_text()  # type: ignore[operator]
    # Merged: the same tensors as before the training, whatever was learned beside them.
    assert weights(settings.output).keys() == weights(base).keys()  # type: ignore[arg-type]


def test_the_seed_decides_the_weights(tune: Tune) -> None:
    for name, seed in (("one", 3), ("again", 3), ("other", 4)):
        run(tune(name, seed=seed, max_steps=6))
    folders = [settings.output for settings in (tune("one"), tune("again"), tune("other"))]
    one, again, other = (folder for folder in folders if folder)
    assert same_weights(one, again)
    assert not same_weights(one, other)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    tune: Tune, lora: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"lora": lora, "max_steps": 8, "checkpoint_every": 4}
    whole = tune("whole", **options)
    run(whole)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    halved = tune("halved", **options)
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(halved)
    shutil.rmtree(halved.checkpoints / "checkpoint-8")
    run(tune("halved", **options, resume=True))
    assert same_weights(whole.output, halved.output)  # type: ignore[arg-type]


def test_half_of_what_the_weights_moved_is_kept(base: Path) -> None:
    model, begun = load(str(base))[0], load(str(base))[0]
    with torch.no_grad():
        for weights in model.parameters():
            weights += 1
    thumbs.step_back(model, begun)
    for weights, before in zip(model.parameters(), begun.parameters(), strict=True):
        torch.testing.assert_close(weights, before + thumbs.KEPT)
