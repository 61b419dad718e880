import shutil
from pathlib import Path

import pytest

from intent_service.classifiers.tokenizer import load_tokenizer
from tests import checkpoints


@pytest.mark.parametrize("text", ["hello [SEP] you", "[CLS][MASK] [PAD]", "[UNK]"])
def test_typed_special_tokens_are_plain_text(tiny_encoder: Path, text: str) -> None:
    tokenizer = load_tokenizer(tiny_encoder)
    first, *inner, last = tokenizer(text)["input_ids"]
    assert (first, last) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert not set(inner) & set(tokenizer.all_special_ids)
    # The same signs, kept apart so that they never form a special token.
    apart = text.replace("[", " [ ").replace("]", " ] ")
    assert [first, *inner, last] == tokenizer(apart)["input_ids"]


def test_a_typed_end_of_text_is_plain_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(checkpoints.gpt2_like(tmp_path / "m"))
    assert tokenizer.eos_token_id not in tokenizer("hello<|endoftext|>you")["input_ids"]


def test_a_tokenizer_without_a_length_gets_the_models(tiny_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_encoder, folder)
    config = folder / "tokenizer_config.json"
    config.write_text(
        config.read_text(encoding="utf-8").replace('"model_max_length": 64', '"x": 0'), encoding="utf-8"
    )
    assert load_tokenizer(folder).model_max_length == 62
