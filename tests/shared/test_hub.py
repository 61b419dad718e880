"""From a name to a folder: from this disk, or from a hub, and never by running what was fetched."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from shared import hub
from shared.checkpoint import load_model
from shared.hub import ModelUnavailable
from shared.settings import REPOSITORY
from tests.shared import hub_server
from tests.shared.hub_server import Hub

Checkpoint = Callable[[str], Path]
Fetch = Callable[..., Any]

# huggingface_hub reads its environment when it is imported, so each download has a process of its own.
_FETCH = """
import json, logging, resource, sys, threading
from dataclasses import asdict
from shared import hub

names, revision, stop_after, largest_file = json.loads(sys.argv[1])
stop, progress = threading.Event(), []
logging.basicConfig(level=logging.DEBUG, stream=open(sys.argv[2], "w"), format="%(name)s: %(message)s")
if largest_file:  # beyond it a write fails, as on a disk that is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

def on_fetched(fetched):
    progress.append(asdict(fetched) | {"percent": fetched.percent})
    if stop_after is not None and fetched.bytes > stop_after:
        stop.set()

for name in names:
    try:
        said = {"folder": str(hub.fetch(name, on_fetched, stop, revision))}
    except hub.ModelUnavailable as error:
        said = {"reason": error.reason, "advice": error.advice, "lasting": error.lasting}
    print(json.dumps(said | {"progress": progress}))
