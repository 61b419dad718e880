"""From a model's name to a folder on this disk: a local folder as it is, the rest from the Hugging Face hub.

Only safetensors are ever loaded. Old hub models (DialoGPT among them) may carry nothing but
`pytorch_model.bin`: those are converted once, next to the download, by torch's restricted unpickler,
which builds tensors and refuses everything else.
"""

import json
import logging
import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_LOG_EVERY_S = 10.0

OnBytes = Callable[[int, int], None]
"""Called with (bytes so far, bytes in all); 0 in all while it is not known."""


class ModelUnavailable(Exception):
    """A model cannot be had; says why and what to do. `lasting` means that trying again is of no use."""

    def __init__(self, reason: str, advice: str, *, lasting: bool = False) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason
        self.advice = advice
        self.lasting = lasting


def fetch(name: str, on_bytes: OnBytes, stop: threading.Event, revision: str | None = None) -> Path:
    """Return the folder that holds the model `name`, downloading it if it is a hub id.

    Raises ModelUnavailable.
    """
    if (folder := Path(name)).is_dir():
        if not _has_safetensors(folder):
            raise ModelUnavailable(
                "it holds no .safetensors weights",
                "Save the model with save_pretrained(), or name another folder.",
                lasting=True,
            )
        return folder
    folder = _download(name, [*_SMALL_FILES, "*.safetensors"], on_bytes, stop, revision)
    if not _has_safetensors(folder):
        folder = _download(name, [*_SMALL_FILES, "pytorch_model*.bin"], on_bytes, stop, revision)
        _convert(name, folder)
    return folder


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _download(
    name: str, patterns: list[str], on_bytes: OnBytes, stop: threading.Event, revision: str | None
) -> Path:
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=patterns, tqdm_class=_progress(name, on_bytes, stop)
            )
        )
    except GatedRepoError:
        raise ModelUnavailable(
            "it is gated on the hub", "Accept its terms there and set HF_TOKEN.", lasting=True
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise ModelUnavailable(
            "the hub knows no such model",
            "Check the name (owner/model) and the revision; private models need HF_TOKEN.",
            lasting=True,
        ) from None
    except LocalEntryNotFoundError:
        raise ModelUnavailable(
            "it is not on this disk and the model hub cannot be reached",
            "Check the network (or HF_ENDPOINT), or name a local folder instead.",
        ) from None
    except HFValidationError:
        raise ModelUnavailable(
            "no model can have that name", "Write it as owner/model.", lasting=True
        ) from None
    except Exception as error:  # the hub's errors, its HTTP client's and the disk's share no narrower base
        raise ModelUnavailable(
            f"fetching it failed: {type(error).__name__}: {error}".splitlines()[0],
            "Check the network and the free disk space.",
        ) from error


def _progress(name: str, on_bytes: OnBytes, stop: threading.Event) -> "type[tqdm[Any]]":
    """A silent progress bar that reports the bytes fetched and ends the download when nobody wants it."""

    class Progress(tqdm):  # type: ignore[type-arg]  # tqdm is generic in its stubs only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            self._counts_bytes = str(kwargs.get("desc", "")).startswith("Downloading")
            self._logged_at = time.monotonic()
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise InterruptedError("the service is stopping")
            changed = super().update(n)
            if self._counts_bytes:
                on_bytes(int(self.n), int(self.total or 0))
                self._log()
            return changed

        def _log(self) -> None:
            if time.monotonic() - self._logged_at < _LOG_EVERY_S:
                return
            self._logged_at = time.monotonic()
            logger.info("fetching %s: %d of %d MB", name, self.n // 10**6, (self.total or 0) // 10**6)

    return Progress


class _Nowhere:
    """A file that forgets what is written to it."""

    def write(self, _: str) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing to do."""


def _convert(name: str, folder: Path) -> None:
    """Write the pickled weights of the model in `folder` as safetensors beside them."""
    index = folder / "pytorch_model.bin.index.json"
    files = (
        sorted({*json.loads(index.read_text())["weight_map"].values()})
        if index.exists()
        else ["pytorch_model.bin"]
    )
    if not all((folder / file).is_file() for file in files):
        raise ModelUnavailable("it holds no weights", "Name a model with weights.", lasting=True)

    # Heavy imports stay out of the way of everybody who never converts.
    import torch
    from safetensors.torch import save_file

    weights: dict[str, torch.Tensor] = {}
    for file in files:
        logger.info("converting %s of %s to safetensors, once", file, name)
        try:
            weights |= torch.load(folder / file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # torch's message would advise to run what it has just refused
            raise ModelUnavailable(
                f"its {file} holds something else than plain weights",
                "Name a model with .safetensors weights.",
                lasting=True,
            ) from None
    # clone: safetensors refuses tensors that share memory, as tied weights do
    plain = {key: tensor.detach().clone().contiguous() for key, tensor in weights.items()}
    # Renamed when it is whole: a conversion that was cut off must not pass for the model.
    unfinished = folder / "model.safetensors.part"
    save_file(plain, unfinished, metadata={"format": "pt"})
    unfinished.rename(folder / "model.safetensors")
