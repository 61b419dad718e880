"""The report is one file that needs nothing else and lets nobody's text do harm."""

import re
from pathlib import Path

import pytest

from shared import report
from shared.gate import Measure, Verdict
from tests.browser import browsing

HOSTILE = "<script>document.title = 'hurt'</script>"


@pytest.fixture
def page() -> str:
    measure = Measure(
        name="perplexity",
        said=HOSTILE,
        before=10.0,
        after=9.0,
        better="lower",
        condition="lower by over 1.64 standard errors",
        bound=0.5,
        aim=True,
    )
    nothing = Measure(name="empty", said="", before=0.0, after=0.0, better="lower", condition="0", bound=0.02)
    sections = [
        ("Side by side", report.table(("person", "old"), [[("Hi", HOSTILE)], [("Bye", "")]])),
        ("Dots", report.strips([("old", [-1.0, -2.0], [-3.0]), ("new", [-1.0], [])], "nats")),
    ]
    return report.page("new", Verdict("old", (measure, nothing)), "An introduction.", sections)


def test_it_refers_to_nothing_outside(page: str) -> None:
    assert not re.search(r"(src|href)=|url\(|@import|https?://", page)


def test_a_browser_shows_it_and_runs_nothing(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    with browsing((tmp_path / "report.html").as_uri()) as shown:
        assert shown.title() == "new beside old"
        assert HOSTILE in shown.inner_text("body")
        assert shown.locator(".verdict.yes").count() == 1
        assert shown.locator("circle").count() == 4
        for scheme in ("light", "dark"):
            shown.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            paper, ink = (
                shown.evaluate(f"getComputedStyle(document.body).{what}")
                for what in ("backgroundColor", "color")
            )
            assert (sum(map(int, re.findall(r"\d+", paper))) > 382) is (scheme == "light")
            assert (sum(map(int, re.findall(r"\d+", ink))) < 382) is (scheme == "light")