"""


@pytest.fixture
def online() -> Iterator[Hub]:
    with hub_server.running() as served:
        yield served


@pytest.fixture
def fetch(online: Hub, tmp_path: Path) -> Fetch:
    """Fetches in a process of its own, from the small hub or `endpoint`; returns what it says of each."""

    def run(
        *names: str,
        endpoint: str = "",
        revision: str | None = None,
        stop_after: int | None = None,
        largest_file: int | None = None,
        kill_when: Callable[[], object] = lambda: False,
        **variables: str,
    ) -> Any:
        given = json.dumps([names, revision, stop_after, largest_file])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment |= {"HF_ENDPOINT": endpoint or online.url, "HF_HOME": str(tmp_path / "cache")}
        with subprocess.Popen(
            [sys.executable, "-c", _FETCH, given, str(tmp_path / "log")],
            cwd=REPOSITORY,
            env=environment | {"OMP_NUM_THREADS": "1"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            while child.poll() is None and not kill_when():
                time.sleep(0.02)
            if child.poll() is None:
                child.kill()
            out, errors = child.communicate(timeout=60)
        assert child.returncode in (0, -9), errors
        assert errors == ""
        return [json.loads(line) for line in out.splitlines()]

    return run


def _log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def _pickled(folder: Path, weights: Any = None) -> Path:
    torch.save(weights or load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def _same_weights(one: Path, other: Path) -> bool:
    first, second = (load_model(AutoModelForCausalLM, folder).state_dict() for folder in (one, other))
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def test_a_folder_is_taken_as_it_is(checkpoint: Checkpoint) -> None:
    folder = checkpoint("mine")
    assert hub.fetch(str(folder), lambda _: None, threading.Event()) == folder


def test_a_folder_without_safetensors_is_refused_for_good(checkpoint: Checkpoint) -> None:
    folder = _pickled(checkpoint("old"))
    with pytest.raises(ModelUnavailable, match=r"holds no \.safetensors weights") as caught:
        hub.fetch(str(folder), lambda _: None, threading.Event())
    assert caught.value.lasting
    assert "save_pretrained" in caught.value.advice


def test_a_model_is_fetched_with_visible_progress_and_only_what_it_needs(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = online.folders["owner/mine"] = checkpoint("mine")
    for needless in ("README.md", "rust_model.ot", "pytorch_model.bin", "run.py"):
        (folder / needless).write_bytes(b"never")

    (said,) = fetch("owner/mine")

    fetched = Path(said["folder"])
    assert {file.name for file in fetched.iterdir()} == {
        file.name for file in folder.iterdir() if file.suffix in (".json", ".txt", ".safetensors")
    }
    assert _same_weights(folder, fetched)
    size = sum(file.stat().st_size for file in fetched.iterdir())
    progress = said["progress"]
    assert progress[-1] == {"bytes": size, "total": size, "seconds_left": 0, "percent": 100}
    assert {step["total"] for step in progress} == {size}
    assert [step["bytes"] for step in progress] == sorted(step["bytes"] for step in progress)
    assert all(step["seconds_left"] >= 0 for step in progress)
    (line,) = (line for line in _log(tmp_path) if line.startswith("shared.hub: "))
    assert line == f"shared.hub: fetching owner/mine: 0 of {size // 10**6} MB, 100 %, about 0 s left"


def test_the_log_says_how_far_it_is_but_not_at_every_piece(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = online.folders["owner/mine"] = checkpoint("mine")
    (folder / "model.safetensors").write_bytes(b"0" * 60_000_000)
    (said,) = fetch("owner/mine")
    assert len(said["progress"]) > 5
    (line,) = (line for line in _log(tmp_path) if line.startswith("shared.hub: "))
    assert line == "shared.hub: fetching owner/mine: 60 of 60 MB, 100 %, about 0 s left"


def test_after_a_cut_finished_files_are_not_fetched_again(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint
) -> None:
    folder = online.folders["owner/mine"] = checkpoint("mine")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes(b"1" * 3_000_000)
    (folder / "c.safetensors").write_bytes(b"2" * 30_000_000)
    online.stalls["c.safetensors"] = 15_000_000
    files = {file.name for file in folder.iterdir()}
    cache = folder.parent / "cache"

    def in_the_middle_of_c() -> bool:
        done = {file.name for file in cache.glob("hub/models--*/snapshots/*/*")}
        begun = cache.glob("hub/models--*/blobs/*.incomplete")
        return done == files - {"c.safetensors"} and any(file.stat().st_size >= 10_000_000 for file in begun)

    assert fetch("owner/mine", kill_when=in_the_middle_of_c) == []
    assert set(online.fetched) == files
    online.fetched.clear()
    online.stalls.clear()

    (said,) = fetch("owner/mine")

    assert online.fetched == ["c.safetensors"]
    there = sum((folder / file).stat().st_size for file in files - {"c.safetensors"})
    assert all(step["bytes"] > there for step in said["progress"])
    assert said["progress"][-1]["percent"] == 100
    for file in files:
        assert (Path(said["folder"]) / file).read_bytes() == (folder / file).read_bytes()


def test_the_token_goes_to_the_hub_and_nowhere_else(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    online.folders["owner/mine"] = checkpoint("mine")
    online.refusals["owner/closed"] = (403, "GatedRepo")
    said = fetch("owner/mine", "owner/closed", HF_TOKEN="hf_nobodyshouldseethis")  # noqa: S106  # no real one
    assert online.tokens == {"Bearer hf_nobodyshouldseethis"}
    assert "hf_nobody" not in json.dumps(said)
    assert _log(tmp_path)
    assert "hf_nobody" not in "".join(_log(tmp_path))


def test_a_pinned_revision_is_the_one_that_is_fetched(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint
) -> None:
    online.folders["owner/mine"] = checkpoint("mine")
    (said,) = fetch("owner/mine", revision=hub_server.COMMIT)
    assert Path(said["folder"]).name == hub_server.COMMIT


def test_what_was_fetched_once_is_there_when_the_hub_is_not(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint
) -> None:
    online.folders["owner/mine"] = checkpoint("mine")
    (first,) = fetch("owner/mine")
    (again,) = fetch("owner/mine", endpoint="http://127.0.0.1:1")
    assert again["folder"] == first["folder"]


def test_a_hub_out_of_reach_may_be_back_later(fetch: Fetch) -> None:
    (said,) = fetch("owner/mine", endpoint="http://127.0.0.1:1")
    assert said["reason"] == "it is not on this disk and the model hub cannot be reached"
    assert not said["lasting"]


def test_a_download_that_was_broken_off_may_go_on_later(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint
) -> None:
    folder = online.folders["owner/mine"] = checkpoint("mine")
    (folder / "model.safetensors").write_bytes(b"0" * 40_000_000)
    (broken_off,) = fetch("owner/mine", stop_after=20_000_000)
    assert "stopping" in broken_off["reason"]

    (said,) = fetch("owner/mine", endpoint="http://127.0.0.1:1")
    assert said["reason"] == "it is not on this disk and the model hub cannot be reached"
    assert not said["lasting"]


@pytest.mark.parametrize("status", [hub_server.HANG_UP, 403, 503])
def test_a_hub_in_trouble_may_be_well_later(online: Hub, fetch: Fetch, status: int) -> None:
    online.refusals["owner/mine"] = (status, "")
    (said,) = fetch("owner/mine")
    assert said["reason"]
    assert said["advice"]
    assert not said["lasting"]


@pytest.mark.parametrize(
    ("refusal", "revision", "reason", "advice"),
    [
        ((404, "RepoNotFound"), None, "the hub knows no such model", "HF_TOKEN"),
        ((401, "RepoNotFound"), None, "the hub knows no such model", "HF_TOKEN"),
        ((401, "GatedRepo"), None, "it is gated on the hub", "Accept its terms"),
        ((403, "GatedRepo"), None, "it is gated on the hub", "Accept its terms"),
        (None, "v9", "the hub knows no such model", "revision"),
    ],
)
def test_what_the_hub_will_never_give_is_not_asked_for_again(
    online: Hub,
    fetch: Fetch,
    checkpoint: Checkpoint,
    refusal: tuple[int, str] | None,
    revision: str | None,
    reason: str,
    advice: str,
) -> None:
    online.folders["owner/mine"] = checkpoint("mine")
    if refusal:
        online.refusals["owner/mine"] = refusal
    (said,) = fetch("owner/mine", revision=revision)
    assert reason in said["reason"]
    assert advice in said["advice"]
    assert said["lasting"]


def test_a_name_that_no_hub_can_have_is_refused_for_good(fetch: Fetch) -> None:
    (said,) = fetch("owner/" + "x" * 200)
    assert said["reason"] == "no model can have that name"
    assert said["lasting"]


def _in_pieces(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where: dict[str, str] = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        torch.save({name: weights[name] for name in names}, folder / f"pytorch_model-{number}.bin")
        where |= dict.fromkeys(names, f"pytorch_model-{number}.bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def test_old_models_are_converted_once_and_load(online: Hub, fetch: Fetch, checkpoint: Checkpoint) -> None:
    original = checkpoint("original")
    weights = load_file(original / "model.safetensors")
    tied = weights | {"lm_head.weight": weights["transformer.wte.weight"]}
    online.folders["owner/whole"] = _pickled(checkpoint("whole"), tied)
    online.folders["owner/pieces"] = _in_pieces(checkpoint("pieces"))

    first = fetch("owner/whole", "owner/pieces")
    assert all(_same_weights(original, Path(said["folder"])) for said in first)

    again = fetch("owner/whole", "owner/pieces", endpoint="http://127.0.0.1:1")
    assert [said["folder"] for said in again] == [said["folder"] for said in first]


def test_a_full_disk_while_converting_may_have_room_later(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint
) -> None:
    original = checkpoint("original")
    weights = load_file(original / "model.safetensors")
    # Two names of one tensor: once in the pickle, twice in what is made of it.
    tied = weights | {"lm_head.weight": weights["transformer.wte.weight"]}
    folder = online.folders["owner/old"] = _pickled(checkpoint("old"), tied)
    largest = (folder / "pytorch_model.bin").stat().st_size + 1000

    (said,) = fetch("owner/old", largest_file=largest)
    assert "could not be written as safetensors" in said["reason"]
    assert "disk space" in said["advice"]
    assert not said["lasting"]

    (said,) = fetch("owner/old")
    assert _same_weights(original, Path(said["folder"]))
    assert not list(Path(said["folder"]).glob("*.part"))


def test_a_model_without_weights_is_refused(online: Hub, fetch: Fetch, checkpoint: Checkpoint) -> None:
    folder = online.folders["owner/bare"] = checkpoint("bare")
    (folder / "model.safetensors").unlink()
    (said,) = fetch("owner/bare")
    assert said["lasting"]
    assert said["reason"] == "it holds no weights"


class _Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.trace}",)


def test_a_program_among_the_weights_is_not_run(
    online: Hub, fetch: Fetch, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    trace = tmp_path / "was-run"
    payload = {"weight": _Payload(trace)}
    online.folders["owner/bare"] = bare = _pickled(checkpoint("bare"))
    (bare / "pytorch_model.bin").write_bytes(pickle.dumps(payload, protocol=2))
    online.folders["owner/zipped"] = _pickled(checkpoint("zipped"), payload)

    for said in fetch("owner/bare", "owner/zipped"):
        assert said["reason"] == "its pytorch_model.bin holds something else than plain weights"
        assert said["lasting"]
    assert not trace.exists()
    pickle.loads((bare / "pytorch_model.bin").read_bytes())  # noqa: S301  # the payload would have worked
    assert trace.exists()
