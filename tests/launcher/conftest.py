"""The launcher as a user starts it, with two small programs in the place of the services.

The stand-ins are packages of the services' names in a temporary folder, which comes first on the import path
because it is the working directory. The store is the real one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.outside import REDIS_SERVERS, redis_program
from tests.servers import free_port, wait_until

_HEAVY = ("torch", "transformers")
_SETTINGS = """
from typing import ClassVar
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from shared.settings import Port, ServiceSettings

class {kind}Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="{KIND}_")
    service: ClassVar[str] = "{name}"
    port: Port = Field(default={port}, description="a port.", examples=[{port}])
    intent_url: str = Field(default="", description="a URL.")
    registry: str = Field(default="", description="a folder.")
"""

_SERVICE = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from {name}_service.settings import {kind}Settings

configured = {kind}Settings()
asked = 0

class Handler(BaseHTTPRequestHandler):
    def answer(self, status, body):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        global asked
        asked += self.path == "/health/ready"
        model = {{"serving": "tiny-{name}", "loading": {{"name": "big-{name}", "stage": "fetching"}}}}
        if self.path == "/environment":
            self.answer(200, dict(os.environ))
        elif asked < 3:
            self.answer(503, {{"status": "not-ready", "reasons": ["no model answers yet"], "model": model}})
        else:
            self.answer(200, {{"status": "ready", "model": model}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(200, {{"reply": body["message"], "key": self.headers["Authorization"]}})

    def log_message(self, *_):
        pass

print("{name} says something", file=sys.stderr, flush=True)
ThreadingHTTPServer((configured.host, configured.port), Handler).serve_forever()
"""


class Launched:
    """One `python -m launcher`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "launcher"],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def ready(self) -> str:
        """Wait for the banner's last line and return all of stdout."""
        wait_until(lambda: "curl -s" in self.stdout.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.stderr.read_text()
        return self.stdout.read_text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def log(self) -> str:
        return self.stderr.read_text()

    def exit_status(self) -> int:
        return self.process.wait(15)


class Standing:
    """Starts launchers over stand-in services, on free ports and one data folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launched: list[Launched] = []
        self.ports = {"dialogue": free_port(), "intent": free_port()}
        for name, port in self.ports.items():
            package = folder / f"{name}_service"
            package.mkdir()
            words = {"name": name, "kind": name.capitalize(), "KIND": name.upper(), "port": port}
            (package / "__init__.py").touch()
            (package / "settings.py").write_text(_SETTINGS.format(**words))
            (package / "__main__.py").write_text(_SERVICE.format(**words))
        for heavy in _HEAVY:  # empty here: the stand-ins do without, and importing it takes seconds
            (folder / heavy).mkdir()
            (folder / heavy / "__init__.py").touch()

    def launch(self, **environment: str) -> Launched:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("DIALOGUE_", "INTENT_", "REDIS_"))
        }
        run = self.folder / f"run-{len(self.launched)}"
        run.mkdir()
        for package in ("dialogue_service", "intent_service", *_HEAVY):
            (run / package).symlink_to(self.folder / package)
        launched = Launched(run, inherited | {"PARLEY_DATA": str(self.folder / "data")} | environment)
        self.launched.append(launched)
        return launched

    def environment_of(self, service: str) -> dict[str, str]:
        answer = httpx.get(f"http://127.0.0.1:{self.ports[service]}/environment", trust_env=False)
        return dict(answer.json())

    def free_ports(self) -> dict[str, str]:
        """Settings for a second launcher beside the first."""
        return {"DIALOGUE_PORT": str(free_port()), "INTENT_PORT": str(free_port())}


def _standing(folder: Path) -> Iterator[Standing]:
    standing = Standing(folder)
    yield standing
    for launched in standing.launched:
        if launched.process.poll() is None:
            launched.process.terminate()
            launched.process.wait(30)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Standing]:
    yield from _standing(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """One launcher that is ready, with an API key, for tests that leave it as it is."""
    for standing in _standing(tmp_path_factory.mktemp("running")):
        standing.launch(API_KEY="a-long-secret").ready()
        yield standing


@pytest.fixture(params=REDIS_SERVERS)
def server_program(request: pytest.FixtureRequest) -> str:
    return redis_program(request.param)
