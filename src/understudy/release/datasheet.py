"""What a person reads of a package of slices: README.md, and a datasheet (Gebru et al. 2021)."""

from __future__ import annotations

from typing import Any

from understudy import __version__
from understudy.release.documents import signed, stamp
from understudy.release.forms import About, Decision

LAYOUT_WORDS = {
    "sliceset": "a slice set of Understudy (Zarr 3 and `index.parquet`)",
    "png": "PNG files, one a channel: `data/CHANNEL/ID_CHANNEL.png`, the annotation in `data/Seg`",
    "nifti": "NIfTI files, one a channel: `data/CHANNEL/ID_CHANNEL.nii.gz`, the annotation in `data/seg`",
    "nnunet": "a raw dataset of nnU-Net v2 (`imagesTr`, `labelsTr`, `dataset.json`, folds)",
    "webdataset": "WebDataset shards: tar files with PNG files and a JSON file for each slice",
}
_CODED = {"png", "nifti", "webdataset"}


def datasheet(about: About, decision: Decision, certificate: dict[str, Any]) -> str:
    """DATASHEET.md: its seven headings, and one on privacy."""
    forced = stamp(certificate)
    sections = {
        "Motivation": [about.purpose, f"Made by {', '.join(about.creators)} for {about.publisher}."],
        "Composition": _composition(about, certificate),
        "Collection process": _collection(about, certificate),
        "Preprocessing, cleaning, labelling": _preprocessing(certificate),
        "Privacy": _privacy(decision, certificate),
        "Uses": [f"Intended: {about.purpose}", f"Forbidden: {about.forbidden_uses}"],
        "Distribution": _distribution(about, certificate),
        "Maintenance": [
            about.maintenance,
            f"Contact: {about.contact}. Written by Understudy {__version__}; check with `understudy verify`.",
        ],
    }
    said = [
        f"# Datasheet: {about.title}",
        *([f"> **{forced}**"] if forced else []),
        f"Version {about.version}, released {certificate['released']} by {about.publisher}.",
        about.description,
    ]
    for heading, paragraphs in sections.items():
        said += [f"## {heading}", *paragraphs]
    return "\n\n".join(said) + "\n"


def readme(about: About, certificate: dict[str, Any]) -> str:
    """README.md: what it is, what it is not, how to check and to use it."""
    data, audit, forced = certificate["data"], certificate["audit"], stamp(certificate)
    said = [
        f"# {about.title}",
        *([f"> **{forced}**"] if forced else []),
        about.description,
        f"**{data['slices']:,} synthetic 2D slices** of {data['resolution']} x {data['resolution']} pixels"
        f" ({', '.join(data['channels'])}) with annotations ({', '.join(_classes(data))}), as"
        f" {LAYOUT_WORDS[certificate['layout']]}. No slice is of a person. Licence: {_licence(about)}.",
        f"Not for: {about.forbidden_uses}",
        "## Is the package complete, and what was audited?",
        "```sh\nunderstudy verify .                # every file and every slice, against the certificate"
        "\nsha256sum -c SHA256SUMS            # the same for the files, without Understudy\n```",
        "Compare the root hash that `understudy verify` prints with the one that the publisher has made known.",
        audit["verdict"]["headline"],
        "`evidence.html` shows pictures and the audit with its controls; `DATASHEET.md` answers the rest.",
        "## Train a segmenter on it",
        "```sh\nunderstudy evaluate --synthetic . --cohort YOUR_PATIENTS\n```",
        "trains one segmenter on your patients, one on these slices and one on both, and scores all three on your"
        " test patients.",
        *_by_hand(certificate),
        "## Cite",
        f"{', '.join(about.creators)}: {about.title}, version {about.version}. {about.publisher},"
        f" {certificate['released'][:4]}.{f' {about.doi}' if about.doi else ''} (`CITATION.cff`) Cite its sources as"
        " well:",
        "\n".join(f"- {s}" for s in about.sources),
        f"Contact: {about.contact}",
    ]
    return "\n\n".join(said) + "\n"


