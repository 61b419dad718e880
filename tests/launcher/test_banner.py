import io
import shlex

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


def _show(*, terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    banner.show(FACTS, console)
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
