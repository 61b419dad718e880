"""Some hundred requests that nobody wrote by hand; `make fuzz` tries many thousand."""

from pathlib import Path

from benchmarks.fuzz import fuzz
from benchmarks.generation.stack import instant_model
from tests.dialogue_service.conftest import Start


def test_made_up_requests_are_answered_as_documented(start: Start, intents: str, tmp_path: Path) -> None:
    more = {"DIALOGUE_INTENT_URL": intents, "DIALOGUE_REGISTRY": tmp_path / "versions"}
    told = 0
    with instant_model() as url:
        client = start(DIALOGUE_GENERATOR_URL=url, DIALOGUE_MODEL="instant", **more)
        # Ids differ from run to run, so now and then no story of a seed gets to its end.
        for seed in range(1, 5):
            outcome = fuzz(str(client.base_url), tmp_path, examples=5, seed=seed)
            assert outcome.failures == 0, outcome.said
            assert outcome.operations == 22
            assert outcome.cases > 400
            assert outcome.answers["POST /chat 200"] > 10
            # What only a story along the links can reach.
            told += outcome.answers["GET /feedback/{exchange_id} 200"]
            if told:
                break
    assert told
