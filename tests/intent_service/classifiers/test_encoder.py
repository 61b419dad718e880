import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from intent_service.classifiers import encoder as encoders
from intent_service.classifiers import precision
from intent_service.classifiers.encoder import SentenceEncoder, read_recipe
from shared import native
from shared.hub import ModelUnavailable
from tests import checkpoints
from tests.processor import on_able_processors

TEXTS = ["How are you?", "I had a terrible day, and then it rained.", "ok", "word " * 400]
MODES = ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.fixture(scope="module")
def encoder(minilm: Path) -> SentenceEncoder:
    return SentenceEncoder.load(minilm)


@pytest.fixture
def published(encoder: SentenceEncoder) -> Iterator[SentenceEncoder]:
    """The encoder as its own files say, which pool all tokens."""
    ours = encoder.recipe
    encoder.recipe = replace(ours, markers=True)
    yield encoder
    encoder.recipe = ours


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny encoder, to be changed."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "m"))


def test_vectors_have_length_one(encoder: SentenceEncoder) -> None:
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, 384)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))


def test_vectors_are_those_of_the_published_model(published: SentenceEncoder) -> None:
    # What SentenceTransformer(...).encode("How are you?") begins with.
    torch.testing.assert_close(
        published.encode(TEXTS)[0, :4],
        torch.tensor([0.007004, 0.010914, 0.087463, 0.086799]),
        atol=1e-5,
        rtol=0,
    )


def test_a_text_has_the_same_vector_alone_and_in_any_batch(encoder: SentenceEncoder) -> None:
    texts = TEXTS[:3]
    many = encoder.encode([*texts, *(f"filler {i}" for i in range(40))])
    for index, text in enumerate(texts):
        torch.testing.assert_close(encoder.encode([text])[0], many[index], atol=1e-5, rtol=0)


def test_long_and_short_texts_come_back_in_their_order(encoder: SentenceEncoder) -> None:
    texts = [f"{index} " + "word " * (index * 37 % 300) for index in range(70)]
    vectors = encoder.encode(texts)
    for index in (0, 1, 8, 35, 69):
        torch.testing.assert_close(vectors[index], encoder.encode([texts[index]])[0], atol=1e-5, rtol=0)


def test_two_threads_may_encode_at_once(encoder: SentenceEncoder) -> None:
    texts = [f"{index} " + "word " * (index % 50) for index in range(64)]
    alone = encoder.encode(texts)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: encoder.encode(texts), range(4)):
            torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=0)


def test_long_texts_are_cut_where_the_model_says(encoder: SentenceEncoder) -> None:
    assert encoder.tokenize(["word " * 4000])[0]["input_ids"].shape == (1, 256)


def test_a_prompt_goes_before_every_text(encoder: SentenceEncoder) -> None:
    torch.testing.assert_close(encoder.encode(["b", "c"], "a "), encoder.encode(["a b", "a c"]))


def test_the_same_as_sentence_transformers(minilm: Path, published: SentenceEncoder, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    expected = torch.tensor(model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False))
    torch.testing.assert_close(published.encode(TEXTS), expected, atol=1e-5, rtol=0)

    model.save(str(tmp_path / "saved"))  # in today's layout, where the package's is an older one
    again = SentenceEncoder.load(tmp_path / "saved")
    torch.testing.assert_close(again.encode(TEXTS), expected, atol=1e-5, rtol=0)

    for mode in MODES:
        folder = checkpoints.bert_encoder(tmp_path / mode, pooling=mode)
        model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        expected = torch.tensor(model.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False))
        ours = SentenceEncoder.load(folder)
        assert ours.recipe.pooling == (mode,)
        torch.testing.assert_close(ours.encode(TEXTS), expected, atol=1e-5, rtol=0)


def test_the_recipe_of_the_bundled_model(minilm: Path) -> None:
    recipe = read_recipe(minilm)
    assert (recipe.pooling, recipe.max_tokens, recipe.query_prompt) == (("mean",), 256, "")


def test_the_bundled_model_pools_the_words_and_not_the_markers_around_them(encoder: SentenceEncoder) -> None:
    fed, pooled = encoder.tokenize(["hello you", "hi"])
    assert fed["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert pooled.tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]


def test_a_text_without_words_still_has_a_vector(encoder: SentenceEncoder) -> None:
    assert encoder.tokenize(["", "hi"])[1].tolist() == [[1, 1, 0], [0, 1, 0]]
    assert encoder.encode([""]).norm() == pytest.approx(1)


@pytest.mark.parametrize("pooling", ["cls", "max"])
def test_what_is_saved_pools_as_before(pooling: str, tmp_path: Path) -> None:
    encoder = SentenceEncoder.load(checkpoints.bert_encoder(tmp_path / "m", pooling=pooling))
    encoder.recipe = replace(encoder.recipe, query_prompt="ask: ", markers=False)
    encoder.save(tmp_path / "saved")
    again = SentenceEncoder.load(tmp_path / "saved")
    assert again.recipe == encoder.recipe
    torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS))


