"""The chat page while a reply is being made, in a real browser."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from shared.problems import EmptyReply
from tests.browser import browsing
from tests.dialogue_service.conftest import INTENT, Start
from tests.dialogue_service.talking import Talker, messages
from tests.servers import wait_until


@pytest.fixture
def client(start: Start, intents: str) -> httpx.Client:
    return start(DIALOGUE_INTENT_URL=intents)


@pytest.fixture
def page(client: httpx.Client) -> Iterator[Page]:
    with browsing(str(client.base_url)) as page:
        yield page


def say(page: Page, message: str) -> None:
    page.get_by_label("Message").fill(message)
    page.get_by_role("button", name="Send").click()


def test_intent_and_words_appear_as_they_come(
    client: httpx.Client, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=3)
    say(page, "Hi <b>there</b>")
    theirs = page.locator(".theirs")
    expect(theirs).to_contain_text("".join(talker.pieces[:3]))
    expect(theirs).to_contain_text(str(INTENT["label"]))
    expect(page.get_by_role("button", name="positive")).to_have_count(0)
    talker.go.set()
    expect(page.get_by_role("button", name="positive")).to_be_visible()
    expect(theirs).to_contain_text("".join(talker.pieces))
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert messages(client) == ["Hi <b>there</b>"]


def test_stop_stops_the_work_and_gives_the_message_back(
    client: httpx.Client, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=1)
    say(page, "Hi")
    expect(page.locator(".theirs")).to_contain_text(talker.pieces[0])
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("li")).to_have_count(0)
    expect(page.get_by_label("Message")).to_have_value("Hi")
    expect(page.get_by_label("Message")).to_be_focused()
    assert talker.stopped.wait(5), "the model went on computing"
    assert messages(client) == []


def test_a_failure_on_the_way_is_said_and_the_message_kept(
    client: httpx.Client, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch, waits_at=1)
    talker.fails = EmptyReply()
    say(page, "Hi")
    expect(page.locator(".theirs")).to_contain_text(talker.pieces[0])
    talker.go.set()
    expect(page.locator(".problem")).to_contain_text(EmptyReply.title)
    expect(page.get_by_label("Message")).to_have_value("Hi")
    assert messages(client) == []


@pytest.mark.parametrize("break_off", ["before", "after"])
def test_a_stream_that_breaks_off_is_asked_for_as_a_whole_and_nothing_is_said_twice(
    client: httpx.Client, page: Page, break_off: str
) -> None:
    def cut(route: Any) -> None:
        if break_off == "after":  # the turn is stored, the answer is lost on the way
            route.fetch()
        route.abort()

    page.route("**/chat/stream", cut)
    say(page, "Hi")
    expect(page.get_by_role("button", name="positive")).to_be_visible()
    wait_until(lambda: messages(client) == ["Hi"])
    expect(page.locator(".problem")).to_have_count(0)


def test_with_a_key_the_page_asks_for_it_and_the_tab_keeps_it(
    start: Start, intents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    talker = Talker.instead(monkeypatch)
    client = start(DIALOGUE_INTENT_URL=intents, API_KEY="sesame")
    client.headers["Authorization"] = "Bearer sesame"
    with browsing(str(client.base_url)) as page:
        for wrong, said in (("open", "not the key"), ("ключ", "Is it the key?")):
            page.get_by_label("API key").fill(wrong)
            page.get_by_role("button", name="Open").click()
            expect(page.get_by_role("alert")).to_contain_text(said)
        page.get_by_label("API key").fill("sesame")
        page.get_by_role("button", name="Open").click()
        say(page, "Hi")
        expect(page.locator(".theirs")).to_contain_text("".join(talker.pieces))
        page.get_by_role("button", name="positive").click()
        expect(page.get_by_role("button", name="positive")).to_have_attribute("aria-pressed", "true")

        page.reload()
        expect(page.locator(".own")).to_have_text("Hi")
        expect(page.get_by_label("API key")).to_have_count(0)
        page.evaluate("sessionStorage.setItem('key', 'changed')")
        say(page, "Hi again")
        expect(page.get_by_label("API key")).to_be_visible()
    assert messages(client) == ["Hi"]
