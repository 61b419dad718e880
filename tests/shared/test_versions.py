"""Which version serves: after a start, an activation, a rollback, and after everything that can go wrong."""

import asyncio
import gc
import logging
import shutil
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from shared import versions as versions_module
from shared.checkpoint import load_model
from shared.contracts import Models
from shared.model_slot import ModelSlot, Source
from shared.problems import NotFound, NothingToRollBack, SwapInProgress, VersionUnusable
from shared.registry import MAX_HISTORY, Pointer, Registry
from shared.versions import Versions
from shared.worker import Worker

pytestmark = pytest.mark.anyio

WAIT_S = 20.0
Checkpoint = Callable[[str], Path]


def _answer(model: Any) -> list[int]:
    with torch.inference_mode():
        return list(model(torch.tensor([[1, 2, 3]])).logits.argmax(-1)[0])


class Service:
    """Starts what a service has in its lifespan: a slot and its versions, on one registry folder."""

    def __init__(self, registry: Registry, configured: Path | str | None) -> None:
        self.registry = registry
        self.configured = configured
        self.load: Callable[[Path], Any] = partial(load_model, AutoModelForCausalLM)

    @asynccontextmanager
    async def running(self, *, standin: str = "", wait: bool = True) -> AsyncIterator[Versions[Any]]:
        with Worker("loader", capacity=1) as loader:
            slot: ModelSlot[Any] = ModelSlot(loader, self.load, _answer, "DIALOGUE_MODEL")
            source = Source(str(self.configured)) if self.configured else None
            async with Versions(slot, self.registry, source, standin) as versions:
                if wait:
                    await until(versions, lambda models: models.serving and not models.loading)
                yield versions


async def until(versions: Versions[Any], true: Callable[[Models], object]) -> Models:
    async with asyncio.timeout(WAIT_S):
        while not true(models := await versions.models()):  # noqa: ASYNC110  # other threads change it
            await asyncio.sleep(0.001)
    return models


@pytest.fixture
def registry(tmp_path: Path, checkpoint: Checkpoint) -> Registry:
    registry = Registry(tmp_path / "registry")
    for name in ("v1", "v2"):
        with registry.saving(name, kind="causal-lm", parent="base", scores={"perplexity": 9.5}) as folder:
            shutil.copytree(checkpoint(f"for-{name}"), folder, dirs_exist_ok=True)
    return registry


@pytest.fixture
def service(registry: Registry, checkpoint: Checkpoint) -> Service:
    return Service(registry, checkpoint("base"))


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """An activation is answered at once, done or not."""
    monkeypatch.setattr(versions_module, "_ANSWER_S", 0.0)


def spoil(tmp_path: Path, version: str) -> None:
    (tmp_path / "registry" / version / "model.safetensors").write_bytes(b"\x10" * 1000)


async def test_with_nothing_activated_the_configured_model_serves(service: Service) -> None:
    async with service.running() as versions:
        models = await versions.models()
    assert [version.version for version in models.versions] == ["configured", "v2", "v1"]
    own, newest, _ = models.versions
    assert (own.model, own.configured, own.active, own.serving) == ("base", True, True, True)
    assert (newest.configured, newest.active, newest.serving, newest.fault) == (False, False, False, None)
    assert (newest.kind, newest.parent, newest.scores) == ("causal-lm", "base", {"perplexity": 9.5})
    assert (models.active, models.previous, models.serving) == ("configured", None, "base")


async def test_an_activated_version_serves_and_does_so_after_a_restart(service: Service) -> None:
    async with service.running() as versions:
        assert await versions.activate("v1")
        models = await versions.models()
    assert (models.serving, models.active, models.previous) == ("v1", "v1", "configured")
    assert [version.version for version in models.versions if version.serving] == ["v1"]

    async with service.running() as again:
        assert (await again.models()).model_dump() == models.model_dump()
        assert await again.rollback()
        models = await again.models()
        assert (models.serving, models.active, models.previous) == ("base", "configured", None)
    async with service.running() as once_more:
        assert (await once_more.models()).serving == "base"


