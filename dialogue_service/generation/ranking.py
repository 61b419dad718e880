"""Which of the candidates is said."""

from collections.abc import Sequence

from dialogue_service.generation.candidate import Candidate


def best(candidates: Sequence[Candidate], turns: Sequence[str]) -> Candidate | None:
    """The candidate to answer `turns` with; None when none is fit to be said."""
    fit = [candidate for candidate in candidates if candidate.text]
    return max(fit, key=lambda candidate: candidate.logprob / len(candidate.ids), default=None)
