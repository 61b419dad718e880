"""Some hundred requests that nobody wrote by hand; `make fuzz` tries many thousand."""

from pathlib import Path

from benchmarks.fuzz import fuzz
from tests.intent_service.conftest import Start


def test_made_up_requests_are_answered_as_documented(
    start: Start, tiny_encoder: Path, tmp_path: Path
) -> None:
    client = start(INTENT_MODEL=tiny_encoder, INTENT_REGISTRY=tmp_path / "versions")
    outcome = fuzz(str(client.base_url), tmp_path, examples=5)
    assert outcome.failures == 0, outcome.said
    assert outcome.operations == 15
    assert outcome.cases > 150
    assert outcome.answers["POST /intent 200"] > 10
