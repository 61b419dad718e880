"""The chat page in a real browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import browsing
from tests.parley import Parley


@pytest.fixture
def page(parley: Parley) -> Iterator[Page]:
    """The page, with an empty memory."""
    parley.client.delete("/memory")
    with browsing(parley.urls["dialogue"]) as page:
        yield page


def test_talking_voting_coming_back_and_forgetting(page: Page, parley: Parley) -> None:
    expect(page.get_by_role("status")).to_contain_text("starter answers")
    message = "Hi <b>there</b>, how are you?"
    page.get_by_label("Message").fill(message)
    page.get_by_role("button", name="Send").click()
    thumb = page.get_by_role("button", name="positive")
    expect(thumb).to_have_attribute("aria-pressed", "false", timeout=60_000)
    expect(page.locator(".own")).to_have_text(message)
    thumb.click()
    expect(thumb).to_have_attribute("aria-pressed", "true")
    (exchange,) = parley.client.get("/memory").json()["exchanges"]
    assert (exchange["message"], exchange["feedback"]["rating"]) == (message, "positive")

    page.reload()
    expect(page.locator(".theirs")).to_contain_text(exchange["reply"])
    expect(thumb).to_have_attribute("aria-pressed", "true")
    thumb.click()
    expect(thumb).to_have_attribute("aria-pressed", "false")

    page.get_by_role("button", name="Forget").click()
    expect(page.locator("li")).to_have_count(0)
    assert parley.client.get("/memory").json()["exchanges"] == []


def test_a_problem_is_shown_and_the_message_kept(page: Page) -> None:
    page.get_by_label("Message").evaluate("box => box.removeAttribute('maxlength')")
    page.get_by_label("Message").fill("a" * 4001)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".problem")).to_contain_text("too large")
    expect(page.get_by_label("Message")).to_have_value("a" * 4001)
