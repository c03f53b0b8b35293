"""Copies of validation and test patients in a synthetic set: what do evaluate, audit, screen and release find?

    python benchmarks/planted_leaks.py            # 1 minute of processor time
    python benchmarks/planted_leaks.py --small    # 100 slices at 5 % only

Of 200 slices of artificial people 1, 5 and 30 % are replaced by slices of validation or of test patients, as they are
("whole") or shifted by some pixels ("moved"). A row a set: how many copies the reading of a foreign folder (evaluate)
and the audit name with the right part of the split, and how many are left after screening and in a release.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from understudy.exchange.export import export_images
from understudy.io.files import read_json
from understudy.memorization.config import AuditConfig
from understudy.memorization.controls import moved as move
from understudy.memorization.perform import audit
from understudy.memorization.screen import rows_left, screen
from understudy.release.gate import Audited
from understudy.slices import SliceSet
from understudy.study.config.schema import load_study
from understudy.study.engine.run import run_study

STUDY = """
name: {name}
phantom: {{patients: 24, shape: [64, 64, 40], sites: 1, seed: {seed}}}
slices: {{resolution: 32, scaling: robust}}
split: {{test_patients: 6, validation_fraction: 0.3}}
trainings: [real]
"""
CONFIG = AuditConfig(copies=40, splits=10, resamples=200, within=0)


def run(folder: Path, text: str, name: str, until: str) -> Path:
    (folder / f"{name}.yaml").write_text(text)
    ran = run_study(load_study(folder / f"{name}.yaml"), folder / name, "cpu", progress=False, until=until)
    if ran.failed:
        raise SystemExit(str(ran.failed))
    return folder / name


def planted(real: SliceSet, others: SliceSet, part: str, count: int, total: int, moved: bool) -> SliceSet:
    """New slices, of which the first `count` are copies."""
    rng = np.random.default_rng(1)
    images, labels = others.read(np.sort(rng.choice(len(others), total, replace=False)))
    copies, marks = real.read(np.sort(rng.choice(real.rows(split=part), count, replace=False)))
    if moved:
        copies, marks = move(copies, marks, rng, 2 / copies.shape[-1])
    images[:count], labels[:count] = copies, marks
    return SliceSet.from_arrays(images, labels, channels=real.channels, classes=real.classes)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--small", action="store_true")
    small = arguments.parse_args().small
    total, shares = (100, (0.05,)) if small else (200, (0.01, 0.05, 0.3))
    with tempfile.TemporaryDirectory() as place:
        folder, sets = Path(place), {}
        texts = {name: STUDY.format(name=name, seed=seed) for name, seed in (("out", 1), ("others", 7))}
        real, others = (SliceSet.open(run(folder, texts[name], name, "prepare") / "real") for name in texts)
        for part in ("val", "test"):
            for share in shares:
                for moved in (False, True):
                    count = round(share * total)
                    name = f"{part}-{count}-{'moved' if moved else 'whole'}"
                    sets[name] = part, count, planted(real, others, part, count, total, moved).save(folder / name)
                    export_images(sets[name][2], folder / f"{name}-png", progress=False)
        generators = "".join(f"  {name}: {{folder: {name}-png}}\n" for name in sets)
        study = texts["out"].replace("trainings: [real]", f"generators:\n{generators}trainings: [real, synthetic]")
        out = run(folder, study, "out", "sample")
        print(f"{'of ' + str(total):16} planted  evaluate  audit  left by screen  left by release  others taken out")
        for name, (part, count, made) in sets.items():
            read = out / "synthetic" / name
            named = read_json(read.resolve().parent / "leaks.json")["parts"]
            done = audit(real, real, made, CONFIG)
            done.save(folder / "audits" / name)
            found = done.slices["leaked"].to_numpy()
            left, _ = screen(made, folder / "audits" / name, folder / f"{name}-screened")
            again = Audited(made, real, real, folder / "audits" / name).recheck("cpu", False)
            kept, _ = rows_left(made, again.table, again.numbers, "cpu", False)
            print(
                f"{name:16} {count:7}  {sum(named.get(str(row)) == part for row in range(count)):8}"
                f"  {int((found[:count] == part).sum()):5}"
                f"  {int((left.index['row_before'] < count).sum()):14}  {int((kept < count).sum()):15}"
                f"  {total - count - int((left.index['row_before'] >= count).sum()):16}",
                flush=True,
            )


if __name__ == "__main__":
    main()
