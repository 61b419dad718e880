"""Failures of Redis as callers see them; tests/e2e/test_torture.py has the real full disk."""

import asyncio
from pathlib import Path

import pytest

from dialogue_service import connection
from shared.problems import MemoryUnavailable
from tests.proxy import Fault, proxying
from tests.servers import RedisServer

pytestmark = pytest.mark.anyio


async def test_nothing_is_sent_twice_by_itself(redis_url: str) -> None:
    socket = redis_url.removeprefix("unix://").partition("?")[0]
    with proxying(socket) as proxy:
        async with connection.connect(f"redis://127.0.0.1:{proxy.port}/0") as client:
            await client.ping()
            proxy.set(Fault("cut", after_bytes=0))
            with pytest.raises(MemoryUnavailable):
                await client.incr("counted")
            proxy.set(Fault())
            assert await client.get("counted") == "1"


async def test_the_disk_explains_why_redis_is_away(own_server: RedisServer, tmp_path: Path) -> None:
    gone = tmp_path / "unmounted"
    async with connection.connect(own_server.url, gone) as client:
        await client.ping()
        own_server.kill()
        with pytest.raises(MemoryUnavailable, match="No such file or directory") as failure:
            await client.ping()
    assert failure.value.headers["Retry-After"]


async def test_redis_own_reason_is_passed_on(redis_url: str) -> None:
    async with connection.connect(redis_url) as client:
        await client.set("text", "a")
        with pytest.raises(MemoryUnavailable, match=r"Redis refused: .*wrong kind of value"):
            await client.lpop("text")  # type: ignore[misc]


async def test_an_outage_is_logged_once(own_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async with connection.connect(own_server.url) as client:
        own_server.kill()
        for _ in range(3):
            with pytest.raises(MemoryUnavailable):
                await client.ping()
        assert caplog.text.count("no answer from Redis") == 1
        own_server.start()
        await client.ping()


async def test_a_caller_that_hangs_up_at_any_moment_is_gone(redis_url: str) -> None:
    async with connection.connect(redis_url) as client:

        async def ask_on_and_on() -> None:
            while True:
                await client.ping()

        for moment in range(100):
            caller = asyncio.create_task(ask_on_and_on())
            await asyncio.sleep(0.0005 + moment * 0.00002)
            caller.cancel()
            done, _ = await asyncio.wait({caller}, timeout=5)
            assert done, "the cancellation was lost"
