"""From feedback to a version that may serve: train a candidate, evaluate it, let the gate judge, save it.

`python -m dialogue_service.promotion` is the process of each training job; by hand it is
`python -m dialogue_service.training`.
"""
