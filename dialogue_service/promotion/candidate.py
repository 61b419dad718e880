"""One candidate, from feedback to a version with its scores, its verdict and its report."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from dialogue_service.evaluation import comparison, report, scores, small_talk
from dialogue_service.evaluation.scores import HeldOut
from dialogue_service.promotion.plan import Plan
from dialogue_service.training import card, trainer
from dialogue_service.training.corpus import gather
from dialogue_service.training.data import DataError
from dialogue_service.training.model import ModelError
from dialogue_service.training.settings import SettingsError
from shared.gate import Verdict
from shared.hub import ModelUnavailable
from shared.job_process import Fault, Report
from shared.registry import Registry, VersionFault

REPORT = "report.html"


def make(plan: Plan, work: Path, say: Report) -> dict[str, Any]:
    """Make the version, working in the folder `work`; returns what there is to say of it. Raises Fault."""
    settings = plan.training(work)
    assert settings.output  # noqa: S101  # narrows the type
    folder = settings.output
    try:
        corpus = gather(settings)
        say("training", 0, 0)
        content = trainer.run(settings, on_step=partial(say, "training"))
        held_out = HeldOut(corpus.held_out, corpus.held_out_thumbs, settings.max_length)
        verdict = _judge(plan, folder, held_out, content, say)
        say("saving", 0, 0)
        recorded = verdict.recorded()
        with Registry(plan.registry).saving(
            plan.name, kind=plan.method, parent=plan.against, scores={"promotion": recorded}
        ) as version:
            for path in folder.iterdir():
                shutil.move(path, version / path.name)
    except (DataError, ModelError, ModelUnavailable, SettingsError, VersionFault) as error:
        raise Fault(str(error).replace(str(folder), "the new model")) from error
    return {
        "version": plan.name,
        "scores": recorded["measures"],
        "promoted": verdict.promoted,
        "verdict": verdict.why,
    }


def _judge(plan: Plan, folder: Path, held_out: HeldOut, content: dict[str, Any], say: Report) -> Verdict:
    """Measure both models, and write what came of it into the candidate's folder."""
    each = sum(len(turns) // 2 for turns in small_talk.conversations())
    say("evaluating", 0, 2 * each)
    before = scores.measure(
        plan.base, held_out, plan.generation, lambda done, _: say("evaluating", done, 2 * each)
    )
    after = scores.measure(
        folder, held_out, plan.generation, lambda done, _: say("evaluating", each + done, 2 * each)
    )
    verdict = comparison.verdict(before, after, plan.method, plan.against)
    card.write(folder, content | {"promotion": verdict.recorded()})
    (folder / REPORT).write_text(report.page(plan.name, verdict, before, after), encoding="utf-8")
    return verdict
