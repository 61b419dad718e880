"""What serves goes on serving until something better has answered."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from shared import model_slot
from shared.checkpoint import load_model
from shared.contracts import LoadingModel
from shared.hub import Fetched, ModelUnavailable, OnFetched
from shared.model_slot import ModelSlot, Source
from shared.problems import ModelNotReady
from shared.worker import Worker

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
HUB_ID = "nobody/no-such-model"
Checkpoint = Callable[[str], Path]


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110  # other threads change what is waited for
            await asyncio.sleep(0.001)


def _answer(model: Any) -> list[int]:
    with torch.inference_mode():
        return list(model(torch.tensor([[1, 2, 3]])).logits.argmax(-1)[0])


def _answer_for(model: Any, _: threading.Event) -> list[int]:
    return _answer(model)


def _slot(loader: Worker, **changes: Any) -> ModelSlot[Any]:
    steps: dict[str, Any] = {
        "load": partial(load_model, AutoModelForCausalLM),
        "warm_up": _answer,
        "setting": "DIALOGUE_MODEL",
    }
    return ModelSlot(loader, **(steps | changes))


@pytest.fixture
async def loader() -> AsyncIterator[Worker]:
    with Worker("loader", capacity=2) as worker:
        yield worker


async def test_without_a_model_the_answer_says_what_to_set(loader: Worker) -> None:
    slot = _slot(loader)
    assert not slot.ready
    with pytest.raises(ModelNotReady, match="Set DIALOGUE_MODEL") as refused:
        _ = slot.served
    assert int(refused.value.headers["Retry-After"]) >= 1


async def test_a_model_from_a_folder_serves_under_its_name(loader: Worker, checkpoint: Checkpoint) -> None:
    slot = _slot(loader)
    assert await slot.put(str(checkpoint("mine")))
    assert slot.served.name == "mine"
    assert len(_answer(slot.served.model)) == 3
    assert slot.status().model_dump() == {"serving": "mine", "loading": None, "failed": None}


async def test_a_model_that_runs_elsewhere_serves_once_it_has_answered(
    loader: Worker, checkpoint: Checkpoint
) -> None:
    near, elsewhere, away = checkpoint("near"), load_model(AutoModelForCausalLM, checkpoint("far")), True

    def warm_up(model: Any) -> list[int]:
        if model is elsewhere and away:
            raise ModelUnavailable("its server does not answer", "Start it.")
        return _answer(model)

    slot = _slot(loader, warm_up=warm_up)
    await slot.put(str(near))
    assert not await slot.put(Source("far:1", made=elsewhere))
    assert slot.served.name == "near"
    failed = slot.status().failed
    assert failed is not None and (failed.name, failed.advice) == ("far:1", "Start it.")
    away = False
    assert await slot.put(Source("far:1", made=elsewhere))
    assert (slot.served.name, slot.served.model) == ("far:1", elsewhere)


def _without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "mlp" in name))
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x10" * 1000)


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_a_weight, "it lacks"),
        (_pickled, "holds no .safetensors weights"),
        (_empty, "holds no .safetensors weights"),
        (_cut, "is not safetensors"),
        (_without_config, "could not be loaded"),
    ],
)
async def test_a_folder_that_does_not_load_leaves_the_old_model_in_service(
    loader: Worker, checkpoint: Checkpoint, spoil: Callable[[Path], None], reason: str
) -> None:
    slot = _slot(loader)
    await slot.put(str(checkpoint("old")))
    old = slot.served
    spoil(new := checkpoint("new"))

    assert not await slot.put(str(new))

    assert slot.served is old
    failed = slot.status().failed
    assert failed is not None
    assert failed.name == "new"
    assert reason in failed.reason
    assert failed.advice
    assert "\n" not in failed.reason
    assert failed.retry_in_s is None
    assert slot.status().loading is None


async def test_a_model_that_cannot_answer_never_serves(loader: Worker, checkpoint: Checkpoint) -> None:
    def answer_or_fail(model: Any) -> None:
        if not torch.isfinite(model.lm_head.weight).all():
            raise ValueError("no finite scores")

    def load(folder: Path) -> Any:
        model = load_model(AutoModelForCausalLM, folder)
        if folder.name == "new":
            torch.nn.init.constant_(model.lm_head.weight, float("nan"))
        return model

    slot = _slot(loader, load=load, warm_up=answer_or_fail)
    assert await slot.put(str(checkpoint("old")))
    assert not await slot.put(str(checkpoint("new")))
    assert slot.served.name == "old"
    failed = slot.status().failed
    assert failed is not None
    assert "no finite scores" in failed.reason
    assert "DIALOGUE_MODEL" in failed.advice


async def test_why_the_first_model_failed_is_what_callers_are_told(loader: Worker, tmp_path: Path) -> None:
    slot = _slot(loader)
    (tmp_path / "bare").mkdir()
    await slot.put(str(tmp_path / "bare"))
    with pytest.raises(ModelNotReady, match=r"bare: it holds no .safetensors weights\. Save the model"):
        _ = slot.served


async def test_the_next_success_wipes_the_failure_out(
    loader: Worker, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    slot = _slot(loader)
    (tmp_path / "bare").mkdir()
    await slot.put(str(tmp_path / "bare"))
    await slot.put(str(checkpoint("whole")))
    assert slot.status().failed is None


async def test_the_status_passes_through_the_stages(loader: Worker, checkpoint: Checkpoint) -> None:
    stages: list[object] = []

    def note(_: object = None) -> None:
        loading = slot.status().loading
        stages.append(loading and f"{loading.name} {loading.stage}")

    slot = _slot(loader, load=lambda folder: note(), warm_up=note)
    free = threading.Event()
    other_job = asyncio.create_task(loader.run(lambda _: free.wait(WAIT_S)))
    await asyncio.sleep(0)
    putting = asyncio.create_task(slot.put(str(checkpoint("mine"))))
    await _until(lambda: slot.status().loading is not None)
    note()
    with pytest.raises(ModelNotReady, match="mine is fetching"):
        _ = slot.served
    free.set()
    await asyncio.gather(other_job, putting)
    note()
    assert stages == ["mine fetching", "mine loading", "mine warming-up", None]


async def test_the_status_says_how_far_a_download_is(loader: Worker, checkpoint: Checkpoint) -> None:
    folder, free = checkpoint("mine"), threading.Event()

    def fetch(where: str, on_fetched: OnFetched, stop: threading.Event, revision: str | None) -> Path:
        on_fetched(Fetched(120, 861, 95.04))
        free.wait(WAIT_S)
        return folder

    slot = _slot(loader)
    putting = asyncio.create_task(slot.put(Source("owner/mine", fetch=fetch)))
    await _until(lambda: bool((loading := slot.status().loading) and loading.fetched_bytes))
    assert slot.status().loading == LoadingModel(
        name="owner/mine",
        stage="fetching",
        fetched_bytes=120,
        total_bytes=861,
        percent=13,
        seconds_left=95.0,
    )
    free.set()
    assert await putting


async def test_leaving_while_a_model_loads_stops_the_loading(loader: Worker, checkpoint: Checkpoint) -> None:
    begun, free = threading.Event(), threading.Event()

    def load(_: Path) -> None:
        begun.set()
        free.wait(WAIT_S)

    slot = _slot(loader, load=load)
    putting = asyncio.create_task(slot.put(str(checkpoint("mine"))))
    await _until(begun.is_set)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    free.set()
    await loader.run(lambda _: None)
    assert not slot.ready
    assert slot.status().loading is None


async def test_a_swap_loses_no_request(loader: Worker, checkpoint: Checkpoint) -> None:
    slot = _slot(loader)
    await slot.put(str(checkpoint("old")))
    new = str(checkpoint("new"))
    served_by: list[str] = []

    with Worker("inference", capacity=8) as inference:

        async def ask_until(name: str) -> None:
            async with asyncio.timeout(WAIT_S):
                while name not in served_by[-8:]:
                    served = slot.served
                    answer = await inference.run(partial(_answer_for, served.model))
                    assert len(answer) == 3
                    served_by.append(served.name)

        swapped, *_ = await asyncio.gather(slot.put(new), *(ask_until("new") for _ in range(4)))

    assert swapped
    assert served_by[0] == "old"
    assert "old" not in served_by[served_by.index("new") + 4 :]


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is fetched from the hub lies here; the hub itself is out of reach in all tests."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(model_slot, "_FIRST_RETRY_S", 0.03)
    monkeypatch.setattr(model_slot, "_LONGEST_RETRY_S", 0.12)
    return tmp_path / "hub"


async def test_a_hub_out_of_reach_is_said_once_and_tried_again_ever_more_rarely(
    loader: Worker, hub_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shared.model_slot")
    slot = _slot(loader)
    waits: list[float | None] = []

    def longest_wait_seen() -> bool:
        if failed := slot.status().failed:
            waits.append(failed.retry_in_s)
        return bool(waits) and waits[-1] == 0.12

    trying = asyncio.create_task(slot.keep_trying(HUB_ID))
    await _until(longest_wait_seen)
    with pytest.raises(ModelNotReady, match=r"the model hub cannot be reached\. Check the network"):
        _ = slot.served
    trying.cancel()

    assert None not in waits
    assert waits == sorted(waits, key=lambda wait: wait or 0.0)
    assert waits[0] == 0.03
    (said,) = (record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert HUB_ID in said
    assert "the model hub cannot be reached" in said
    assert "Check the network" in said
    assert "tried again later" in said


async def test_the_model_serves_as_soon_as_it_can_be_had(
    loader: Worker, hub_cache: Path, checkpoint: Checkpoint
) -> None:
    slot = _slot(loader)
    await slot.put(str(checkpoint("stand-in")))
    trying = asyncio.create_task(slot.keep_trying(HUB_ID))
    await _until(lambda: slot.status().failed is not None)
    assert slot.served.name == "stand-in"

    stored = hub_cache / f"models--{HUB_ID.replace('/', '--')}"
    (stored / "refs").mkdir(parents=True)
    (stored / "snapshots").mkdir()
    checkpoint("fetched").rename(stored / "snapshots" / ("c0ffee" * 7)[:40])
    (stored / "refs" / "main").write_text(("c0ffee" * 7)[:40])

    await asyncio.wait_for(trying, WAIT_S)
    assert slot.served.name == HUB_ID
    assert slot.status().failed is None


async def test_a_pinned_revision_is_the_one_that_serves(
    loader: Worker, hub_cache: Path, checkpoint: Checkpoint
) -> None:
    stored = hub_cache / f"models--{HUB_ID.replace('/', '--')}"
    (stored / "refs").mkdir(parents=True)
    (stored / "snapshots").mkdir()
    checkpoint("fetched").rename(stored / "snapshots" / ("c0ffee" * 7)[:40])
    (stored / "refs" / "v2").write_text(("c0ffee" * 7)[:40])
    slot = _slot(loader)
    assert not await slot.put(HUB_ID)
    assert await slot.put(Source(HUB_ID, revision="v2"))


async def test_what_is_tried_once_is_not_said_to_be_tried_again(
    loader: Worker, hub_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slot = _slot(loader)
    assert not await slot.put(HUB_ID)
    failed = slot.status().failed
    assert failed is not None and failed.retry_in_s is None
    assert "the model hub cannot be reached" in caplog.text
    assert "again" not in caplog.text


async def test_what_stands_in_leaves_the_failure_standing(
    loader: Worker, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    slot = _slot(loader)
    (tmp_path / "bare").mkdir()
    await slot.put(str(tmp_path / "bare"))
    assert await slot.put(str(checkpoint("whole")), stands_in=True)
    failed = slot.status().failed
    assert failed is not None and failed.name == "bare"

    bare = checkpoint("other").rename(tmp_path / "bare" / "other")
    for file in bare.iterdir():
        file.rename(tmp_path / "bare" / file.name)
    assert await slot.put(str(tmp_path / "bare"), stands_in=True)
    assert slot.status().failed is None, "what failed serves now"


async def test_what_cannot_get_better_is_not_tried_again(loader: Worker, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    slot = _slot(loader)
    await asyncio.wait_for(slot.keep_trying(str(tmp_path / "bare")), WAIT_S)
    assert not slot.ready
