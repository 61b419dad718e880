"""A sentence encoder: texts into unit vectors whose dot product is their similarity.

Reads the folder layout of sentence-transformers (modules.json and what it names) and computes the same
vectors with transformers alone; importing that library costs seconds and memory that are not needed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from intent_service import bundled
from intent_service.classifiers import precision
from intent_service.classifiers.bert import Bert, EightBitBert
from intent_service.classifiers.tokenizer import load_tokenizer
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable
from shared.metrics import TOKENIZATION
from shared.model_folder import inside, read_json

_BATCH = 32
_BATCH_CHARS = 8192  # padded: a long text among 31 short ones would make each of them as long
_CHARS_OF_A_TOKEN = 4
_DIVIDED = 10**9  # products from which on work is shared among threads
_RECIPE = "recipe.json"
_POOLER = "pooler."  # BERT's second output: a checkpoint may lack it, and nothing here reads it

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class Recipe:
    """How a model's token vectors become a sentence vector, and what goes before a text."""

    transformer: str = ""  # the subfolder that holds the transformer
    pooling: tuple[str, ...] = ("mean",)
    max_tokens: int | None = None
    lower_case: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    markers: bool = True  # tokens that stand for no part of the text, such as [CLS], are pooled too


def read_recipe(folder: Path) -> Recipe:
    """Read the recipe from a model folder; without one it is mean pooling. Raises ModelUnavailable."""
    if (folder / _RECIPE).is_file():
        saved = read_json(folder / _RECIPE)
        return Recipe(**saved | {"pooling": tuple(saved["pooling"])})
    if not (folder / "modules.json").is_file():
        return Recipe()
    paths: dict[str, str] = {}
    for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
        kind = module["type"].rpartition(".")[2]
        # A Normalize changes nothing here: every vector is scaled to length one anyway.
        if kind not in ("Transformer", "Pooling", "Normalize") or kind in paths:
            raise _unsupported(f"has a module {module['type']}")
        paths[kind] = module["path"]
    transformer = inside(folder, paths.get("Transformer", ""))
    limits = read_json(transformer / "sentence_bert_config.json")
    saved = read_json(folder / "config_sentence_transformers.json")
    named = saved.get("prompts") or {}
    return Recipe(
        transformer=paths.get("Transformer", ""),
        pooling=_pooling(folder, paths["Pooling"]) if "Pooling" in paths else ("mean",),
        max_tokens=limits.get("max_seq_length"),
        lower_case=bool(limits.get("do_lower_case")),
        query_prompt=named.get("query") or "",
        document_prompt=named.get("document") or named.get("passage") or named.get("corpus") or "",
    )


def _pooling(folder: Path, path: str) -> tuple[str, ...]:
    config = read_json(inside(folder, path) / "config.json")
    given = config.get("pooling_mode") or [mode for key, mode in _LEGACY_MODES.items() if config.get(key)]
    modes = (given,) if isinstance(given, str) else tuple(given) or ("mean",)
    if unknown := set(modes) - set(_LEGACY_MODES.values()):
        raise _unsupported(f"pools by {', '.join(sorted(unknown))}")
    if config.get("include_prompt") is False:
        raise _unsupported("leaves its prompt out of the pooling")
    return modes


def _unsupported(what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"it {what}, which is not supported",
        "Name an encoder made of Transformer, Pooling and Normalize, such as all-MiniLM-L6-v2.",
        lasting=True,
    )


