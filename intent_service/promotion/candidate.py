"""One candidate, from corrections to a version with its scores, its verdict and its report."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from intent_service import catalog, classifiers, examples
from intent_service.catalog import CatalogFault
from intent_service.classifiers.nli import BY_HAND
from intent_service.examples import DataFault
from intent_service.promotion import evaluation
from intent_service.promotion.evaluation import Material
from intent_service.promotion.plan import Plan, hold_out, usable
from intent_service.training import card, run
from intent_service.training.settings import SettingsError, TrainingSettings
from shared.hub import ModelUnavailable
from shared.job_process import Fault, Report
from shared.registry import Registry, VersionFault

REPORT = "report.html"


def make(plan: Plan, work: Path, say: Report) -> dict[str, Any]:
    """Make the version, working in the folder `work`; returns what there is to say of it. Raises Fault."""
    folder = work / "model"
    try:
        known = catalog.load(plan.catalog)
        learned, held_out = hold_out(usable(examples.read(plan.feedback), known))
        settings = TrainingSettings(output=folder, catalog=plan.catalog, encoder=plan.encoder, name=plan.name)
        intents, rows = run.gather(settings)
        content = run.run(settings, intents, [*rows, *learned], whole=True, progress=say)
        say("evaluating", 0, 2)
        material = Material(known, held_out)
        rule = replace(BY_HAND, known=plan.nli_known, lead=plan.nli_lead)
        load = partial(classifiers.load, hypothesis=plan.hypothesis, rule=rule, fast=plan.fast)
        before = material.ask(load(plan.base))
        say("evaluating", 1, 2)
        after = material.ask(load(folder))
        verdict = evaluation.verdict(material, before, after, plan.against)
        recorded = verdict.recorded()
        say("saving", 0, 0)
        card.write(folder, content | {"promotion": recorded})
        (folder / REPORT).write_text(evaluation.page(plan.name, verdict, before, after), encoding="utf-8")
        with Registry(plan.registry).saving(
            plan.name, kind="head", parent=plan.against, scores=content["scores"] | {"promotion": recorded}
        ) as version:
            for path in folder.iterdir():
                shutil.move(path, version / path.name)
    except (CatalogFault, DataFault, ModelUnavailable, SettingsError, VersionFault) as error:
        raise Fault(str(error)) from error
    return {
        "version": plan.name,
        "scores": recorded["measures"],
        "promoted": verdict.promoted,
        "verdict": verdict.why,
    }
