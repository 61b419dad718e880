"""Model versions in a folder: one subfolder each, and one small file that says which one is active.

Nothing is ever half there: a version is built in a hidden folder beside and renamed, and so is the small
file. Checksums of what a version holds are written down when it is saved, and compared when it is loaded.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from shared.hub import ModelUnavailable

CONFIGURED = "configured"
"""Stands for the model that the settings name, which is no version of the registry."""

MAX_HISTORY = 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ABOUT, _POINTER = "version.json", "active.json"
_RESERVED = (CONFIGURED, _POINTER)
_UNFINISHED = ".unfinished-"
_LEFT_BEHIND_S = 24 * 3600.0
_MAX_JSON_BYTES = 2**20


class VersionFault(ValueError):
    """A version cannot have that name; the message is for the person who chose it."""


class About(BaseModel):
    """What `version.json` says: `parent` is what it was made from, `files` path to SHA-256."""

    model_config = ConfigDict(frozen=True)

    created: datetime
    kind: str
    parent: str | None
    scores: dict[str, JsonValue]
    files: dict[str, str]


class Pointer(BaseModel):
    """The version to serve, and those that were active before it, the latest last."""

    model_config = ConfigDict(frozen=True)

    active: str = CONFIGURED
    history: tuple[str, ...] = ()


Document = TypeVar("Document", About, Pointer)


class Registry:
    """The versions in `folder`, which need not exist before the first one is saved."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, name: str) -> bool:
        """Whether there is a version of that name. No name leads out of the folder."""
        version = self._folder / name if _possible(name) else None
        return version is not None and version.is_dir() and not version.is_symlink()

    def versions(self) -> dict[str, About | ModelUnavailable]:
        """Name to what is known of it, or why that cannot be read; the newest first."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        found = {name: self._about(name) for name in sorted(names) if name in self}
        return dict(sorted(found.items(), key=lambda item: _created(item[1]), reverse=True))

    def folder(self, name: str) -> Path:
        """The folder of a version that is byte for byte as it was saved. Raises ModelUnavailable."""
        if name not in self:
            raise _broken("it is not in the registry any more")
        if isinstance(about := self._about(name), ModelUnavailable):
            raise about
        folder = self._folder / name
        there = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
        if links := [path for path in there if there[path].is_symlink()]:
            raise _broken(f"its {links[0]} is a link, which may lead anywhere")
        files = {path for path in there if there[path].is_file()} - {_ABOUT}
        if odd := sorted(files ^ about.files.keys()):
            raise _broken(f"its {odd[0]} is {'missing' if odd[0] in about.files else 'not part of it'}")
        if changed := [path for path in sorted(files) if _sha256(there[path]) != about.files[path]]:
            raise _broken(f"its {changed[0]} is not as it was saved")
        return folder

    @contextlib.contextmanager
    def saving(
        self, name: str, *, kind: str, parent: str | None, scores: dict[str, JsonValue]
    ) -> Iterator[Path]:
        """A folder to save a model in; it becomes the version `name` at the end, or vanishes with an error.

        Raises VersionFault and OSError.
        """
        self.check_new(name)
        make_private(self._folder)
        self._sweep()
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._folder))
        try:
            yield unfinished
            paths = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
            files = {str(path.relative_to(unfinished)): _sha256(path) for path in paths}
            about = About(created=datetime.now(UTC), kind=kind, parent=parent, scores=scores, files=files)
            (unfinished / _ABOUT).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
            for path in (*unfinished.rglob("*"), unfinished):
                _sync(path)
            self.check_new(name)
            unfinished.rename(self._folder / name)
            _sync(self._folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def check_new(self, name: str) -> None:
        """Raise VersionFault if a new version cannot have that name."""
        if not _possible(name):
            raise VersionFault(
                f"{name!r} is no name for a version: write up to 64 letters, digits, dots, dashes and"
                f" underscores, beginning with a letter or digit ({' and '.join(_RESERVED)} are taken)"
            )
        if os.path.lexists(self._folder / name):
            raise VersionFault(f"there is a version {name} already: choose another name")

    def pointer(self) -> Pointer:
        """Which version is active. Raises ModelUnavailable if the file that says so is broken."""
        if not (self._folder / _POINTER).exists():
            return Pointer()
        if isinstance(pointer := _read(self._folder / _POINTER, Pointer), ModelUnavailable):
            raise pointer
        return pointer

    def point(self, pointer: Pointer) -> None:
        """Make a version the active one, for good once this returns. Raises OSError."""
        make_private(self._folder)
        unfinished = self._folder / f".{_POINTER}"
        unfinished.write_text(pointer.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _sync(unfinished)
        unfinished.replace(self._folder / _POINTER)
        _sync(self._folder)

    def _about(self, name: str) -> About | ModelUnavailable:
        return _read(self._folder / name / _ABOUT, About)

    def _sweep(self) -> None:
        """Remove what a process that was killed left behind."""
        for folder in self._folder.glob(f"{_UNFINISHED}*"):
            if time.time() - folder.lstat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(folder, ignore_errors=True)


def _possible(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


def _read(file: Path, kind: type[Document]) -> Document | ModelUnavailable:
    try:
        if file.is_symlink() or file.stat().st_size > _MAX_JSON_BYTES:
            return _broken(f"its {file.name} is a link or too large")
        return kind.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return _broken(f"its {file.name} cannot be read")


def _broken(reason: str) -> ModelUnavailable:
    return ModelUnavailable(reason, "Activate another version, or save it again.", lasting=True)


def _created(about: About | ModelUnavailable) -> float:
    return about.created.timestamp() if isinstance(about, About) else 0.0


def make_private(folder: Path) -> None:
    """Each new folder is for its owner alone, as the launcher's data folder, which may be among them."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """To the disk itself: else a power cut may leave the new name with nothing behind it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
