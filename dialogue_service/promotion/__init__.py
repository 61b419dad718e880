"""From feedback to a version that may serve: train a candidate, evaluate it, let the gate judge, save it.

`python -m dialogue_service.promotion` does that by hand, and is the process of each training job.
"""
