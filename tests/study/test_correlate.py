"""`understudy correlate` from a CSV and from the folder of a study that is written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.io.files import write_json
from understudy.study.correlate import correlate, correlate_jobs, write_correlations
from understudy.study.engine.jobs import Job, job_folder

PATIENTS = 6
UNDEFINED = {"metric": "recall", "value": None}


def finished(out: Path, job: Job, **files: Any) -> Job:
    folder = job_folder(out, job)
    folder.mkdir(parents=True)
    write_json(folder / "spec.json", job.as_dict())
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    write_json(folder / "done.json", {"id": job.id, "results": {}})
    return job


def rows_of(dice: float, seed: int, generator: str) -> pd.DataFrame:
    """Raw rows of two classes whose mean Dice is about `dice`, and of a region that must not count."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(PATIENTS):
        for name, region in (("ET", False), ("ED", False), ("WT", True)):
            tp = 0 if region else round(1000 * dice * rng.uniform(0.95, 1.05))
            rows.append(
                {"setting": f"synthetic-{generator}", "repeat": 0, "subject": f"p{patient}", "class_name": name,
                 "region": region, "scope": "whole", "tp": tp, "fp": 1000 - tp, "fn": 1000 - tp,
                 "truth_empty": False, "predicted_empty": False, "hd": 1.0, "hd95_pooled": 1.0,
                 "hd95_directed": 1.0, "hd95_surfel": 1.0, "diagonal_mm": 100.0}
            )  # fmt: skip
    return pd.DataFrame(rows)


