"""From corrected intents to a head that may serve: learn it, evaluate it, let the gate judge, save it.

`python -m intent_service.promotion` is the process of each training job.
"""
