"""Made-up patients, slices of nobody, their audit, and a steward's forms: what releases in tests are made from."""

from __future__ import annotations

import datetime as dt
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import understudy.release.package as package_module
from understudy.generators import registry as models
from understudy.generators.folder import save_model
from understudy.generators.membership import MembershipScores
from understudy.generators.sample import sample_set
from understudy.memorization.config import AuditConfig
from understudy.memorization.perform import audit
from understudy.release.content import LAYOUTS
from understudy.release.forms import About, Decision
from understudy.release.gate import Audited
from understudy.release.package import Released, release_model, release_slices
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


CONFIG = AuditConfig(quantile=0.95, copies=10, splits=10, resamples=200, within=0)


def make_inputs(root: Path, *geometry: Any) -> dict[str, Path]:
    """Real slices, synthetic ones (of which the eighth is a copy and has to go), and the audit; `geometry`: spacing
    and axes."""
    real = made.real_set(root / "real", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()}, 12, 0, *geometry)
    images, labels = made.new_slices(60)
    images[7], labels[7] = real.read([3])[0][0], 0  # a copy of a training slice: has to go
    synthetic = made.synthetic_set(root / "synthetic", images, labels, *geometry)
    audit(real, real, synthetic, CONFIG).save(root / "audit")
    return {"real": real.path, "synthetic": synthetic.path, "audit": root / "audit"}


def released(inputs: dict[str, Path], out: Path, layout: str = "sliceset", **options: object) -> Released:
    real = SliceSet.open(inputs["real"])
    signed = options.pop("decision", decision())
    audited = Audited(SliceSet.open(inputs["synthetic"]), real, real, inputs["audit"])
    return release_slices(audited, ABOUT, signed, out, layout, **options)


# --- weights --------------------------------------------------------------------------------------------------------

SECRET = "Patient_T1"
SMALL = {"channel_base": 64, "channel_max": 8, "z_dim": 8, "w_dim": 8, "mapping_layers": 2}


def agreed(**changed: Any) -> Decision:
    limits = {"quantile": 0.95, "most_flagged": 0.2, "set_on": "2020-01-01", "before_looking": True, "most_auc": 0.9}
    return decision(decision="approve", thresholds={**limits, **changed})


def trained(folder: Path, seed: int = 1) -> Path:
    """The folder of a training, with things in its configuration that must stay behind."""
    config = models.model_config({"kind": "stylegan2", "resolution": 16, "channels": 3, **SMALL})
    network: Any = models.build(config, seed)
    record = {
        "kind": "stylegan2", "model": config.model_dump(mode="json"), "channels": list(made.CHANNELS),
        "classes": [vars(c) for c in made.CLASSES], "annotation": "coded", "spacing": None, "axes": None,
        "kimg": 1.0, "identity": "of-this-run", "slices": "hash-of-training", "run": f"/home/me/{SECRET}",
        "training": {"seed": 4711, "batch": 8, "kimg": 1.0, "tensorboard": True},
    }  # fmt: skip
    save_model(folder, network.generator, record, network.discriminator)
    return folder


class Sources(NamedTuple):
    model: Path
    audited: Audited


def make_sources(root: Path) -> Sources:
    """A generator, its samples and their audit."""
    real = made.real_set(root / "real", {f"Patient_{n}": s for n, s in made.split_of(10, 12).items()})
    model = trained(root / "model")
    samples = sample_set(model, 60, 3, root / "samples", progress=False)
    audit(real, real, samples, CONFIG, membership_score=MembershipScores(model)).save(root / "audit")
    return Sources(model, Audited(samples, real, real, root / "audit"))


def every_format(root: Path) -> dict[str, Path]:
    """A package of six slices in each layout, and one of weights ("model"); inputs are in `root / "inputs"`."""
    inputs, found = make_inputs(root / "inputs"), {}
    real = package_module.clear
    cleared: list[Any] = []

    def once(*args: Any) -> Any:  # the gate says the same for every layout
        cleared.extend([] if cleared else [real(*args)])
        return replace(cleared[0], kept=cleared[0].kept[:6])

    with patch.object(package_module, "clear", once):
        for layout in LAYOUTS:
            found[layout] = released(inputs, root / layout, layout).path
    sources = make_sources(root / "weights")
    found["model"] = release_model(sources.model, sources.audited, ABOUT, agreed(), root / "model").path
    return found