class SentenceEncoder:
    """A loaded encoder. Two threads may use it at once."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> None:
        self.recipe = recipe
        self._model = model
        self._tokenizer = tokenizer
        self._layers = model.num_parameters(exclude_embeddings=True)
        self._lean: Bert | EightBitBert | None = Bert.of(model)
        self._dtype, self._mixed = "float32", False  # mixed: computes in bfloat16 where that is safe
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        limits = (
            recipe.max_tokens,
            tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", 0),
        )
        # The tokenizer itself, set up once: transformers' call does that each time, for twice its time.
        self._reader = tokenizer.backend_tokenizer
        self._reader.encode_special_tokens = True  # they are text
        self._reader.enable_truncation(
            min(limit for limit in limits if limit), direction=tokenizer.truncation_side
        )
        self._reader.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)

    @classmethod
    def load(cls, folder: Path, *, fast: bool = False) -> Self:
        """Load an encoder from a model folder; with `fast` in fewer bits where that is faster and keeps its
        vectors: it is not to be trained or saved then.

        Raises ModelUnavailable.
        """
        encoder = cls._exact(folder)
        if not fast:
            return encoder
        before = encoder.encode(precision.MESSAGES)
        for lighten in (cls._in_eight_bits, cls._in_bfloat16):
            if lighten(encoder):
                if precision.keeps_vectors(before, encoder.encode(precision.MESSAGES), encoder.dtype):
                    return encoder
                encoder = cls._exact(folder)
        return encoder

    def _in_eight_bits(self) -> bool:
        if lean := EightBitBert.of(self._model):
            self._lean, self._dtype = lean, "int8"
        return lean is not None

    def _in_bfloat16(self) -> bool:
        if precision.bfloat16(self._model):
            self._dtype, self._mixed = "bfloat16", True
        return self._mixed

    @classmethod
    def _exact(cls, folder: Path) -> Self:
        recipe = read_recipe(folder)
        if folder == bundled.folder():
            # It was trained with them, but a short text is found better without: names alone gain a point
            # of accuracy on CLINC150 and half a point on BANKING77, ten examples most of a point or nothing.
            recipe = replace(recipe, markers=False)
        transformer = inside(folder, recipe.transformer)
        model = load_model(AutoModel, transformer, harmless=_POOLER)
        tokenizer = load_tokenizer(transformer)
        if not tokenizer.is_fast:
            raise _unsupported("has a tokenizer that is written in Python")
        return cls(model, tokenizer, recipe)

    @property
    def dtype(self) -> str:
        """What the layers compute with."""
        return "bfloat16" if self._mixed else self._dtype

    def tokenize(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
        """What the model is fed, and the mask of the tokens to pool, all of shape (texts, longest)."""
        if self.recipe.lower_case:
            texts = [text.lower() for text in texts]
        with TOKENIZATION.labels("intent").time():
            rows = self._reader.encode_batch(texts)
            fed = {"input_ids": torch.tensor([row.ids for row in rows])}
            fed["attention_mask"] = attended = torch.tensor([row.attention_mask for row in rows])
            if "token_type_ids" in self._tokenizer.model_input_names:
                fed["token_type_ids"] = torch.tensor([row.type_ids for row in rows])
        if self.recipe.markers:
            return fed, attended
        words = [[1 - marker for marker in row.special_tokens_mask] for row in rows]  # it marks padding too
        return fed, torch.tensor(
            [some if any(some) else row.attention_mask for some, row in zip(words, rows, strict=True)]
        )

    def encode(self, texts: Sequence[str], prompt: str = "") -> Tensor:
        """Unit vectors of shape (texts, dimensions), each text with `prompt` before it."""
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        with torch.inference_mode():
            encoded = []
            for batch in _cut(by_length, texts):
                prompted = [prompt + texts[index] for index in batch]
                with _threads_for(self._layers * sum(map(len, prompted)) // _CHARS_OF_A_TOKEN):
                    encoded.append(self.vectors(prompted))
            return torch.cat(encoded)[sorted(range(len(texts)), key=by_length.__getitem__)]

    def start_training(self) -> list[Tensor]:
        """Put the model into training mode; returns what is to be trained, all but the word embeddings.

        Where the processor computes with bfloat16 the layers do, which halves the time; the weights do not.
        """
        self._model.train()
        self._mixed = precision.computes_bfloat16()
        self._model.get_input_embeddings().requires_grad_(False)
        return [parameter for parameter in self._model.parameters() if parameter.requires_grad]

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights, to be put back with `restore`."""
        return {name: tensor.detach().clone() for name, tensor in self._model.named_parameters()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back weights as `state` returns them."""
        self._model.load_state_dict(state, strict=False)

    def end_training(self) -> None:
        """Put the model back into the mode in which it serves."""
        self._model.eval()  # type: ignore[no-untyped-call]
        self._mixed = False

    def save(self, folder: Path) -> None:
        """Write the encoder so that `load` makes the same of it."""
        self._model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)
        recipe = asdict(replace(self.recipe, transformer=""))
        (folder / _RECIPE).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors of shape (texts, dimensions) of one batch, through which gradients can flow back."""
        fed, pooled_tokens = self.tokenize(texts)
        # Without it, layers in bfloat16 would not take what those in float32 give.
        with torch.autocast("cpu", torch.bfloat16, enabled=self._mixed):
            lean = self._lean if not self._model.training else None
            tokens = lean(**fed) if lean else self._model(**fed).last_hidden_state
        tokens = tokens.float()
        pooled = torch.cat([_pool(mode, tokens, pooled_tokens) for mode in self.recipe.pooling], dim=-1)
        return torch.nn.functional.normalize(pooled, dim=-1)


@contextmanager
def _threads_for(products: int) -> Iterator[None]:
    """One thread for so little work that more gain nothing, and only wait for each other on a busy machine.

    (A short message, MiniLM in float32, two cores: 6.5 ms with one thread or two; beside two busy programs 15
    and 83.)
    """
    most = torch.get_num_threads()
    torch.set_num_threads(1 if products < _DIVIDED else most)
    try:
        yield
    finally:
        torch.set_num_threads(most)


def _cut(by_length: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    """Batches of the texts at these places, which come shortest first."""
    batch: list[int] = []
    for index in by_length:
        if len(batch) == _BATCH or (len(batch) + 1) * len(texts[index]) > _BATCH_CHARS:
            if batch:
                yield batch
            batch = []
        batch.append(index)
    yield batch


def _pool(mode: str, tokens: Tensor, chosen: Tensor) -> Tensor:
    """Token vectors (texts, longest, d), of which `chosen` (texts, longest) count, into (texts, d).

    The modes are those of sentence-transformers' Pooling module.
    """
    mask = chosen.unsqueeze(-1).to(tokens.dtype)
    if mode == "cls":
        return tokens[:, 0]
    if mode == "max":
        return tokens.masked_fill(mask == 0, float("-inf")).amax(dim=1)
    if mode == "lasttoken":
        return tokens[torch.arange(len(tokens)), chosen.sum(dim=1) - 1]
    if mode == "weightedmean":
        mask = mask * torch.arange(1, tokens.shape[1] + 1).view(1, -1, 1)
    total, length = (mask.transpose(1, 2) @ tokens)[:, 0], mask.sum(dim=1)
    return total / (length.sqrt() if mode == "mean_sqrt_len_tokens" else length)
