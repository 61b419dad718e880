"""docker-compose.yml as the real Compose reads it, and what it and the Dockerfile name in this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from dialogue_service.settings import DialogueSettings
from intent_service.settings import IntentSettings
from shared.settings import ServiceSettings
from tests.outside import need
from tests.servers import serving

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker-compose.yml"
HEALTHCHECK = ROOT / "tools" / "healthcheck.py"
_SETTINGS: dict[str, type[ServiceSettings]] = {"intent": IntentSettings, "dialogue": DialogueSettings}


@pytest.fixture(scope="module")
def compose() -> list[str]:
    """The command: the program that COMPOSE_BIN names, else the docker command with its compose plugin."""
    if named := os.environ.get("COMPOSE_BIN"):
        return [named]
    plugin = ["docker", "compose"]
    there = (
        shutil.which("docker") and subprocess.run([*plugin, "version"], capture_output=True).returncode == 0
    )
    need(there, "Docker Compose (the docker compose plugin, or a program named in COMPOSE_BIN)")
    return plugin


def config(
    compose: list[str], file: Path, *options: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    # Only these variables, so that a person's own have no say.
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    from_here = ["--file", str(file), "--project-directory", str(ROOT), "--env-file", os.devnull]
    command = [*compose, *from_here, "config", *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def services(compose: list[str], **variables: str) -> dict[str, Any]:
    read = config(compose, FILE, "--format", "json", **variables)
    assert read.returncode == 0, read.stderr
    found: dict[str, Any] = json.loads(read.stdout)["services"]
    return found


def test_compose_accepts_the_file(compose: list[str]) -> None:
    read = config(compose, FILE, "--quiet")
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ("depends_on:", "depend_on:"),
        ("condition: service_healthy", "condition: service_wealthy"),
        ("redis-data:/data", "no-such-volume:/data"),
        ("      redis:\n        condition", "      valkey:\n        condition"),
        (":-8000}", ":-99999}"),
    ],
)
def test_compose_refuses_a_broken_copy(compose: list[str], tmp_path: Path, whole: str, broken: str) -> None:
    text = FILE.read_text("utf-8")
    assert whole in text
    copy = tmp_path / "docker-compose.yml"
    copy.write_text(text.replace(whole, broken), "utf-8")
    assert config(compose, copy, "--quiet").returncode != 0


@pytest.mark.parametrize("name", _SETTINGS)
def test_every_setting_reaches_its_service(compose: list[str], name: str) -> None:
    passed = services(compose)[name]["environment"].keys()
    # The image sets the host; the port inside the container stays the default; Redis is another container.
    not_passed = {"INTENT_HOST", "INTENT_PORT", "DIALOGUE_HOST", "DIALOGUE_PORT", "DIALOGUE_MEMORY_FOLDER"}
    assert _SETTINGS[name].variables().keys() - not_passed - passed == set()


def test_an_unset_variable_stays_unset_and_an_empty_one_empty(compose: list[str]) -> None:
    assert services(compose)["dialogue"]["environment"]["DIALOGUE_MODEL"] is None
    assert services(compose, DIALOGUE_MODEL="")["dialogue"]["environment"]["DIALOGUE_MODEL"] == ""


def test_ports_are_published_on_this_machine_only(compose: list[str]) -> None:
    found = services(compose, DIALOGUE_PORT="9000")
    ports = {name: [(p["host_ip"], p["published"]) for p in s.get("ports", [])] for name, s in found.items()}
    assert ports == {"redis": [], "intent": [("127.0.0.1", "8001")], "dialogue": [("127.0.0.1", "9000")]}


def test_no_container_has_more_rights_than_it_needs(compose: list[str]) -> None:
    for name, service in services(compose).items():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]  # noqa: S108
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not service.keys() & {"cap_add", "privileged", "devices", "network_mode", "pid"}
        kept = {mount["target"] for mount in service["volumes"] if not mount.get("read_only")}
        assert kept == ({"/data"} if name == "redis" else {"/models-cache", "/models-registry"})
        assert service.get("user") == ("redis" if name == "redis" else None)


def test_the_image_runs_as_a_user_without_rights() -> None:
    (user,) = re.findall(r"^USER (.+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # by number: an orchestrator sees that it is not root


def test_every_copied_path_exists_and_is_let_through() -> None:
    copied = re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)
    assert copied
    assert [path for path in copied if not (ROOT / path).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def _healthcheck(url: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(HEALTHCHECK), url]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_the_health_check_tells_ready_from_not_ready_from_away() -> None:
    app = FastAPI()
    app.get("/ready")(lambda: {"status": "ready"})
    with serving(app) as url:
        assert _healthcheck(f"{url}/ready").returncode == 0
        refused = _healthcheck(f"{url}/elsewhere")
        assert refused.returncode == 1
        assert refused.stderr.startswith("404 ")
    away = _healthcheck(f"{url}/ready")
    assert away.returncode == 1
    assert "refused" in away.stderr
