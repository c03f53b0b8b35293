"""Who is who: which scans are visits of one person, and the table (participants.tsv) that gives each a site."""

import csv
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from understudy.cohort.config import AUTO, PARTICIPANT_COLUMN, PARTICIPANTS, SITE_COLUMN, CohortConfig, Problem, note
from understudy.errors import UnderstudyError
from understudy.io.files import reading
from understudy.io.foreign import PARTICIPANT_TABLE

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
_BRATS = re.compile(r"(?P<person>BraTS-[A-Za-z]+-\d+)-\d{3}")  # BraTS-GLI-00008-001: second scan of BraTS-GLI-00008
# A short number or a letter behind a number: _11 and _21 of UPENN-GBM-00001_11, b of P01b.
_PERHAPS = re.compile(r"(?P<person>.*\d)(?:[-_. ]\d{1,2}|[-_. ]?[A-Da-d])")
_FEW = 4  # scans of a person, on average, up to which the last number of an id may be that of the scan
_UNKNOWN_SITES = ("", "n/a", "na", "nan", "none", "null", "unknown")


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
    alone = len(names) == 1 and not re.search(r"\d", min(names))
    return {scan: scan for scan in persons} if alone else persons


def perhaps_one_person(persons: Sequence[str]) -> list[tuple[str, str]]:
    """Two ids of each person whose ids may differ by the visit alone, as -00001_11 and -00001_21 do."""
    matches = [match for name in persons if (match := _PERHAPS.fullmatch(name))]
    alike = _grouped((match["person"], match.string) for match in matches)
    if len(matches) > _FEW * len(alike) or (len(alike) == 1 and len(matches) == len(persons)):
        return []  # the numbers of patients, not of visits
    return [(found[0], found[1]) for found in alike.values() if len(found) > 1]


def read_sites(config: CohortConfig, names: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """The site of each scan that the table names, and what is doubtful about the table.

    `names` is the person of each scan, which is the scan's own id for those scanned once.
    """
    if config.participants is None:
        return {}, []
    path = config.path / (PARTICIPANTS if config.participants == AUTO else config.participants)
    asked = (config.participants, config.site_column, config.participant_column) != (AUTO, AUTO, PARTICIPANT_COLUMN)
    if not path.is_file():
        if not asked:
            return {}, []
        fix = "correct `participants`, or remove it and its columns"
        raise UnderstudyError("the table of participants does not exist", where=path, fix=fix)
    header, rows = _read(path)
    ids = _column(header, config.participant_column, path)
    sites = _column(header, SITE_COLUMN if config.site_column == AUTO else config.site_column, path)
    if sites is None and config.site_column == AUTO and (ids is not None or not asked):
        return {}, []  # BIDS tables often have no site
    if ids is None or sites is None:
        option = "participant_column" if ids is None else "site_column"
        what = f"the table of participants has no column {getattr(config, option)}"
        fix = f"set `{option}`; the table has {', '.join(header)}"
        if asked:
            raise UnderstudyError(what, where=path, fix=fix)
        return {}, [note(path, f"{what}: no patient has a site", fix)]
    table, doubts = _one_site_each(header, rows, ids, sites, path)
    people, found = set(names.values()), dict[str, str]()
    for key in _KEYS:
        by_row, by_scan, by_person = (_grouped((key(n), n) for n in given) for given in (table, names, people))
        for scan, person in names.items():
            for name, others in ((scan, by_scan), (person, by_person)):
                row = by_row.get(key(name), [])
                if scan not in found and len(row) == len(others[key(name)]) == 1:
                    found[scan] = table[row[0]]
    named = {names[scan] for scan in found}
    if named != people:
        what = f"the table names {len(named)} of {len(people)} patients, and not {min(people - named)}"
        example = next(iter(table), "no row")
        doubts.append(note(path, what, f"write the ids as in the file names (not {example}), or `participants: null`"))
    return found, doubts


def _read(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The header, and line -> fields, whatever separates them; empty lines are left out."""
    with reading(path, PARTICIPANT_TABLE):
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        separator = next((mark for mark in "\t;," if mark in lines[0]), " ")
        if separator == " ":  # columns in line, by one space or several
            lines = [re.sub(" +", " ", line.strip()) for line in lines]
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
        if not rows:
            raise ValueError("it is empty")
        return rows[0][1], dict(rows[1:])


def _column(header: Sequence[str], wanted: str, path: Path) -> int | None:
    """The number of a column: of the same name, or the same but for case and spaces around it."""
    close = [name for name in header if name == wanted]
    close = close or [name for name in header if name.strip().casefold() == wanted.strip().casefold()]
    if len(close) > 1:
        what = f"the table of participants has the columns {' and '.join(close)}"
        raise UnderstudyError(what, where=path, fix=f"remove one, or name one of them in place of {wanted}")
    return header.index(close[0]) if close else None


def _one_site_each(
    header: Sequence[str], rows: Mapping[int, Sequence[str]], ids: int, sites: int, path: Path
) -> tuple[dict[str, str], list[Problem]]:
    """Id -> site. Several rows of a patient (visits) must agree; a row without a site says nothing."""
    found: dict[str, str] = {}
    spellings: dict[str, list[str]] = defaultdict(list)  # in the order in which they occur
    for line, row in rows.items():
        if len(row) < len(header) or any(field.strip() for field in row[len(header) :]):
            what = f"line {line} of the table of participants has {len(row)} fields, and the header {len(header)}"
            fix = "write n/a for what is not known, and quote text that holds the separator"
            raise UnderstudyError(what, where=path, fix=fix)
        name, site, before = row[ids], " ".join(_composed(row[sites]).split()), found.get(row[ids], "")
        if site.casefold() in _UNKNOWN_SITES:
            site = ""
        else:
            spelled = spellings[site.casefold()]
            spelled += [row[sites]] if row[sites] not in spelled else []
            site = " ".join(_composed(spelled[0]).split())
        if before and site and before != site:
            what = f"the table of participants says that {name} is from {before} and from {site}"
            raise UnderstudyError(what, where=path, fix="give the patient one site in all rows")
        found[name] = before or site
    several = [" and ".join(map(repr, same)) for same in spellings.values() if len(same) > 1]
    return found, [note(path, f"the sites {same} are taken as one", "write the site in one way") for same in several]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # ü may be one character or two (macOS)


def _plain(name: str) -> str:
    return _composed(name).strip().casefold().removeprefix("sub-")


# An id of the table is a patient's by the first of these keys that both have, and nobody else.
_KEYS: tuple[Callable[[str], str], ...] = (
    _composed,
    lambda name: _composed(name).removeprefix("sub-"),
    _plain,
    lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", _plain(name)),  # 0050772 and 50772
)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key, name in pairs:
        found[key].append(name)
    return found