def _composition(about: About, certificate: dict[str, Any]) -> list[str]:
    data = certificate["data"]
    rows = "\n".join(
        f"| {c['name']} | {i} | {_grey(c, i, certificate['layout'])} |"
        f" {data['slices_with_class'].get(c['name'], 0):,} of {data['slices']:,} |"
        for i, c in enumerate(data["classes"])
        if i
    )
    size = f"{data['resolution']} x {data['resolution']} pixels"
    if data["spacing"]:
        size += f" of {data['spacing'][0]:g} x {data['spacing'][1]:g} mm"
    return [
        f"{data['slices']:,} synthetic 2D slices of {size}, 8 bits, with the channels"
        f" {', '.join(data['channels'])} and an annotation. The files are {LAYOUT_WORDS[certificate['layout']]}.",
        "| class | number | grey value in the files | slices that hold it |\n| --- | --- | --- | --- |\n" + rows,
        "No slice shows a person; there are no patients, no volumes, no sites, no recommended splits, and slices do"
        " not belong together. `manifest.parquet` has a row a slice: id, generator, seed, pixels of each class, the"
        " audit's p-value and the SHA-256 of its pixels.",
        f"Known defects: {about.known_defects}",
    ]


def _collection(about: About, certificate: dict[str, Any]) -> list[str]:
    data, audit = certificate["data"], certificate["audit"]
    return [
        f"Sampled from the generators {', '.join(data['generators']) or '(not named)'}, trained on"
        f" {audit['training_slices']:,} slices of {audit['training_patients']} patients of:",
        "\n".join(f"- {s}" for s in about.sources),
        f"Ethical approval: {about.approval}",
    ]


def _preprocessing(certificate: dict[str, Any]) -> list[str]:
    audit = certificate["audit"]
    earlier = audit.get("screened")
    return [
        *(
            [
                f"{earlier['before']:,} slices were made. In a first search {earlier['flagged']:,} were flagged as near"
                f" copies and taken out, with {earlier['alike']:,} near-duplicates of them."
            ]
            if earlier
            else []
        ),
        f"{audit['before']:,} slices were searched for copies of training patients; {audit['flagged']:,} of them were"
        f" flagged and taken out, and so were {audit['alike']:,} near-duplicates of these. The"
        f" {audit['released']:,} that are"
        " left are as the generator made them.",
        "Annotations were generated together with the images. They were not checked, unless it is said above.",
    ]


def _privacy(decision: Decision, certificate: dict[str, Any]) -> list[str]:
    audit = certificate["audit"]
    taken_out = audit["released"] < audit["before"]
    return [
        f"Rule: {audit['rule']}.",
        " ".join(
            [
                "All slices, before any were taken out:" if taken_out else "Verdict:",
                audit["verdict_before"],
                (audit.get("concentration") or {}).get("words", ""),
            ]
        ).strip(),
        *([f"The slices of this package: {audit['verdict']['headline']}"] if taken_out else []),
        "\n".join(f"- {s}" for s in audit["verdict"]["sentences"]),
        "What the audit cannot say:",
        "\n".join(f"- {s}" for s in audit["verdict"]["limits"]),
        signed(decision),
    ]


def _distribution(about: About, certificate: dict[str, Any]) -> list[str]:
    return [
        f"Licence: {_licence(about)}. The terms of the sources hold as well.",
        f"Published by {about.publisher}{f' as {about.doi}' if about.doi else ''}. The root of all slices' hashes is"
        f" `{certificate['content']['root']}`.",
    ]


def _by_hand(certificate: dict[str, Any]) -> list[str]:
    """The grey values, for those who read the files themselves."""
    data, layout = certificate["data"], certificate["layout"]
    if layout not in _CODED:
        return []
    codes = ", ".join(f"{_grey(c, i, layout)} {c['name']}" for i, c in enumerate(data["classes"]))
    return [f"Grey values of the annotations: {codes}."]


def _grey(entry: dict[str, Any], number: int, layout: str) -> int:
    return int(entry["code"]) if layout in _CODED else number


def _classes(data: dict[str, Any]) -> list[str]:
    return [c["name"] for c in data["classes"][1:]]


def _licence(about: About) -> str:
    return f"{about.licence} {about.licence_url}".strip()
