"""Loads a model from a folder, strictly: safetensors only, nothing missing, no foreign code, no network."""

import itertools
import threading
from pathlib import Path
from typing import Any

import torch

# Transformers imports these, and with them a thousand modules, while it loads a first model. An import
# holds the interpreter, and the event loop with it, for up to 0.3 s: better before a service listens.
import torch.distributed.tensor
import transformers
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama

from shared import model_folder
from shared.hub import ModelUnavailable

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]

_LOADING = threading.Lock()
"""transformers' loading is not safe for two threads at once: a model may come out lacking tied weights."""


def load_model(
    auto_class: Any, folder: Path, harmless: str | None = None, dtype: torch.dtype | str = torch.float32
) -> Any:
    """The model in `folder` in eval mode, by one of transformers' Auto classes.

    In the given `dtype`; "auto" is the checkpoint's own.

    Transformers fills in missing weights at random and only logs it; here that is refused, but for names
    that begin with `harmless`. Raises ModelUnavailable, or whatever a broken folder makes transformers raise.
    """
    model_folder.check_files(folder)
    with _LOADING:
        _check_config(auto_class, folder)
        model, report = auto_class.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(name for name in report["missing_keys"] if not (harmless and name.startswith(harmless)))
    wrong = [*missing, *sorted(name for name, *_ in report["mismatched_keys"])]
    if wrong:
        raise ModelUnavailable(
            f"it lacks {len(wrong)} weights that {type(model).__name__} needs (such as {wrong[0]})",
            "Name a complete model of the right kind, or save it again with save_pretrained().",
            lasting=True,
        )
    return model.eval()


def _check_config(auto_class: Any, folder: Path) -> None:
    """Refuse a config that describes another size of model than the weights have. Raises as `load_model`."""
    model_folder.check_counts(folder)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):  # the shapes alone, without memory
        shapes = auto_class.from_config(config)
    numbers = (part.numel() for part in itertools.chain(shapes.parameters(), shapes.buffers()))
    model_folder.check_size(sum(numbers), folder)


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer in `folder`. Where there is none transformers makes up an empty one: ModelUnavailable."""
    model_folder.check_files(folder)
    model_folder.check_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False, **options
    )
    # Whatever files a tokenizer came in, save_pretrained() leaves it in the first of these.
    if not any(
        (folder / file).is_file() for file in ("tokenizer.json", *tokenizer.vocab_files_names.values())
    ):
        raise ModelUnavailable(
            "it holds no tokenizer", "Save it beside the model with save_pretrained().", lasting=True
        )
    return tokenizer
