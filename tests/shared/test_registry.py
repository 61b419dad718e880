"""Versions are whole or not there, and no name leads out of their folder."""

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.hub import ModelUnavailable
from shared.registry import About, Pointer, Registry, VersionFault
from shared.settings import REPOSITORY

HOSTILE = [
    "",
    ".",
    "..",
    "../outside",
    "a/b",
    "/etc",
    "~",
    "a\\b",
    "a\0b",
    "a b",
    "a\n",
    "%2e%2e",
    ".hidden",
    "-rf",
    "ä",
    "x" * 65,
    "configured",
    "active.json",
]

# Ends itself as by kill -9 at the moment that the last argument names.
_KILLED = """
import os, signal, sys
from pathlib import Path
from shared.registry import Pointer, Registry

registry, doing, at = Registry(Path(sys.argv[1])), sys.argv[2], sys.argv[3]

def die_at(event, arguments):
    if event == at:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(die_at)
if doing == "point":
    registry.point(Pointer(active="new"))
else:
    with registry.saving("new", kind="head", parent=None, scores={}) as folder:
        (folder / "head.safetensors").write_bytes(b"0" * 1000)
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def save(registry: Registry, name: str, **files: bytes) -> None:
    with registry.saving(name, kind="head", parent="base", scores={"accuracy": 0.5}) as folder:
        for file, content in (files or {"weights": b"123"}).items():
            (folder / file).write_bytes(content)


def reason(registry: Registry, name: str) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        registry.folder(name)
    assert caught.value.lasting
    assert caught.value.advice
    return caught.value.reason


def test_nothing_is_made_before_the_first_version(registry: Registry, tmp_path: Path) -> None:
    assert registry.versions() == {}
    assert registry.pointer() == Pointer(active="configured", history=())
    assert list(tmp_path.iterdir()) == []


def test_a_version_is_saved_with_what_is_known_of_it(registry: Registry, tmp_path: Path) -> None:
    with registry.saving("v1", kind="head", parent="base", scores={"accuracy": 0.5}) as folder:
        (folder / "encoder").mkdir()
        (folder / "encoder" / "model.safetensors").write_bytes(b"123")
        assert registry.versions() == {}
    about = registry.versions()["v1"]
    assert isinstance(about, About)
    assert (about.kind, about.parent, about.scores) == ("head", "base", {"accuracy": 0.5})
    assert list(about.files) == ["encoder/model.safetensors"]
    assert registry.folder("v1") == tmp_path / "registry" / "v1"
    assert (tmp_path / "registry").stat().st_mode & 0o077 == 0


def test_the_newest_comes_first(registry: Registry) -> None:
    for name in ("b", "c", "a"):
        save(registry, name)
    assert list(registry.versions()) == ["a", "c", "b"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_never_leads_outside(registry: Registry, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").mkdir()
    save(registry, "v1")
    assert name not in registry
    assert "not in the registry" in reason(registry, name)
    with pytest.raises(VersionFault, match="no name for a version"):
        save(registry, name)
    assert list(registry.versions()) == ["v1"]


def test_a_version_is_never_overwritten(registry: Registry, tmp_path: Path) -> None:
    save(registry, "v1", weights=b"old")
    with pytest.raises(VersionFault, match="already"):
        save(registry, "v1", weights=b"new")
    assert (registry.folder("v1") / "weights").read_bytes() == b"old"
    assert [path.name for path in (tmp_path / "registry").iterdir()] == ["v1"]


def test_of_two_that_save_one_name_at_once_the_first_wins(registry: Registry) -> None:
    def save_late() -> None:
        with registry.saving("v1", kind="", parent=None, scores={}) as late:
            (late / "weights").write_bytes(b"late")
            save(registry, "v1", weights=b"first")

    with pytest.raises(VersionFault, match="already"):
        save_late()
    assert (registry.folder("v1") / "weights").read_bytes() == b"first"


def test_a_failure_while_saving_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    def fail() -> None:
        with registry.saving("v1", kind="", parent=None, scores={}) as folder:
            (folder / "weights").write_bytes(b"123")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert list((tmp_path / "registry").iterdir()) == []


def _killed(folder: Path, doing: str, at: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder), doing, at], cwd=REPOSITORY, timeout=60, check=False
    )
    assert ended.returncode == -9


def test_a_kill_before_the_rename_leaves_no_half_version(registry: Registry, tmp_path: Path) -> None:
    save(registry, "v1")
    folder = tmp_path / "registry"
    _killed(folder, "save", "os.rename")
    assert list(registry.versions()) == ["v1"]
    (left,) = (path for path in folder.iterdir() if path.name != "v1")
    assert left.name not in registry
    assert (left / "version.json").exists(), "it was killed too early to show anything"

    save(registry, "new")
    assert left.exists(), "it might be one that is still being saved"
    os.utime(left, (time.time() - 90_000,) * 2)
    save(registry, "newer")
    assert not left.exists()
    assert set(registry.versions()) == {"v1", "new", "newer"}


def test_a_kill_before_the_rename_leaves_the_old_pointer(registry: Registry, tmp_path: Path) -> None:
    registry.point(Pointer(active="old"))
    _killed(tmp_path / "registry", "point", "os.rename")
    assert registry.pointer().active == "old"
    registry.point(Pointer(active="other", history=("old",)))
    assert registry.pointer() == Pointer(active="other", history=("old",))


def _cut(version: Path) -> None:
    (version / "weights").write_bytes(b"12")


def _changed(version: Path) -> None:
    (version / "weights").write_bytes(b"124")


def _removed(version: Path) -> None:
    (version / "weights").unlink()


def _pickle_added(version: Path) -> None:
    (version / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def _link_to_a_file(version: Path) -> None:
    (version / "weights").rename(version.parent.parent / "elsewhere")
    (version / "weights").symlink_to(version.parent.parent / "elsewhere")


def _link_to_a_folder(version: Path) -> None:
    (version / "encoder").symlink_to("/")


def _about_missing(version: Path) -> None:
    (version / "version.json").unlink()


def _about_broken(version: Path) -> None:
    (version / "version.json").write_text("{")


def _about_of_another_shape(version: Path) -> None:
    (version / "version.json").write_text(json.dumps({"created": "yesterday"}))


def _about_a_link(version: Path) -> None:
    (version / "version.json").rename(version.parent.parent / "version.json")
    (version / "version.json").symlink_to(version.parent.parent / "version.json")


def _about_endless(version: Path) -> None:
    with (version / "version.json").open("r+b") as file:
        file.truncate(2**40)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_cut, "its weights is not as it was saved"),
        (_changed, "its weights is not as it was saved"),
        (_removed, "its weights is missing"),
        (_pickle_added, "its pytorch_model.bin is not part of it"),
        (_link_to_a_file, "its weights is a link"),
        (_link_to_a_folder, "its encoder is a link"),
        (_about_missing, "its version.json cannot be read"),
        (_about_broken, "its version.json cannot be read"),
        (_about_of_another_shape, "its version.json cannot be read"),
        (_about_a_link, "its version.json is a link"),
        (_about_endless, "its version.json is a link or too large"),
    ],
)
def test_what_is_not_as_it_was_saved_is_refused(
    registry: Registry, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    save(registry, "v1")
    save(registry, "v2")
    spoil(tmp_path / "registry" / "v1")
    assert said in reason(registry, "v1")
    assert set(registry.versions()) == {"v1", "v2"}
    assert registry.folder("v2")


def test_a_link_is_no_version(registry: Registry, tmp_path: Path) -> None:
    save(registry, "v1")
    save(Registry(tmp_path / "other"), "v2")
    (tmp_path / "registry" / "v2").symlink_to(tmp_path / "other" / "v2")
    (tmp_path / "registry" / "v3").symlink_to(".")
    assert list(registry.versions()) == ["v1"]
    assert "v2" not in registry


@pytest.mark.parametrize("content", ["", "{", "[]", '{"active": 7}', '{"history": "v1"}'])
def test_a_broken_pointer_is_said_to_be_broken(registry: Registry, tmp_path: Path, content: str) -> None:
    registry.point(Pointer(active="v1"))
    (tmp_path / "registry" / "active.json").write_text(content)
    with pytest.raises(ModelUnavailable, match=r"active\.json cannot be read"):
        registry.pointer()
