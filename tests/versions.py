"""What the tests of both services do with model versions."""

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import load_file, save_file

from shared.registry import Registry
from tests.servers import wait_until

HOSTILE_PATHS = ["v9", "..%2Fv1", "%2e%2e", "..%5cv1", "%2Fetc", "v1%00", "v1%0a", ".hidden", "x" * 300]


def save(registry: Path, name: str, model: Path, *, noise: float = 0.0, seed: int = 0) -> None:
    """Save a copy of `model` as a version; with `noise` its weights differ, as after more training."""
    with Registry(registry).saving(name, kind="test", parent=model.name, scores={"accuracy": 0.5}) as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        if noise:
            change(folder, lambda weight: weight + noise * torch.randn_like(weight), seed)


def change(folder: Path, how: Callable[[torch.Tensor], torch.Tensor], seed: int = 0) -> None:
    """Change every floating-point weight in a model's folder."""
    file = folder / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = {name: how(w) if w.is_floating_point() else w for name, w in load_file(file).items()}
    file.unlink()
    save_file(new, file, metadata={"format": "pt"})


def swap_under_load(
    client: httpx.Client, ask: Callable[[int], httpx.Response], swaps: Sequence[str], callers: int = 6
) -> list[dict[str, Any]]:
    """Activate one version after another while `callers` go on asking; returns what they were answered.

    The callers stop once the last version has answered each of them.
    """
    answers: list[httpx.Response] = []
    over = threading.Event()

    def go_on(caller: int) -> None:
        after = 0
        while after < 3:
            after += over.is_set()
            answers.append(ask(caller))

    with ThreadPoolExecutor(callers) as pool:
        asking = [pool.submit(go_on, caller) for caller in range(callers)]
        try:
            for version in swaps:
                so_far = len(answers)
                wait_until(lambda so_far=so_far: len(answers) > so_far + callers)
                swapped = client.post(f"/models/{version}/activate")
                assert swapped.status_code == 200, swapped.text
        finally:
            over.set()
        for future in asking:
            future.result()
    refused = [answer.text for answer in answers if answer.status_code != 200]
    assert refused == []
    return [answer.json() for answer in answers]
