"""What is wrong with a study's cohorts before anything is computed: all that `prepare` does, up to writing."""

from dataclasses import dataclass, replace
from pathlib import Path

from understudy.cohort.checks import Checked, check_cohort, check_split
from understudy.cohort.config import Cohort, Problem
from understudy.cohort.layouts import find_patients
from understudy.errors import UnderstudyError
from understudy.report.data import count
from understudy.study.config.schema import load_study, parse_study
from understudy.study.engine.plan import make_plan
from understudy.study.init import suggest_study


@dataclass(frozen=True)
class CheckedCohort:
    """A cohort and what was found out about it."""

    name: str  # in a study of several cohorts; otherwise ""
    cohort: Cohort
    checked: Checked  # problems, frame and kept slices
    stops: bool  # `run` would stop here; with `skip_bad_patients` single bad patients do not stop it

    def summary(self) -> str:
        """One line: who, which slices, how many problems."""
        checked, patients = self.checked, self.cohort.patients
        sites = {patient.site for patient in patients} - {""}
        bad = {p.patient for p in checked.problems if p.severity == "error"} - {""}
        who = count(len(patients), "patient") + (f" of {count(len(sites), 'site')}" if sites else "")
        parts = [f"{who} ({self.cohort.layout}: {', '.join(self.cohort.channels)})"]
        if checked.frame is not None:
            parts.append(f"{checked.frame.describe()}, {sum(checked.kept.values()):,} kept")
        parts.append(count(len(checked.problems), "problem"))
        parts += [f"{count(len(bad), 'patient')} that cannot be used"] if bad else []
        return (f"{self.name}: " if self.name else "") + "; ".join(parts)


def check_source(source: Path, progress: bool = True) -> list[CheckedCohort]:
    """Checks the cohorts of a study file, or a folder of volumes as the study that `understudy init` writes for it.

    Where nothing stops, `prepare` of this study succeeds. An error for phantoms only, and where nothing can be read.
    """
    if source.is_dir():
        study = parse_study(suggest_study(source), f"what `understudy init {source}` writes")
    else:
        study = load_study(source, cohort_only=True)
    done = []
    for name, part in study.parts().items():
        if part.cohort is None:
            continue
        cohort = find_patients(part.cohort)
        checked = check_cohort(cohort, part.slices, part.slices.workers, progress)
        skip = part.cohort.skip_bad_patients
        split = check_split(cohort, checked, part.split.settled(part.derived_seed("split")), skip)
        stops = any(p.severity == "error" for p in (split if skip else [*checked.problems, *split]))
        checked.problems.extend(split)
        done.append(CheckedCohort(name, cohort, checked, stops))
    if not done:
        fix = "give the folder of the patients, or a study file with `cohort: {path: ...}`"
        raise UnderstudyError("the study draws phantoms and has no cohort to check", where=source, fix=fix)
    if not any(one.stops for one in done):
        try:
            make_plan(study)  # what `run` refuses before it starts: regions of unknown classes, and others
        except UnderstudyError as error:
            where = Path(error.where or source)
            done[-1].checked.problems.append(Problem("", where, error.what, error.fix or "correct the study file"))
            done[-1] = replace(done[-1], stops=True)
    return done
