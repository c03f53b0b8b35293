"""README.md of released weights: a model card (Mitchell et al. 2019) with the front matter that Hugging Face reads."""

from __future__ import annotations

from typing import Any

import yaml

from understudy.release.documents import signed, stamp
from understudy.release.forms import About, Decision
from understudy.release.weights import MODEL

_KNOWN = {  # names of Hugging Face for licences
    "CC BY 4.0": "cc-by-4.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0",
    "CC0 1.0": "cc0-1.0",
    "APACHE 2.0": "apache-2.0",
    "MIT": "mit",
}
_NAMES = {
    "progan": "Progressive GAN",
    "stylegan1": "StyleGAN 1",
    "stylegan2": "StyleGAN 2",
    "stylegan3": "StyleGAN 3",
    "diffusion": "diffusion model",
}
_NOT_SHOWN = {"kind", "annotation"}


def card(about: About, decision: Decision, certificate: dict[str, Any], config: dict[str, Any]) -> str:
    """The card.

    Args:
        certificate: of the package.
        config: the configuration that goes with the weights (`weights.write_weights`).
    """
    forced = stamp(certificate)
    sections = {
        "Intended use": [about.purpose, f"**Forbidden:** {about.forbidden_uses}"],
        "How to load and sample": _loading(certificate),
        "Training data": _training_data(about, certificate),
        "Recipe": _recipe(config),
        "Evaluation": [*_dice(certificate["evaluation"]), *_copies(certificate), *_white_box(certificate)],
        "Limits": _limits(about, certificate),
        "Decision": [signed(decision)],
        "Licence, citation, contact": _terms(about, certificate),
    }
    said = [
        front_matter(about, certificate).rstrip(),
        f"# {about.title}",
        *([f"> **{forced}**"] if forced else []),
        about.description,
        _what(certificate["model"]),
        "![Synthetic slices, drawn at random from samples that the audit did not flag](samples.png)",
    ]
    for heading, paragraphs in sections.items():
        said += [f"## {heading}", *paragraphs]
    return "\n\n".join(said) + "\n"


def front_matter(about: About, certificate: dict[str, Any]) -> str:
    """The YAML block between dashes."""
    kind = certificate["model"]["kind"]
    known = _KNOWN.get(about.licence.upper())
    fields: dict[str, Any] = {"license": known or "other"}
    if known is None:
        fields |= {"license_name": about.licence, "license_link": about.licence_url or "LICENSE"}
    fields |= {
        "library_name": "understudy",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["mri", "medical-imaging", "synthetic-data", "segmentation", kind, *about.keywords],
    }
    if results := _results(about, certificate["evaluation"]):
        fields["model-index"] = results
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---\n"


def _results(about: About, evaluation: dict[str, Any] | None) -> list[dict[str, Any]]:
    if not evaluation:
        return []
    metrics = [
        {"type": "relative_dice", "name": f"Dice relative to real slices: {c['label']}", "value": c["relative_dice"]}
        for c in evaluation["comparisons"]
        if c["relative_dice"] is not None
    ]
    task = {"type": "image-segmentation", "name": "Segmenter trained with samples of it"}
    data = {"type": "private", "name": f"{evaluation['patients']} test patients of the publisher's study"}
    return [{"name": about.title, "results": [{"task": task, "dataset": data, "metrics": metrics}]}]


def _what(model: dict[str, Any]) -> str:
    drawn = ", ".join(c["name"] for c in model["classes"][1:])
    return (
        f"A {_NAMES[model['kind']]} that draws 2D slices of {model['resolution']} x {model['resolution']} pixels with"
        f" the channels {', '.join(model['channels'])} and, together with them, the annotation ({drawn})."
        f" {model['weights']['parameters']:,} weights (averaged ones only: no discriminator, no state of an optimiser),"
        f" `{model['weights']['file']}`, SHA-256 `{model['weights']['sha256']}`."
    )


def _loading(certificate: dict[str, Any]) -> list[str]:
    return [
        "```sh\nunderstudy verify .                       # hashes, tensors, binding to the audit"
        "\nunderstudy sample . slices --count 1000   # images with annotations\n"
        "understudy export images slices slices-png   # PNG files, or: understudy export nnunet\n```",
        "In Python:",
        "```python\nfrom understudy.generators.folder import load_generator\n\n"
        f'generator, config = load_generator("{MODEL}")\n'
        "joint = generator.sample(16, seed=0)  # float [16, channels and annotation, height, width] in [-1, 1]\n```",
        "The file is safetensors: loading it executes nothing. Sample i of a seed is always the same slice.",
    ]


