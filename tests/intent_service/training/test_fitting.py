import pytest
import torch

from intent_service.classifiers.calibration import features
from intent_service.training import fitting
from intent_service.training.fitting import Held


def messages(count: int, seed: int, scale: float = 8.0) -> Held:
    """Similarities to four intents; the truth is drawn by softmax at `scale`, one in four is a stranger."""
    draw = torch.Generator().manual_seed(seed)
    similarities = torch.rand(count, 4, generator=draw)
    truth = torch.multinomial(torch.softmax(similarities * scale, dim=1), 1, generator=draw)[:, 0]
    strangers = torch.arange(count) % 4 == 0
    similarities[strangers] *= 0.4
    return Held(similarities, torch.where(strangers, -1, truth))


def test_the_scale_that_made_the_labels_is_found() -> None:
    assert fitting.scale([messages(6000, seed=0)]) == pytest.approx(8.0, rel=0.15)


def test_strangers_are_told_apart() -> None:
    fitted, fresh = fitting.fit([messages(2000, seed=1)]), messages(2000, seed=2)
    known = fitted.in_scope(fresh.similarities) >= fitted.known
    inside = fresh.truth >= 0
    assert (~known[~inside]).float().mean() > 0.8
    assert (~known[inside]).float().mean() < 0.2


def test_probabilities_are_those_of_the_assumed_share_of_strangers() -> None:
    held = messages(4000, seed=3)
    probability = fitting.fit([held]).in_scope(held.similarities)
    inside = held.truth >= 0
    share = fitting.OUT_OF_SCOPE_SHARE
    mean = (1 - share) * probability[inside].mean() + share * probability[~inside].mean()
    assert mean == pytest.approx(1 - share, abs=0.02)


def test_no_more_are_refused_than_allowed() -> None:
    held = messages(2000, seed=4)
    fitted = fitting.fit([held], most_refused=0.05)
    refused = fitted.in_scope(held.similarities[held.truth >= 0]) < fitted.known
    assert refused.float().mean() == pytest.approx(0.05, abs=0.005)


def test_several_catalogues_count_together() -> None:
    parts = [messages(500, seed=5), messages(500, seed=6)]
    assert fitting.fit(parts) == fitting.fit(parts)
    assert len(features(parts[0].similarities)) == 500


def test_every_intent_is_left_out_once_and_its_messages_are_strangers_then() -> None:
    held = messages(400, seed=7)
    parts = fitting.without_some_intents([held])
    gone = torch.stack([(part.truth < 0) & (held.truth >= 0) for part in parts])
    assert gone.sum(dim=0).tolist() == (held.truth >= 0).int().tolist()
    for part in parts:
        inside = part.truth >= 0
        assert part.similarities.shape == (400, 3)
        expected = held.similarities[inside, held.truth[inside]]
        assert torch.equal(part.similarities[inside, part.truth[inside]], expected)


def test_one_intent_alone_cannot_be_left_out() -> None:
    assert fitting.without_some_intents([Held(torch.rand(5, 1), torch.zeros(5, dtype=torch.long))]) == []
