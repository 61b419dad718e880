"""The whole launcher, from its start to its end, over the stand-ins of conftest.py."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
import redis

from tests.servers import all_ended, wait_until


def _client(standing):
    return redis.Redis.from_url(standing.environment_of("dialogue")["REDIS_URL"])


def test_one_banner_with_what_a_person_needs(running):
    said = running.launched[0].ready()

    assert said.count("Parley is ready") == 1
    assert f"http://127.0.0.1:{running.ports['dialogue']}/\n" in said
    assert "WARNING" not in said
    assert "tiny-dialogue" in said
    assert "big-dialogue takes over when it is ready (fetching)" in said
    assert re.search(r"data/valkey-\d+$", said, re.MULTILINE)
    assert not set("│╭╰") & set(said)  # stdout is no terminal


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_line_works_when_pasted(running):
    said = running.launched[0].ready()
    assert "a-long-secret" not in said

    answer = subprocess.run(
        ["sh", "-c", said.splitlines()[-1]],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
        env=os.environ | {"API_KEY": "a-long-secret", "no_proxy": "*"},
    )

    assert answer.stdout == '{"reply": "Hi, how are you?", "key": "Bearer a-long-secret"}'


def test_children_share_one_log_and_know_each_other(running):
    environment = running.environment_of("dialogue")

    assert environment["DIALOGUE_INTENT_URL"] == f"http://127.0.0.1:{running.ports['intent']}"
    assert environment["DIALOGUE_REGISTRY"] == str(running.folder / "data" / "models" / "dialogue")
    assert environment["INTENT_REGISTRY"] == str(running.folder / "data" / "models" / "intent")
    assert "LOG_FORMAT" not in environment  # stderr is no terminal
    with _client(running) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    log = running.launched[0].log()
    assert "dialogue says something" in log
    assert "waiting for the intent service" in log
    assert "the dialogue service (big-dialogue: fetching)" in log


def test_one_launcher_for_each_data_folder(running):
    second = running.launch(**running.free_ports())

    assert second.exit_status() == 2
    line = second.log()
    assert line.count("\n") == 1
    assert f"(process {running.launched[0].process.pid})" in line
    assert "set PARLEY_DATA to another folder" in line


def test_listening_to_everyone_without_a_key_is_told_in_the_banner(standing):
    said = standing.launch(INTENT_HOST="0.0.0.0", API_KEY="").ready()  # noqa: S104

    assert "WARNING: everyone who can reach this machine" in said
    assert "(INTENT_HOST=0.0.0.0)" in said
    assert "API_KEY=$(python3" in said


def _ask_group(process):
    # As a terminal does with Ctrl-C. The children are not in the group: they hear of it from the launcher.
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("ask", [_ask_group, subprocess.Popen.terminate])
def test_being_asked_to_stop_ends_everything(standing, ask):
    launched = standing.launch()
    launched.ready()
    children = launched.children()
    assert len(children) == 3

    ask(launched.process)

    assert launched.exit_status() == 0
    assert all_ended(children)
    assert "Traceback" not in launched.log()


def test_ctrl_c_before_everything_is_ready(standing):
    launched = standing.launch()
    wait_until(lambda: "waiting for" in launched.log())
    children = launched.children()

    launched.process.send_signal(signal.SIGINT)

    assert launched.exit_status() == 0
    assert len(children) == 3
    assert all_ended(children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
def test_kill_9_leaves_nothing_and_the_next_start_finds_the_memory(standing):
    first = standing.launch()
    first.ready()
    children = first.children()
    with _client(standing) as client:
        client.set("said", "hello")

    first.process.kill()
    standing.launch().ready()

    wait_until(lambda: all_ended(children))
    with _client(standing) as client:
        assert client.get("said") == b"hello"


def test_a_dead_service_and_a_dead_store_come_back(standing):
    launched = standing.launch()
    launched.ready()
    url = standing.environment_of("dialogue")["REDIS_URL"]
    before = {child.pid for child in launched.children()}

    for child in launched.children():
        child.kill()

    wait_until(lambda: len({c.pid for c in launched.children()} - before) == 3)
    log = launched.log()
    assert log.count("ended (killed by SIGKILL): starting it again") == 3
    with redis.Redis.from_url(url) as client:
        wait_until(lambda: _answers(client))


def _answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize(
    ("variable", "value"),
    [("REDIS_URL", "localhost:6379"), ("DIALOGUE_PORT", "70000"), ("INTENT_HOST", "no.such.host.invalid")],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_started(standing, variable, value):
    launched = standing.launch(**{variable: value})

    assert launched.exit_status() == 2
    line = launched.log()
    assert line.startswith(variable)
    assert line.count("\n") == 1
    assert not (standing.folder / "data").exists()


def test_a_taken_port_names_the_variable(standing):
    with socket.socket() as other:
        other.bind(("127.0.0.1", standing.ports["intent"]))
        other.listen()

        launched = standing.launch()

        assert launched.exit_status() == 2
        assert "Set INTENT_PORT to a free one" in launched.log()
        assert launched.log().count("\n") == 1
