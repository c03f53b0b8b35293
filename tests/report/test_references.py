"""BibTeX of what a study used: only that, and every key has its entry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from understudy.generators.registry import KINDS
from understudy.report import references
from understudy.report.references import bibtex, entries, used_in

DIFFUSION = {"kind": "diffusion", "noise_schedule": "linear", "learn_sigma": False, "prediction": "noise"}


def report(**parts: Any) -> dict[str, Any]:
    return {"quality": {}, "summary": [], "tables": {}, "memorization": {}, **parts}


def test_only_what_was_used() -> None:
    assert used_in(report(), {}) == {"understudy", "akbar2024", "paszke2019"}
    gan = {"model": {"kind": "stylegan2"}, "training": {"augment": {"mode": "off"}}}
    assert {"karras2020", "mescheder2018"} <= used_in(report(), {"generators": {"mine": gan}})
    assert "karras2020ada" not in used_in(report(), {"generators": {"mine": gan}})
    gan["training"]["augment"]["mode"] = "adaptive"
    assert "karras2020ada" in used_in(report(), {"generators": {"mine": gan}})
    plain = {"model": DIFFUSION, "training": {"min_snr": None}, "sampler": {"kind": "ddim"}}
    found = used_in(report(), {"generators": {"d": plain}})
    assert {"ho2020", "dhariwal2021", "song2021"} <= found
    assert not found & {"nichol2021", "salimans2022", "hang2023", "lu2022"}
    more = {"model": {**DIFFUSION, "noise_schedule": "cosine", "prediction": "velocity"}, "training": {"min_snr": 5.0}}
    assert {"nichol2021", "salimans2022", "hang2023"} <= used_in(report(), {"generators": {"d": more}})


def test_metrics_count_where_they_have_a_value_and_audits_where_they_were_made() -> None:
    row = {"metric": "frechet_distance", "extractor": "inception2015", "value": None}
    assert not used_in(report(quality={"g": {"rows": [row]}}), {}) & {"heusel2017", "szegedy2016"}
    found = used_in(report(quality={"g": {"rows": [{**row, "value": 1.0}]}}), {})
    assert {"heusel2017", "szegedy2016"} <= found
    audit = {"membership": {"score": "discriminator score"}}
    assert {"bates2023", "hayes2019"} <= used_in(report(memorization={"g": audit}), {})
    assert "holm1979" in used_in(report(tables={"differences": [{}]}), {})


def test_every_key_has_an_entry_with_what_a_citation_needs() -> None:
    known = entries()
    tables: tuple[dict[str, Any], ...] = (references.GENERATORS, references.SAMPLERS, references.SEGMENTERS)
    named = {key for table in (*tables, references.EXTRACTORS) for keys in table.values() for key in keys}
    assert named | set(references.METRICS.values()) | set(references.ALWAYS) <= set(known)
    assert set(references.GENERATORS) == set(KINDS)
    for key, entry in known.items():
        assert {"title", "author"} <= set(re.findall(r"^  (\w+) = \{", entry, re.MULTILINE)), key
        assert entry.count("{") == entry.count("}"), key
        assert key == "understudy" or "year = {" in entry, key
    text = bibtex(report(), {})
    assert text.count("\n@") + text.startswith("@") == 3


def test_understudy_is_cited_as_its_citation_file_says() -> None:
    said = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8"))
    own, paper = (entries()[key].replace("{", "").replace("}", "") for key in ("understudy", "akbar2024"))
    assert all(word in own for word in (said["title"], said["version"], said["authors"][0]["name"]))
    (article,) = said["references"]
    assert all(word in paper for word in (article["title"], str(article["year"])))
    assert all(author["family-names"] in paper for author in article["authors"])
