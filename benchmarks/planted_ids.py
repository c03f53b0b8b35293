"""Patients' ids planted in packages: every spelling in every place of every format, and packages that are clean.

    python benchmarks/planted_ids.py
    python benchmarks/planted_ids.py --every 7 --workers 2

Spellings and places are those of `tests/release/planted.py`; which of its six ids is planted changes from one to the
next. `--every N` tries each N-th combination of spelling and place. A package passes if its scan finds nothing. Prints
for each format how many plants were tried and passed (none should), and how many clean packages were refused (none
should), whatever the patients are called. The ids are made up.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "release"))
from made_release import every_format
from planted import FORMS, IDS, SECRETS, places

from understudy.exchange.description import certificate_of
from understudy.release.scan import scan
from understudy.release.words import Words

COHORTS = {
    "numbers": [str(i) for i in range(1000)],
    "six digits": [f"{i:06d}" for i in range(0, 10**6, 499)],
    "letters": list("abcdefghijklmnopqrstuvwxyz"),
    "patient_N": [f"patient_{i}" for i in range(1000)],
    "P0N": [f"P{i:04d}" for i in range(1000)],
    "sub-N": [f"sub-{i:02d}" for i in range(1000)],
    "case N": [f"case {i}" for i in range(1000)],
    "BraTS": [f"BraTS20_Training_{i:03d}" for i in range(1, 370)],
    "UPENN": [f"UPENN-GBM-{i:05d}_11" for i in range(1, 612)],
    "TCGA": [f"TCGA-{c}-{i}" for c in ("CS", "DU", "FG", "HT") for i in range(4941, 5900, 9)],
    "UCSF": [f"UCSF-PDGM-{i:04d}" for i in range(1, 542)],
    "dates": [f"{y}{m:02d}{d:02d}" for y in range(1940, 2010) for m in range(1, 13) for d in (1, 15)],
    "slices in memory": [f"slice{i:06d}" for i in range(1000)],
}


def combinations(formats: list[str], every: int) -> Iterator[tuple[str, str, str, str]]:
    """Format, place, spelling and id."""
    ids = itertools.cycle(IDS)
    product = ((f, p, s) for f in formats for p in places(f) for s in FORMS)
    for number, (package, place, form) in enumerate(product):
        word = next(ids)
        if number % every == 0:
            yield package, place, form, word


def tried(root: Path, batch: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Those of a batch that passed."""
    words, passed = Words(SECRETS), []
    with tempfile.TemporaryDirectory() as temporary:
        for package, place, form, word in batch:
            folder = Path(temporary) / "package"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(root / package, folder)
            (folder / "evidence.html").write_text("<!doctype html><p>evidence</p>")  # long, and searched each time
            places(package)[place](folder, FORMS[form](word))
            if not scan(folder, certificate_of(root / package), [], words).findings:
                passed.append((package, place, form, word))
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="try each N-th combination")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        packages = every_format(root)
        wanted = list(combinations(list(packages), options.every))
        batches = [wanted[i : i + 50] for i in range(0, len(wanted), 50)]
        with ProcessPoolExecutor(options.workers) as pool:
            passed = [one for found in pool.map(tried, itertools.repeat(root), batches) for one in found]
        print("| format | places | spellings | plants tried | passed | clean packages | refused |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        alarms: list[str] = []
        for name, package in packages.items():
            count, leaks = (sum(one[0] == name for one in listed) for listed in (wanted, passed))
            refused = 0
            for cohort, ids in COHORTS.items():
                found = scan(package, certificate_of(package), [], Words(dict.fromkeys(ids, "a patient's id"))).findings
                refused += bool(found)
                alarms += [f"refused: {name}, {cohort}: {text}" for text in found]
            print(f"| {name} | {len(places(name))} | {len(FORMS)} | {count:,} | {leaks} | {len(COHORTS)} | {refused} |")
    for one in passed:
        print("passed:", *one, sep="  ")
    print(*alarms, sep="\n")


if __name__ == "__main__":
    main()
