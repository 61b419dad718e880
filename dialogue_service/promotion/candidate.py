"""One candidate, from feedback to a version with its scores, its verdict and its report."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from dialogue_service.evaluation.judge import Judge
from dialogue_service.promotion.plan import Plan
from dialogue_service.training import trainer
from dialogue_service.training.data import DataError
from dialogue_service.training.model import ModelError
from dialogue_service.training.settings import SettingsError
from shared.hub import ModelUnavailable
from shared.job_process import Fault, Report
from shared.registry import Registry, VersionFault


def make(plan: Plan, work: Path, say: Report) -> dict[str, Any]:
    """Make the version, working in the folder `work`; returns what there is to say of it. Raises Fault."""
    settings = plan.training(work)
    assert settings.output  # noqa: S101  # narrows the type
    judge = Judge(plan.name, plan.method, plan.base, plan.against, plan.generation, say)
    try:
        say("training", 0, 0)
        content = trainer.run(settings, partial(say, "training"), judge)
        say("saving", 0, 0)
        with Registry(plan.registry).saving(
            plan.name, kind=plan.method, parent=plan.against, scores=content["scores"]
        ) as version:
            for path in settings.output.iterdir():
                shutil.move(path, version / path.name)
    except (DataError, ModelError, ModelUnavailable, SettingsError, VersionFault) as error:
        raise Fault(str(error).replace(str(settings.output), "the new model")) from error
    judged = content["promotion"]
    return {
        "version": plan.name,
        "scores": judged["measures"],
        "promoted": judged["promoted"],
        "verdict": judged["verdict"],
    }
