"""What the launcher itself can be told; each service has its own settings."""

import os
import shutil
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict
from redis import ConnectionPool

from shared.settings import REPOSITORY, Settings


def _redis_url(value: str | None) -> str | None:
    if value:
        ConnectionPool.from_url(value)  # raises ValueError and says what is wrong
    return value or None


def _program(value: str | None) -> str | None:
    if not value:
        return None
    if not (found := shutil.which(os.path.expanduser(value))):  # noqa: PTH111  # Path would drop a leading ./
        raise ValueError("there is no such program, or it may not be executed")
    return str(Path(found).absolute())


class LauncherSettings(Settings):
    """Settings of the launcher."""

    model_config = SettingsConfigDict(env_prefix="PARLEY_")

    data: Annotated[Path, AfterValidator(lambda folder: folder.expanduser().resolve())] = Field(
        default=REPOSITORY / ".data",
        description="the folder that keeps the memory and the model versions; it is made if it is missing.",
        examples=[".data"],
    )
    redis_url: Annotated[str | None, AfterValidator(_redis_url)] = Field(
        default=None,
        validation_alias="REDIS_URL",
        repr=False,
        description="the Redis to use instead of an own one, as redis://, rediss:// or unix:// URL.",
        examples=["redis://127.0.0.1:6379/0"],
    )
    redis_server_bin: Annotated[str | None, AfterValidator(_program)] = Field(
        default=None,
        validation_alias="REDIS_SERVER_BIN",
        description="the redis-server or valkey-server to start instead of the installed Valkey.",
        examples=["/usr/bin/redis-server"],
    )