async def test_rollback_undoes_one_activation_after_another(service: Service, tmp_path: Path) -> None:
    async with service.running() as versions:
        with pytest.raises(NothingToRollBack):
            await versions.rollback()
        for version in ("v1", "v2", "configured", "v1"):
            assert await versions.activate(version)
        seen = []
        for _ in range(4):
            assert await versions.rollback()
            seen.append((await versions.models()).active)
        assert seen == ["configured", "v2", "v1", "configured"]
        with pytest.raises(NothingToRollBack):
            await versions.rollback()


async def test_what_was_deleted_is_left_out_of_a_rollback(service: Service, tmp_path: Path) -> None:
    async with service.running() as versions:
        await versions.activate("v1")
        await versions.activate("v2")
        shutil.rmtree(tmp_path / "registry" / "v1")
        assert (await versions.models()).previous == "configured"
        await versions.rollback()
        assert (await versions.models()).serving == "base"


async def test_the_history_is_bounded(service: Service) -> None:
    async with service.running() as versions:
        for number in range(MAX_HISTORY + 5):
            await versions.activate(f"v{number % 2 + 1}")
    assert len(service.registry.pointer().history) == MAX_HISTORY


async def test_activating_what_serves_changes_nothing(service: Service) -> None:
    async with service.running() as versions:
        await versions.activate("v1")
        pointer = service.registry.pointer()
        assert await versions.activate("v1")
        assert service.registry.pointer() == pointer


@pytest.mark.parametrize("name", ["v9", "..", "../registry/v1", "", "active.json"])
async def test_there_is_no_other_version(service: Service, name: str) -> None:
    async with service.running() as versions:
        with pytest.raises(NotFound):
            await versions.activate(name)
        assert (await versions.models()).serving == "base"


async def test_a_broken_version_is_refused_and_the_old_one_serves_on(
    service: Service, tmp_path: Path
) -> None:
    async with service.running() as versions:
        await versions.activate("v1")
        spoil(tmp_path, "v2")
        with pytest.raises(VersionUnusable, match=r"v2: its model\.safetensors is not as it was saved"):
            await versions.activate("v2")
        models = await versions.models()
        assert (models.serving, models.active, models.previous) == ("v1", "v1", "configured")
        assert models.failed is not None and models.failed.name == "v2"
        assert [version.fault is not None for version in models.versions] == [False, True, False]
    assert service.registry.pointer().active == "v1"


async def test_a_whole_version_that_is_no_model_is_refused(
    service: Service, registry: Registry, checkpoint: Checkpoint
) -> None:
    spoilt = {"nonsense": "model.safetensors", "pickled": "pytorch_model.bin"}
    for name, file in spoilt.items():
        with registry.saving(name, kind="causal-lm", parent=None, scores={}) as folder:
            shutil.copytree(checkpoint(name), folder, dirs_exist_ok=True)
            (folder / "model.safetensors").rename(folder / file)
            if name == "nonsense":
                (folder / file).write_bytes(b"\x10" * 1000)
    async with service.running() as versions:
        with pytest.raises(VersionUnusable, match="is not safetensors"):
            await versions.activate("nonsense")
        with pytest.raises(VersionUnusable, match=r"holds no \.safetensors"):
            await versions.activate("pickled")
        assert (await versions.models()).serving == "base"