def study(out: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    """Four snapshots of each generator: Dice grows with kimg, and one metric falls with Dice exactly."""
    jobs: list[Job] = []
    for g, name in enumerate(names):
        training = finished(out, Job("generator", name, {"name": name, "training": {"kimg": 40}}))
        jobs.append(training)
        for kimg in (10, 20, 30, 40):
            own = name if kimg == 40 else f"{name}-{kimg}kimg"
            spec: dict[str, Any] = {"name": own} | ({} if kimg == 40 else {"snapshot_kimg": kimg})
            sample = finished(out, Job("sample", own, spec, (("generator", training.id),)))
            dice = 0.1 + 0.015 * kimg + 0.03 * g
            row = {"channel": "mean", "extractor": "random", "metric": "frechet_distance", "value": 1 / dice}
            quality = finished(
                out, Job("quality", own, {"name": own}, (("sample", sample.id),)),
                quality={"rows": [row, {**row, "channel": "T1w", "value": 5}, {**row, **UNDEFINED},
                                  {**row, "metric": "coverage", "value": 1 - dice}]},
            )  # fmt: skip
            distance = {"measure": "area_wasserstein", "class_name": "ET", "value": float(kimg % 20)}
            code = {"measure": "code_distance", "class_name": "any", "synthetic": 2.0}
            told = finished(
                out, Job("annotations", own, {"name": own}, (("sample", sample.id),)),
                annotations={"distances": [distance], "values": [code]},
            )  # fmt: skip
            for kind, score in (("synthetic", dice), ("both", 0.5)):
                cell = {"training": kind, "generator": own, "segmenter": "unet", "augmentation": True, "repeat": 0}
                tested = finished(out, Job("evaluate", f"{kind} {own}", {"cell": cell}))
                rows_of(score, kimg + g, own).to_parquet(job_folder(out, tested) / "scores.parquet")
                jobs.append(tested)
            jobs += [sample, quality, told]
    write_json(out / "plan.json", {"jobs": [job.as_dict() for job in jobs]})
    return out


def test_a_study(tmp_path: Path) -> None:
    found = correlate([study(tmp_path / "out")], resamples=200)
    assert len(found.snapshots) == 8
    assert found.snapshots["run"].nunique() == 2
    first = found.snapshots.set_index("snapshot")
    assert first.loc["a-20kimg", "kimg"] == 20
    assert first.loc["b", "dice"] == pytest.approx(0.73, rel=0.05)  # without the region's zeros
    table = found.table.set_index("metric")
    frechet = table.loc["quality:random:frechet_distance"]
    assert frechet["spearman"] < -0.9
    assert frechet["low"] <= frechet["spearman"] <= frechet["high"]
    assert frechet["p_holm"] >= frechet["p"]
    assert found.table["metric"].iloc[0] == "quality:random:frechet_distance"  # small where the Dice is high, as wanted
    coverage = table.loc["quality:random:coverage"]
    assert (coverage["wanted"], coverage["spearman"]) == (1, frechet["spearman"])
    assert "1 metrics go the wrong way" in " ".join(found.words)
    assert "quality:random:coverage" in found.words[-1]
    assert coverage["p_within_holm"] >= coverage["p_within"]
    assert np.isnan(table.loc["annotations:code_distance", "spearman"])  # the same everywhere
    assert np.isnan(table.loc["quality:random:recall", "spearman"])
    assert np.isnan(table.loc["kimg", "p_holm"])
    assert "too few to be drawn" in " ".join(found.words)
    assert "NOTHING TO PREDICT" not in " ".join(found.words)
    both = correlate([tmp_path / "out"], training="both", resamples=200)
    assert "NOTHING TO PREDICT" in both.words[0]
    assert abs(both.table.set_index("metric").loc["quality:random:frechet_distance", "spearman"]) < 0.9


def test_the_report_finds_the_same_from_the_jobs(tmp_path: Path) -> None:
    out = study(tmp_path / "study")  # the name before those of trainings
    folders = [p.parent for p in out.glob("jobs/*/spec.json")]
    found, by_command = correlate_jobs(folders), correlate([out])
    assert found is not None
    columns = list(by_command.snapshots)
    a, b = (f.snapshots.sort_values("snapshot")[columns].reset_index(drop=True) for f in (found, by_command))
    pd.testing.assert_frame_equal(a, b)
    keys = ["metric", "spearman", "kendall"]
    a, b = (f.table.sort_values("metric")[keys].reset_index(drop=True) for f in (found, by_command))
    pd.testing.assert_frame_equal(a, b)
    few = correlate_jobs([f for f in folders if "10kimg" not in (f / "spec.json").read_text()])
    assert few is not None
    write_correlations(few, tmp_path / "few")
    assert len(json.loads((tmp_path / "few" / "correlate.json").read_text())["snapshots"]) == 6
    none = [f for f in folders if json.loads((f / "spec.json").read_text())["stage"] == "quality"]
    assert correlate_jobs(none) is None


def test_studies_together_have_patients_of_their_own(tmp_path: Path) -> None:
    found = correlate([study(tmp_path / "one"), study(tmp_path / "two", ("c",))], resamples=200)
    assert len(found.snapshots) == 12
    assert f"{2 * PATIENTS} test patients" in " ".join(found.words)


def test_a_table_of_ones_own_by_the_command(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"snapshot": list("abcde"), "dice": [0.1, 0.2, 0.3, 0.4, 0.5], "fid": [50, 40, 30, 20, 10], "note": "x"}
    )
    table.to_csv(tmp_path / "mine.csv", index=False)
    told = CliRunner().invoke(app, ["correlate", str(tmp_path / "mine.csv"), "-o", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "2/5!" in told.output
    assert "are undefined" not in told.output
    content = json.loads((tmp_path / "out" / "correlate.json").read_text())
    (metric,) = content["metrics"]
    assert (metric["metric"], metric["spearman"], metric["kendall"]) == ("fid", -1, -1)
    assert metric["p"] == pytest.approx(1 / 60)
    assert (tmp_path / "out" / "scatter.svg").read_text().startswith("<?xml")
    assert len(pd.read_csv(tmp_path / "out" / "snapshots.csv")) == 5


def test_what_cannot_be_answered_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError, match="no study was run"):
        correlate([tmp_path])
    pd.DataFrame({"snapshot": ["a"], "dice": [1], "fid": [2]}).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(UnderstudyError, match="1 snapshots with a Dice: at least 4"):
        correlate([tmp_path / "one.csv"])
    pd.DataFrame({"fid": [2]}).to_csv(tmp_path / "none.csv", index=False)
    with pytest.raises(UnderstudyError, match="no column `snapshot`"):
        correlate([tmp_path / "none.csv"])
    words = pd.DataFrame({"snapshot": list("abcd"), "dice": ["0.1", "0.2", "n/k", "0.4"], "fid": [4, 3, 2, 1]})
    words.to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(UnderstudyError, match="column dice holds something that is no number"):
        correlate([tmp_path / "words.csv"])
    with pytest.raises(UnderstudyError, match="stands alone"):
        correlate([tmp_path / "one.csv", tmp_path])
    out = study(tmp_path / "out")
    with pytest.raises(UnderstudyError, match="no segmenter 'swin'"):
        correlate([out], segmenter="swin")
