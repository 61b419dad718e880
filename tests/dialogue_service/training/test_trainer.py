import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dialogue_service.training import trainer
from dialogue_service.training.model import ModelError
from dialogue_service.training.settings import SettingsError, TrainingSettings
from dialogue_service.training.trainer import run
from shared.registry import About, Registry
from shared.settings import REPOSITORY
from tests.dialogue_service.training.conftest import PAIRS, WriteRows

TinyRun = Callable[..., TrainingSettings]


def greedy_reply(folder: Path, message: str) -> str:
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompt = torch.tensor([[*tokenizer(message)["input_ids"], tokenizer.eos_token_id]])
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=20
    )
    reply = output[0, prompt.shape[1] :]
    assert reply[-1] == tokenizer.eos_token_id, "the reply must end by itself"
    return str(tokenizer.decode(reply, skip_special_tokens=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("save_dtype", ["fp16", "fp32"])
def test_three_rows_are_memorised(tiny_run: TinyRun, save_dtype: str) -> None:
    settings = tiny_run(max_steps=150, save_dtype=save_dtype)
    card = run(settings)
    assert card["scores"]["after"]["loss"] < 0.1 < card["scores"]["before"]["loss"]
    for pair in PAIRS:
        assert greedy_reply(settings.output, pair["input"]) == pair["response"]
    dtype = torch.float16 if save_dtype == "fp16" else torch.float32
    assert {tensor.dtype for tensor in weights(settings.output).values()} == {dtype}


def test_the_card_is_complete(tiny_run: TinyRun, tmp_path: Path) -> None:
    about = tmp_path / "about.json"
    source = {"name": "pairs", "licence": "MIT", "attribution": "Made for this test."}
    replies = [
        {"message": "a | b", "reply": "Which?", "sensible": True},
        {"message": "c", "reply": "D.", "sensible": False},
    ]
    told_of_it = {"description": "A test.", "limits": "Tiny.", "sources": [source], "replies": replies}
    about.write_text(json.dumps(told_of_it))
    settings = tiny_run(name="card-test", about=about)
    card = run(settings)
    assert json.loads((settings.output / "card.json").read_text()) == card
    assert card["name"] == "card-test"
    assert card["base_model"] is None
    assert card["architecture"] == "GPT2LMHeadModel"
    assert card["parameters"] == sum(tensor.numel() for tensor in weights(settings.output).values())
    assert [(file["file"], file["dialogues"]) for file in card["data"]] == [("pairs.jsonl", 3)] * 2
    assert card["training"] == {
        "steps": 8,
        "best_step": 8,
        "learning_rate": 5e-3,
        "learned_from": "3 dialogues",
        "held_out_dialogues": 3,
        "left_out_too_long": 0,
    }
    assert card["settings"]["seed"] == 7
    assert set(card["versions"]) == {"python", "torch", "transformers", "tokenizers"}
    after = card["scores"]["after"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]), rel=1e-3)
    readme = (settings.output / "README.md").read_text()
    told = (
        "card-test",
        "A test.",
        "Tiny.",
        "Made for this test.",
        "1 of 2 were judged sensible",
        "| a \\| b | Which? |  |",
        "| c | D. | no |",
        str(after["loss"]),
        card["data"][0]["sha256"],
    )
    assert [text for text in told if text not in readme] == []
    for text in (readme, json.dumps(card)):
        assert str(tmp_path) not in text


