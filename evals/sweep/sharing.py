"""One split for all studies of a sweep: the first makes it, the others take it as it was frozen."""

from __future__ import annotations

import shutil
from dataclasses import replace

from assistant_builder.data.card import inline
from assistant_builder.files import write_text
from assistant_builder.jobs.integrity import damaged_outputs
from assistant_builder.jobs.running import held
from assistant_builder.jobs.steps import step_inputs
from assistant_builder.study import Study
from evals.sweep.defining import Sweep

_STEPS = ("data", "data-embed")


def take_split(sweep: Sweep, study: Study) -> None:
    """Give a study without a split that of the first study that has one, marked as done.

    Each step is taken only where the study would make it from the very same inputs; else it makes its own.
    """
    if any(study.step(step).state != "queued" for step in _STEPS):
        return
    donor = next((found for trial in sweep.trials if (found := sweep.study(trial)) is not None
                  and found.folder != study.folder and _whole(found)), None)
    if donor is not None:
        with held(study):
            all(_take(step, donor, study) for step in _STEPS)  # without the split nothing that follows it


def _whole(study: Study) -> bool:
    records = [study.step(step) for step in _STEPS]
    return all(record.state == "succeeded" and not damaged_outputs(study, record) for record in records)


def _take(step: str, donor: Study, study: Study) -> bool:
    """Copy what a step made, its done-marker last, and say whether; the time it took stays with the donor."""
    record = donor.step(step)
    if record.inputs != step_inputs(study, step):
        return False
    for name in record.outputs:
        shutil.copyfile(donor.folder / name, study.folder / name)
    if step == "data":
        study.keep_template_date(like=donor)
        card = (donor.folder / "data" / "card.md").read_text(encoding="utf-8")
        card = card.replace(f"pretty_name: {donor.name}\n", f"pretty_name: {study.name}\n", 1)
        card = card.replace(f"# {inline(donor.name)}\n", f"# {inline(study.name)}\n", 1)
        write_text(study.folder / "data" / "card.md", card)
    else:
        shutil.copyfile(donor.folder / "provenance.json", study.folder / "provenance.json")
    study.write_step(replace(record, seconds=0.0))
    return True