def test_prompts_are_read(tmp_path: Path) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    recipe = read_recipe(checkpoints.bert_encoder(tmp_path / "m", prompts=prompts))
    assert (recipe.query_prompt, recipe.document_prompt) == ("query: ", "passage: ")


def test_several_poolings_are_joined(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", pooling_mode_max_tokens=True)
    assert read_recipe(folder).pooling == ("max", "mean")
    assert SentenceEncoder.load(folder).encode(["hello"]).shape == (1, 32)


def test_a_plain_encoder_pools_by_mean(folder: Path) -> None:
    expected = SentenceEncoder.load(folder).encode(["hello you"])
    (folder / "modules.json").unlink()
    torch.testing.assert_close(SentenceEncoder.load(folder).encode(["hello you"]), expected)


def test_lower_case_is_heeded(folder: Path) -> None:
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    encoder = SentenceEncoder.load(folder)
    torch.testing.assert_close(encoder.encode(["HELLO Éa"]), encoder.encode(["hello éa"]))
    assert read_recipe(folder).lower_case


@pytest.mark.parametrize(
    ("file", "content", "wrong"),
    [
        (
            "modules.json",
            [
                {"path": "", "type": "sentence_transformers.models.Transformer"},
                {"path": "2", "type": "x.y.Dense"},
            ],
            "has a module x.y.Dense",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "attention"}, "pools by attention"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "leaves its prompt out"),
    ],
)
def test_what_is_not_supported_is_refused(folder: Path, file: str, content: object, wrong: str) -> None:
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelUnavailable, match=wrong) as caught:
        SentenceEncoder.load(folder)
    assert caught.value.lasting


def test_a_tokenizer_in_python_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = encoders.load_tokenizer
    monkeypatch.setattr(
        encoders, "load_tokenizer", lambda folder: SimpleNamespace(**vars(load(folder)) | {"is_fast": False})
    )
    with pytest.raises(ModelUnavailable, match="has a tokenizer that is written in Python"):
        SentenceEncoder.load(folder)


@pytest.mark.parametrize("dtype", [pytest.param("int8", marks=on_able_processors), "bfloat16"])
def test_fewer_bits_are_used_where_they_are_faster(
    minilm: Path, encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    if dtype == "bfloat16":
        monkeypatch.setattr(native, "available", lambda: False)
        monkeypatch.setattr(precision, "gains_from_bfloat16", lambda: True)
    fast = SentenceEncoder.load(minilm, fast=True)
    vectors = fast.encode(TEXTS)
    assert fast.dtype == dtype
    assert vectors.dtype == torch.float32
    assert not torch.equal(vectors, encoder.encode(TEXTS))
    assert (vectors * encoder.encode(TEXTS)).sum(dim=1).min() > 0.998


def test_int8_is_for_bert_alone(minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gains_from_bfloat16", lambda: True)
    monkeypatch.setattr(encoders.Bert, "of", lambda _: None)  # as of another architecture
    assert SentenceEncoder.load(minilm, fast=True).dtype == "bfloat16"


@pytest.mark.parametrize(("gains", "same"), [(True, 1.1), (False, 0.999)])
def test_bits_that_are_missed_or_gain_nothing_are_given_back(
    minilm: Path, encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch, gains: bool, same: float
) -> None:
    if not gains:
        monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(precision, "gains_from_bfloat16", lambda: gains)
    monkeypatch.setattr(precision, "_SAME", same)
    exact = SentenceEncoder.load(minilm, fast=True)
    assert exact.dtype == "float32"
    torch.testing.assert_close(exact.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("can", "bfloat16_s", "gains"), [(True, 1.0, True), (True, 3.0, False), (False, 1.0, False)]
)
def test_a_processor_gains_when_it_can_and_is_faster(
    monkeypatch: pytest.MonkeyPatch, can: bool, bfloat16_s: float, gains: bool
) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: can)
    monkeypatch.setattr(
        precision, "_seconds", lambda rows, _: bfloat16_s if rows.dtype == torch.bfloat16 else 2.0
    )
    assert precision.gains_from_bfloat16.__wrapped__() is gains


def test_little_work_is_not_shared_among_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    had = []

    def seen(self: SentenceEncoder, texts: Sequence[str]) -> Tensor:
        had.append(torch.get_num_threads())
        return torch.ones(len(texts), 4)

    monkeypatch.setattr(SentenceEncoder, "vectors", seen)
    loaded, before = SentenceEncoder.load(folder), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(encoders, "_DIVIDED", 100 * loaded._layers // 4)
        loaded.encode(["a" * 96])
        loaded.encode(["a" * 104])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert had == [1, 2]