def test_a_finished_folder_holds_the_model_and_nothing_else(tiny_run: TinyRun, tmp_path: Path) -> None:
    generation = tmp_path / "generation.json"
    generation.write_text('{"do_sample": true, "temperature": 0.6}')
    settings = tiny_run(generation_config=generation)
    run(settings)
    assert {path.name for path in settings.output.iterdir()} == {
        "README.md",
        "card.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    saved = json.loads((settings.output / "generation_config.json").read_text())
    assert (saved["temperature"], saved["eos_token_id"], saved["pad_token_id"]) == (0.6, 0, 0)


def test_the_seed_decides_the_weights(tiny_run: TinyRun) -> None:
    for name, seed in (("one", 7), ("again", 7), ("other", 8)):
        run(tiny_run(name, seed=seed))
    one = tiny_run("one").output
    assert same_weights(one, tiny_run("again").output)
    assert not same_weights(one, tiny_run("other").output)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_run("whole")
    whole_card = run(whole)
    halved = tiny_run("halved")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "_save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(halved)
    shutil.rmtree(halved.checkpoints / "checkpoint-8")
    # A checkpoint that was cut off while it was written must not be taken.
    (halved.checkpoints / "checkpoint-6").mkdir()

    with pytest.raises(SettingsError, match="other settings or data"):
        run(tiny_run("halved", resume=True, learning_rate=1e-3))
    card = run(tiny_run("halved", resume=True))
    assert card["training"]["steps"] == 8
    assert card["scores"] == whole_card["scores"]
    assert same_weights(whole.output, halved.output)
    assert not halved.checkpoints.exists()


def test_an_existing_model_is_fine_tuned(tiny_run: TinyRun, write_rows: WriteRows) -> None:
    base = tiny_run("base")
    run(base)
    data = write_rows(
        "feedback.jsonl",
        [
            {"turns": ["hello", "go away"], "rating": "negative", "better_reply": "welcome back"},
            {"turns": ["bye", "never"], "rating": "negative", "better_reply": None},
            {"turns": ["thanks", "you are welcome"]},
        ],
    )
    tuned = tiny_run(
        "tuned", from_scratch=None, model=str(base.output), data=(data,), valid_data=(data,), max_steps=100
    )
    card = run(tuned)
    assert card["base_model"] == "base"
    assert card["data"][0]["left_out_unrated"] == 1
    assert greedy_reply(tuned.output, "hello") == "welcome back"
    tokenizers = [(folder / "tokenizer.json").read_text() for folder in (base.output, tuned.output)]
    assert tokenizers[0] == tokenizers[1]


def test_more_tokens_than_the_model_has_room_for_are_refused(tiny_run: TinyRun) -> None:
    with pytest.raises(SettingsError, match="more than the model's 64 tokens"):
        run(tiny_run(max_length=65, tokens_per_batch=100))


def test_the_best_model_is_kept_and_training_ends_when_it_gets_worse(
    tiny_run: TinyRun, write_rows: WriteRows
) -> None:
    """Whoever learns three rows by heart soon finds other rows less likely."""
    other = write_rows("other.jsonl", [{"input": "hello", "response": "you are welcome"}] * 2)
    options = {"valid_data": (other,), "max_steps": 400, "checkpoint_every": 5, "patience": 2}
    card = run(tiny_run(**options))
    steps, best = card["training"]["steps"], card["training"]["best_step"]
    assert best + 2 * 5 == steps < 400
    at_the_end = run(tiny_run("end", **options | {"max_steps": steps, "checkpoint_every": steps}))
    assert at_the_end["training"]["best_step"] == steps
    assert card["scores"]["after"]["loss"] < at_the_end["scores"]["after"]["loss"]


def test_lora_memorises_three_rows_too_and_leaves_an_ordinary_model(tiny_run: TinyRun) -> None:
    starter = REPOSITORY / "models" / "starter"
    settings = tiny_run(from_scratch=None, model=str(starter), lora=8, max_steps=40, checkpoint_every=40)
    card = run(settings)
    assert card["scores"]["after"]["loss"] < 0.1 < card["scores"]["before"]["loss"]
    assert "peft" in card["versions"]
    assert weights(settings.output).keys() == weights(starter).keys()
    for pair in PAIRS:
        assert greedy_reply(settings.output, pair["input"]) == pair["response"]


def test_progress_is_told_step_by_step(tiny_run: TinyRun) -> None:
    told: list[tuple[int, int]] = []
    run(tiny_run(), on_step=lambda step, steps: told.append((step, steps)))
    assert told == [(step, 8) for step in range(9)]


def test_a_version_is_saved_in_the_registry_with_its_parent(
    tiny_run: TinyRun, base: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "versions"
    settings = tiny_run(output=None, registry=folder, from_scratch=None, model=str(base))
    with pytest.raises(SettingsError, match="--name"):
        run(settings)
    settings = replace(settings, name="first")
    card = run(settings)
    registry = Registry(folder)
    assert (registry.folder("first") / "card.json").exists()
    about = registry.versions()["first"]
    assert isinstance(about, About)
    assert (about.parent, about.scores) == ("base", card["scores"])
    assert [path.name for path in folder.iterdir()] == ["first"]


def test_a_model_that_talks_by_a_chat_template_is_refused(
    tiny_run: TinyRun, base: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(base, tmp_path / "chatty")
    (other / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(ModelError, match="chat template"):
        run(tiny_run(from_scratch=None, model=str(other)))