def _training_data(about: About, certificate: dict[str, Any]) -> list[str]:
    audit = certificate["audit"]
    return [
        f"{audit['training_slices']:,} slices of {audit['training_patients']} patients of:",
        "\n".join(f"- {s}" for s in about.sources),
        f"Ethical approval: {about.approval}",
        "No patient, file or slice of it is named in this package, and none is contained as an image.",
    ]


def _recipe(config: dict[str, Any]) -> list[str]:
    shown = {k: config[k] for k in ("kimg", "steps", "precision", "torch") if k in config}
    rows = [
        ("trained for" if k == "kimg" else k, f"{v} thousand images" if k == "kimg" else v) for k, v in shown.items()
    ]
    fields = {"model": config["model"], "training": config.get("training", {})}
    listed = yaml.safe_dump(
        {k: {n: x for n, x in v.items() if n not in _NOT_SHOWN} for k, v in fields.items()}, sort_keys=True
    )
    return ["| | |\n| --- | --- |\n" + "\n".join(f"| {a} | {b} |" for a, b in rows), f"```yaml\n{listed}```"]


def _dice(evaluation: dict[str, Any] | None) -> list[str]:
    if not evaluation:
        return ["**Use:** not measured by the publisher. `understudy evaluate` measures it on your patients."]
    rows = "\n".join(
        f"| {c['label']} | {_share(c['relative_dice'])} | {_share(c['low'])} to {_share(c['high'])} |"
        f" {c['missed']} of {c['present']} |"
        for c in evaluation["comparisons"]
    )
    return [
        f"**Use:** segmenters trained with samples, scored on {evaluation['patients']} test patients"
        f" ({evaluation['repeats']} training{'s' * (evaluation['repeats'] != 1)} each). Real slices: mean Dice"
        f" {evaluation['baseline_dice']:.3f}.",
        "| trained on | Dice relative to real slices | 95 % interval by patient | segmentations that found no voxel"
        " of the"
        " tumour |\n"
        "| --- | --- | --- | --- |\n" + rows,
        *([f"Evidence: {evaluation['evidence']}."] if evaluation.get("evidence") else []),
    ]


def _copies(certificate: dict[str, Any]) -> list[str]:
    audit = certificate["audit"]
    return [
        f"**Copies among samples:** {audit['verdict']['headline']} {audit['flagged']:,} of {audit['judged']:,} judged"
        f" samples are flagged. Rule: {audit['rule']}.",
        "\n".join(f"- {s}" for s in audit["verdict"]["sentences"]),
    ]


def _white_box(certificate: dict[str, Any]) -> list[str]:
    asked = certificate["white_box"]
    return [
        f"**White-box check:** AUC {asked['auc']:.2f} (95 % interval by patient {asked['low']:.2f} to"
        f" {asked['high']:.2f}; 0.5 is chance) by the {asked['score']}, {asked['training']} training slices of"
        f" {asked['training_patients']} patients against {asked['heldout']} slices of {asked['heldout_patients']} new"
        f" ones. {asked['words']}"
    ]


def _limits(about: About, certificate: dict[str, Any]) -> list[str]:
    limits = [
        about.known_defects,
        *certificate["audit"]["verdict"]["limits"],
        "The white-box check asks one simple question. Stronger attacks on weights exist, and who has the weights has"
        " all the time in the world; nothing can be taken back.",
        "Samples have to be audited again before they are passed on: nothing is screened out of them.",
    ]
    return ["\n".join(f"- {s}" for s in limits)]


def _terms(about: About, certificate: dict[str, Any]) -> list[str]:
    return [
        f"{about.licence} {about.licence_url}".strip() + "; the terms of the sources hold as well (`LICENSE`).",
        f"{', '.join(about.creators)}: {about.title}, version {about.version}. {about.publisher},"
        f" {certificate['released'][:4]}.{f' {about.doi}' if about.doi else ''} (`CITATION.cff`)",
        f"Contact: {about.contact}. {about.maintenance}",
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"
