import dataclasses
import io
import re
import shlex
import subprocess

import pytest
from rich.console import Console

from launcher import banner
from shared.contracts import FailedModel, LoadingModel, SlotStatus

FACTS = banner.Facts(
    dialogue_url="http://127.0.0.1:8000",
    intent_url="http://127.0.0.1:8001",
    dialogue=SlotStatus(
        serving="parley-starter",
        loading=LoadingModel(
            name="owner/big-model", stage="fetching", fetched_bytes=12_000_000, total_bytes=862_000_000
        ),
    ),
    intent=SlotStatus(
        serving="some/encoder",
        failed=FailedModel(name="other/model", reason="no network", advice="Check it.", retry_in_s=None),
    ),
    memory="/a/folder/with/a/path/that/is/longer/than/the/eighty/columns/of/a/small/terminal/valkey-9",
    needs_key=False,
)


def _show(*, terminal, **changed):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    banner.show(dataclasses.replace(FACTS, **changed), console)
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_the_curl_line_stands_alone_and_whole(terminal):
    last = _show(terminal=terminal).splitlines()[-1]

    assert shlex.split(last) == [
        *("curl", "-s", "http://127.0.0.1:8000/chat", "-H", "Content-Type: application/json"),
        *("-d", '{"message": "Hi, how are you?"}'),
    ]


def test_models_are_named_with_what_becomes_of_the_others():
    said = _show(terminal=False)

    assert "parley-starter" in said
    assert "owner/big-model takes over when it is ready (fetching, 12 of 862 MB)" in said
    assert "other/model is not available: no network. Check it." in said
    assert FACTS.memory in said


def test_a_terminal_gets_a_frame():
    assert "╭" in _show(terminal=True)
    assert "╭" not in _show(terminal=False)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_service_open_to_everyone_is_told_with_a_command_that_makes_a_key(terminal):
    said = _show(terminal=terminal, exposed=["DIALOGUE_HOST=0.0.0.0", "INTENT_HOST=::"])

    assert "WARNING: everyone who can reach this machine" in said
    assert "DIALOGUE_HOST=0.0.0.0, INTENT_HOST=::" in said
    command = re.search(r"API_KEY=\$\((.*)\)$", said, re.MULTILINE)[1]
    made = {subprocess.check_output(["sh", "-c", command], text=True) for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch(r"[\w-]{43}\n", key) for key in made)


def test_on_this_machine_only_there_is_nothing_to_warn_of():
    assert "WARNING" not in _show(terminal=False)


def test_docs_are_named_where_a_browser_can_open_them():
    assert "http://127.0.0.1:8001/docs" in _show(terminal=False)
    assert "/docs" not in _show(terminal=False, needs_key=True)