async def test_if_the_active_version_is_broken_at_the_start_the_configured_one_serves_and_says_so(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with service.running() as versions:
        await versions.activate("v1")
        await versions.activate("v2")
    spoil(tmp_path, "v2")
    async with service.running() as versions:
        models = await until(versions, lambda models: models.serving == "base")
        assert models.failed is not None and models.failed.name == "v2"
        assert (models.active, models.previous) == ("v2", "v1")
        assert "v2 is not in service: its model.safetensors" in caplog.text
        assert await versions.rollback()
        models = await versions.models()
        assert (models.serving, models.active, models.failed) == ("v1", "v1", None)


async def test_a_broken_pointer_means_the_configured_model_and_says_so(
    service: Service, tmp_path: Path
) -> None:
    service.registry.point(Pointer(active="v1"))
    (tmp_path / "registry" / "active.json").write_text("{")
    async with service.running() as versions:
        models = await until(versions, lambda models: models.serving == "base")
        assert models.failed is not None and "active.json" in models.failed.reason
        assert await versions.activate("v1")
        assert (await versions.models()).failed is None
    assert service.registry.pointer().active == "v1"


async def test_a_pointer_that_leads_elsewhere_is_not_followed(
    service: Service, registry: Registry, tmp_path: Path
) -> None:
    shutil.copytree(tmp_path / "registry" / "v1", tmp_path / "v1")
    registry.point(Pointer(active="../v1", history=("../v1", "/")))
    async with service.running() as versions:
        models = await until(versions, lambda models: models.serving == "base")
        assert models.failed is not None and "not in the registry" in models.failed.reason
        assert models.previous is None


async def test_what_cannot_be_written_down_does_not_stay(service: Service, tmp_path: Path) -> None:
    async with service.running() as versions:
        await versions.activate("v1")
        (tmp_path / "registry" / ".active.json").mkdir()  # where the new pointer is written first
        with pytest.raises(VersionUnusable, match="could not be written down"):
            await versions.activate("v2")
        models = await versions.models()
        assert (models.serving, models.active) == ("v1", "v1")
    assert service.registry.pointer().active == "v1"


class Gate:
    """A loader that waits at one folder until it is let through."""

    def __init__(self, service: Service, name: str) -> None:
        self._load, self._name = service.load, name
        self.reached, self.open = threading.Event(), threading.Event()
        service.load = self

    def __call__(self, folder: Path) -> Any:
        if folder.name == self._name:
            self.reached.set()
            assert self.open.wait(WAIT_S)
        return self._load(folder)


async def test_who_would_wait_too_long_is_answered_before_it_is_done(
    service: Service, patience: None
) -> None:
    gate = Gate(service, "v1")
    async with service.running() as versions:
        assert not await versions.activate("v1")
        models = await until(versions, lambda models: models.loading)
        assert models.loading is not None and models.loading.name == "v1"
        assert (models.serving, models.active) == ("base", "configured")
        assert service.registry.pointer().active == "configured"
        for change in (versions.activate("v2"), versions.rollback(), versions.activate("v1")):
            with pytest.raises((SwapInProgress, NothingToRollBack)):
                await change
        gate.open.set()
        await until(versions, lambda models: (models.serving, models.active) == ("v1", "v1"))
    assert service.registry.pointer() == Pointer(active="v1", history=("configured",))


async def test_a_failure_after_the_answer_is_told_by_the_list(
    service: Service, patience: None, tmp_path: Path
) -> None:
    gate = Gate(service, "v1")
    async with service.running() as versions:
        spoil(tmp_path, "v2")
        assert not await versions.activate("v1")
        gate.open.set()
        await until(versions, lambda models: models.active == "v1")
        assert not await versions.activate("v2")
        models = await until(versions, lambda models: models.failed)
        assert (models.serving, models.active) == ("v1", "v1")
        assert next(v.fault for v in models.versions if v.version == "v2")


async def test_what_was_replaced_or_failed_is_let_go_of(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "shared.model_slot")  # what pytest keeps of a log keeps the model too
    made: dict[str, weakref.ref[Any]] = {}
    load = service.load

    def noted(folder: Path) -> Any:
        model = load(folder)
        if folder.name == "v2":
            model.lm_head = None  # so that it fails when it is to answer
        made[folder.name] = weakref.ref(model)
        return model

    service.load = noted
    async with service.running() as versions:
        await versions.activate("v1")
        with pytest.raises(VersionUnusable):
            await versions.activate("v2")
        for _ in range(100):  # a thread may still be on its way out of the call
            gc.collect()
            if made["base"]() is made["v2"]() is None:
                break
            await asyncio.sleep(0.05)
        assert {name: model() is not None for name, model in made.items()} == {
            "base": False,
            "v1": True,
            "v2": False,
        }


async def test_a_caller_who_leaves_does_not_undo_it(service: Service) -> None:
    gate = Gate(service, "v1")
    async with service.running() as versions:
        asking = asyncio.create_task(versions.activate("v1"))
        await until(versions, lambda _: gate.reached.is_set())
        asking.cancel()
        gate.open.set()
        await until(versions, lambda models: models.active == "v1")


async def test_stopping_in_the_middle_leaves_the_old_one_active(service: Service, patience: None) -> None:
    gate = Gate(service, "v1")
    async with service.running() as versions:
        assert not await versions.activate("v1")
        await until(versions, lambda _: gate.reached.is_set())
        gate.open.set()
    assert service.registry.pointer().active == "configured"


@pytest.fixture
def hub_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return "nobody/no-such-model"


async def test_an_activation_goes_before_what_start_up_is_still_after(
    service: Service, hub_away: str, checkpoint: Checkpoint
) -> None:
    service.configured = hub_away
    async with service.running(standin=str(checkpoint("standin"))) as versions:
        models = await until(versions, lambda models: models.failed)
        assert models.serving == "standin"
        assert models.failed is not None and models.failed.retry_in_s
        assert not any(version.serving for version in models.versions)

        assert await versions.activate("v1")
        models = await versions.models()
        assert (models.serving, models.failed) == ("v1", None)
        with pytest.raises(VersionUnusable, match=f"{hub_away}: .* hub cannot be reached"):
            await versions.activate("configured")
        models = await versions.models()
        assert (models.serving, models.active) == ("v1", "v1")


async def test_a_rollback_to_what_cannot_be_had_goes_back_to_what_stood_in_for_it(
    service: Service, hub_away: str, checkpoint: Checkpoint
) -> None:
    service.configured = hub_away
    standin = str(checkpoint("standin"))
    async with service.running(standin=standin) as versions:
        await until(versions, lambda models: models.failed)
        assert await versions.activate("v1")
        assert await versions.rollback()
        models = await until(versions, lambda models: models.failed and models.failed.retry_in_s)
        assert (models.serving, models.active, models.previous) == ("standin", "configured", None)
    async with service.running(standin=standin) as versions:
        assert (await versions.models()).active == "configured"
    async with service.running(wait=False) as versions:  # where nothing stands in, what serves serves on
        await until(versions, lambda models: models.failed)
        assert await versions.activate("v1")
        with pytest.raises(VersionUnusable):
            await versions.rollback()
        assert (await versions.models()).serving == "v1"


async def test_what_is_on_its_way_already_is_not_begun_anew(
    service: Service, hub_away: str, checkpoint: Checkpoint
) -> None:
    service.configured = hub_away
    async with service.running(standin=str(checkpoint("standin"))) as versions:
        before = await until(versions, lambda models: models.failed)
        assert not await versions.activate("configured")
        assert await versions.models() == before


async def test_after_a_failed_activation_start_up_goes_on(
    service: Service, hub_away: str, tmp_path: Path
) -> None:
    service.configured = hub_away
    spoil(tmp_path, "v1")
    async with service.running(wait=False) as versions:
        await until(versions, lambda models: models.failed)
        with pytest.raises(VersionUnusable, match="v1: "):
            await versions.activate("v1")
        models = await until(versions, lambda models: models.failed and models.failed.name == hub_away)
        assert models.failed is not None and models.failed.retry_in_s


async def test_without_a_configured_model_there_are_only_versions(service: Service) -> None:
    service.configured = None
    async with service.running(wait=False) as versions:
        assert [version.version for version in (await versions.models()).versions] == ["v2", "v1"]
        with pytest.raises(NotFound):
            await versions.activate("configured")
        assert await versions.activate("v1")
        assert (await versions.models()).previous is None
        with pytest.raises(NothingToRollBack):
            await versions.rollback()
