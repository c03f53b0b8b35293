"""BibTeX of what a study really used: generators, segmenters, metrics, audit and software."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

ALWAYS = ("understudy", "akbar2024", "paszke2019")
GENERATORS = {  # kind -> its papers
    "progan": ("karras2018", "gulrajani2017"), "stylegan1": ("karras2019", "mescheder2018"),
    "stylegan2": ("karras2020", "mescheder2018"), "stylegan3": ("karras2021", "mescheder2018"),
    "diffusion": ("ho2020", "dhariwal2021"),
}  # fmt: skip
SAMPLERS = {"ddim": ("song2021",), "dpm++": ("lu2022",)}
SEGMENTERS = {"unet": ("isensee2021", "cardoso2022"), "swin": ("liu2021", "xiao2018")}
METRICS = {  # key in result files -> its paper
    "frechet_distance": "heusel2017", "frechet_distance_infinity": "chong2020", "kernel_distance": "binkowski2018",
    "precision": "kynkaanniemi2019", "recall": "kynkaanniemi2019", "density": "naeem2020", "coverage": "naeem2020",
    "inception_score": "salimans2016", "dice": "dice1945", "hd": "huttenlocher1993",
}  # fmt: skip
EXTRACTORS = {
    "inception2015": ("szegedy2016",), "radimagenet_inception": ("szegedy2016", "mei2022"),
    "radimagenet_resnet50": ("he2016", "mei2022"), "dinov2": ("oquab2024",),
}  # fmt: skip


def entries() -> dict[str, str]:
    """Key -> BibTeX of every work that can be cited, in the order of the file."""
    text = files("understudy.report").joinpath("published/references.bib").read_text(encoding="utf-8")
    found = (entry.strip() for entry in re.split(r"\n(?=@)", text))
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in found}


def bibtex(report: dict[str, Any], study: dict[str, Any]) -> str:
    """The entries of what a study used, from its report.json and its resolved study file."""
    used = used_in(report, study)
    return "\n\n".join(entry for key, entry in entries().items() if key in used) + "\n"


def used_in(report: dict[str, Any], study: dict[str, Any]) -> set[str]:
    """Keys of what is cited; what is the user's own (a plug-in, another extractor) has none."""
    used = set(ALWAYS)
    for entry in (study.get("generators") or {}).values():
        used |= _of_generator(entry)
    for name, entry in (study.get("segmenters") or {}).items():
        used |= set(SEGMENTERS.get(str((entry.get("model") or {}).get("kind") or name), ()))
    measured = [row for one in report["quality"].values() for row in one["rows"] if row["value"] is not None]
    used |= {METRICS[row["metric"]] for row in [*measured, *report["summary"]] if row["metric"] in METRICS}
    used |= {key for row in measured for key in EXTRACTORS.get(row["extractor"] or "", ())}
    used |= {"holm1979"} if report["tables"].get("differences") else set()
    for audit in report["memorization"].values():
        used |= {"bates2023", "giomi2023"}
        told = (audit.get("membership") or {}).get("score")
        used |= {"hayes2019"} if told == "discriminator score" else set()
    return used


def _of_generator(entry: dict[str, Any]) -> set[str]:
    model, training = entry.get("model") or {}, entry.get("training") or {}
    kind = str(model.get("kind") or "")
    used = set(GENERATORS.get(kind, ()))
    used |= {"karras2020ada"} if (training.get("augment") or {}).get("mode", "off") != "off" else set()
    if kind == "diffusion":
        used |= {"nichol2021"} if model["noise_schedule"] == "cosine" or model["learn_sigma"] else set()
        used |= {"salimans2022"} if model["prediction"] == "velocity" else set()
        used |= {"hang2023"} if training.get("min_snr") is not None else set()
        used |= set(SAMPLERS.get(str((entry.get("sampler") or {}).get("kind")), ()))
    return used
