"""Made-up patients, slices of nobody, their audit, and a steward's forms: what releases in tests are made from."""

from __future__ import annotations

import datetime as dt
import importlib.util
from pathlib import Path

from understudy.memorization.config import AuditConfig
from understudy.memorization.perform import audit
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited
from understudy.release.package import Released, release_slices
from understudy.slices import SliceSet

_spec = importlib.util.spec_from_file_location("made_heads", Path(__file__).parents[1] / "memorization" / "made.py")
assert _spec is not None
assert _spec.loader is not None
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

ABOUT = About(
    title="Heads", short_name="HEADS", version="1.0", description="Made-up heads.", creators=["A. Author"],
    publisher="Hospital", contact="a@example.org", licence="CC BY 4.0", sources=["made up"],
    source_terms_allow_release=True, approval="none needed", purpose="tests", forbidden_uses="diagnosis",
    known_defects="small", maintenance="none",
)  # fmt: skip


def decision(**changed: object) -> Decision:
    limits = {"quantile": 0.95, "most_flagged": 0.2, "set_on": "2020-01-01", "before_looking": True}
    fields = {
        "decision": "approve_with_removal",
        "by": {"name": "S. Teward", "role": "steward"},
        "date": dt.date.today(),
    }
    return Decision.model_validate({**fields, "thresholds": limits, **changed})


CONFIG = AuditConfig(quantile=0.95, copies=40, splits=10, resamples=200, within=0, more_views=False)


def make_inputs(root: Path) -> dict[str, Path]:
    """Real slices, synthetic ones (of which the eighth is a copy and has to go), and the audit."""
    real = made.real_set(root / "real", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    images, labels = made.new_slices(60)
    images[7], labels[7] = real.read([3])[0][0], 0  # a copy of a training slice: has to go
    synthetic = made.synthetic_set(root / "synthetic", images, labels)
    audit(real, real, synthetic, CONFIG).save(root / "audit")
    return {"real": real.path, "synthetic": synthetic.path, "audit": root / "audit"}


def released(inputs: dict[str, Path], out: Path, layout: str = "sliceset", **options: object) -> Released:
    real = SliceSet.open(inputs["real"])
    signed = options.pop("decision", decision())
    audited = Audited(SliceSet.open(inputs["synthetic"]), real, real, inputs["audit"])
    return release_slices(audited, ABOUT, signed, out, layout, **options)
