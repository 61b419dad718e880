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
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import get_cached_repo_tree, snapshot_download, try_to_load_from_cache
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


@dataclass(frozen=True)
class Fetched:
    """How far a download is: `total` is 0 and `seconds_left` None while that is not known."""

    bytes: int
    total: int
    seconds_left: float | None = None

    @property
    def percent(self) -> int | None:
        """The share that is there, rounded down."""
        return 100 * self.bytes // self.total if self.total else None

    def __str__(self) -> str:
        said = f"{self.bytes // 10**6} of {self.total // 10**6} MB"
        if self.percent is not None:
            said += f", {self.percent} %"
        if self.seconds_left is not None:
            said += f", about {round(self.seconds_left)} s left"
        return said


OnFetched = Callable[[Fetched], None]


class ModelUnavailable(Exception):
    """A model cannot be had; says why and what to do. `lasting` means that trying again is of no use."""

    def __init__(self, reason: str, advice: str, *, lasting: bool = False) -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason
        self.advice = advice
        self.lasting = lasting


def fetch(name: str, on_fetched: OnFetched, stop: threading.Event, revision: str | None = None) -> Path:
    """Return the folder that holds the model `name`, downloading it if it is a hub id.

    Files that were fetched before are not fetched again, also where a download was cut off between them.
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
    folder = _download(name, [*_SMALL_FILES, "*.safetensors"], on_fetched, stop, revision)
    if not _has_safetensors(folder):
        folder = _download(name, [*_SMALL_FILES, "pytorch_model*.bin"], on_fetched, stop, revision)
        _convert(name, folder)
    return folder


def on_disk(name: str, revision: str | None = None) -> bool:
    """Whether the model `name` is a folder or was fetched before; nothing is asked of the hub."""
    if (folder := Path(name)).is_dir():
        return _has_safetensors(folder)
    try:
        kept = snapshot_download(
            name, revision=revision, allow_patterns=[*_SMALL_FILES, "*.safetensors"], local_files_only=True
        )
    except (LocalEntryNotFoundError, HFValidationError):
        return False
    return _has_safetensors(Path(kept))


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _download(
    name: str, patterns: list[str], on_fetched: OnFetched, stop: threading.Event, revision: str | None
) -> Path:
    def sizes() -> tuple[int, int]:
        """Bytes that are there already, and in all; no call is needed once the hub has listed its files."""
        listed = {file.path: file.size for file in get_cached_repo_tree(name, revision=revision)}
        wanted = [path for path in listed if any(fnmatch(path, pattern) for pattern in patterns)]
        there = (p for p in wanted if isinstance(try_to_load_from_cache(name, p, revision=revision), str))
        return sum(listed[path] for path in there), sum(listed[path] for path in wanted)

    progress = _progress(name, sizes, on_fetched, stop)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, tqdm_class=progress))
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


def _progress(
    name: str, sizes: Callable[[], tuple[int, int]], on_fetched: OnFetched, stop: threading.Event
) -> "type[tqdm[Any]]":
    """A silent progress bar that reports the bytes fetched and ends the download when nobody wants it."""

    class Progress(tqdm):  # type: ignore[type-arg]  # tqdm is generic in its stubs only
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            # Of the hub's bars the one that counts bytes of files, however they are transferred.
            self._counts_bytes = str(kwargs.get("desc", "")).startswith("Reconstructing")
            if self._counts_bytes:
                # The bar's own total grows as files begin, and leaves out those that are there.
                self._there, self._in_all = sizes()
                self._began = self._logged_at = time.monotonic()
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise InterruptedError("the service is stopping")
            changed = super().update(n)
            if self._counts_bytes:
                self._report(int(self.n))
            return changed

        def _report(self, new: int) -> None:
            now, there = time.monotonic(), self._there + new
            left_s = (self._in_all - there) * (now - self._began) / new if new else None
            fetched = Fetched(there, self._in_all, left_s)
            on_fetched(fetched)
            if now - self._logged_at >= _LOG_EVERY_S or there == self._in_all:
                self._logged_at = now
                logger.info("fetching %s: %s", name, fetched)

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
    from safetensors import SafetensorError
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
    try:
        save_file(plain, unfinished, metadata={"format": "pt"})
        unfinished.rename(folder / "model.safetensors")
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise ModelUnavailable(
            f"its weights could not be written as safetensors: {error}".splitlines()[0],
            "Check the free disk space where HF_HOME lies.",
        ) from error
