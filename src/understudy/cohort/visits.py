"""Which scans are visits of one person, as far as their names tell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

_DATE = r"(?:19|20)\d{6}|(?:19|20)\d\d[-_.]\d\d[-_.]\d\d"
_NUMBERED = r"ses|session|visit|time[-_]?point|tp|week|month|year|day|scan|run"
_NAMED = r"baseline|bl|follow[-_]?up|fu|pre[-_]?op|post[-_]?op|preoperative|postoperative|initial|recurrence"
# week-000-1 of LUMIERE is the first of two scans of a week
VISIT = rf"{_DATE}|(?:{_NUMBERED})[-_]?[a-z]?\d*(?:-\d+)?|(?:{_NAMED})[-_]?\d*"
IS_VISIT = re.compile(VISIT, re.IGNORECASE)

# "scan" and a number may be a patient's (mri_scan12): only behind another number is it surely a visit.
_LAST_VISIT = re.compile(
    rf"(?P<person>.+?)[-_. ](?:{_DATE}|(?:{_NAMED}|pre|post)[-_]?\d*)|"
    rf"(?P<numbered>.*\d)[-_. ](?:(?:{_NUMBERED})[-_]?[a-z]?\d*(?:-\d+)?|[tvmy]\d{{1,2}})",
    re.IGNORECASE,
)
# BraTS-GLI-00008-001 is the second scan of BraTS-GLI-00008.
_BRATS = re.compile(r"(?P<person>BraTS-[A-Za-z]+-\d+)-\d{3}")
# A short number or a letter behind a number: _11 and _21 of UPENN-GBM-00001_11, b of P01b.
_PERHAPS = re.compile(r"(?P<person>.*\d)(?:[-_. ]\d{1,2}|[-_. ]?[A-Da-d])")
_FEW = 4  # scans of a person, on average, up to which the last number of an id may be that of the scan


def person_of(scan: str) -> str:
    """The id without the visits at its end: p01 of p01_20200101 and of p01_ses-2; otherwise the id itself."""
    if match := _BRATS.fullmatch(scan):
        return match["person"]
    while match := _LAST_VISIT.fullmatch(scan):
        scan = match["person"] or match["numbered"]
    return scan


def persons_of(scans: Iterable[str]) -> dict[str, str]:
    """Scan's id -> person. Where all would be one person without a number (scan of scan_20200101), each is its own."""
    persons = {scan: person_of(scan) for scan in scans}
    names = set(persons.values())
    if len(names) == 1 and not any(letter.isdigit() for letter in names.pop()):
        return {scan: scan for scan in persons}
    return persons


def perhaps_one_person(persons: Iterable[str]) -> list[tuple[str, str]]:
    """Two ids of each person whose ids may differ by the visit alone, as -00001_11 and -00001_21 do."""
    alike: dict[str, list[str]] = defaultdict(list)
    persons = list(persons)
    for name in persons:
        if match := _PERHAPS.fullmatch(name):
            alike[match["person"]].append(name)
    numbered = sum(map(len, alike.values()))
    if numbered > _FEW * len(alike) or (len(alike) == 1 and numbered == len(persons)):
        return []  # the numbers of patients, not of visits
    return [(found[0], found[1]) for found in alike.values() if len(found) > 1]
