import torch

from intent_service.classifiers import head


def unit(*rows: list[float]) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_a_single_text_is_its_own_weights() -> None:
    names = unit([1.0, 0.0], [0.0, 1.0])
    assert torch.equal(head.of_texts([names[:1], names[1:]]), names)


def test_what_the_centroids_confuse_is_learned() -> None:
    # The second group's texts surround the first's, so that both have the same centroid.
    inner, outer = unit([1.0, 0.1, 1], [1.0, -0.1, 1]), unit([1.0, 0.0, 3], [1.0, 0.0, 0.1])
    texts, truth = torch.cat([inner, outer]), [0, 0, 1, 1]
    thirds = unit([1.0, 1, 0])
    weights = head.of_texts([inner, outer[:1], torch.cat([thirds, thirds])], pull=1e-6)
    assert (texts[:3] @ weights.T).argmax(dim=1).tolist() == truth[:3]


def test_a_strong_pull_keeps_the_anchors_and_a_weak_one_does_not() -> None:
    anchors = unit([1.0, 0.0], [0.0, 1.0])
    texts, labels = unit([1.0, 0.9], [0.9, 1.0]), torch.tensor([0, 1])
    strong, weak = (head.fit(anchors, texts, labels, pull) for pull in (1e4, 1e-4))
    assert torch.allclose(strong, anchors, atol=1e-3)
    assert (weak - anchors).abs().max() > 0.1


def test_it_is_repeatable_also_inside_inference_mode() -> None:
    anchors = unit([1.0, 0.0], [0.0, 1.0])
    texts, labels = unit([1.0, 0.9], [0.9, 1.0]), torch.tensor([0, 1])
    first = head.fit(anchors, texts, labels)
    assert torch.equal(first, head.fit(anchors, texts, labels))
    assert not first.requires_grad
