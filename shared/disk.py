"""Whether a folder can be written to, found out by writing."""

import tempfile
from pathlib import Path

_ROOM_BYTES = 1_000_000


def fault(folder: Path) -> str | None:
    """Why nothing of any size can be written there now, in the system's words; None when it can."""
    try:
        with tempfile.TemporaryFile(dir=folder) as trial:
            trial.write(bytes(_ROOM_BYTES))
    except OSError as error:
        return error.strerror
    return None
