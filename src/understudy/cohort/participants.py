"""Who is from which hospital: the table beside the patients, and how its ids are matched with theirs."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from understudy.cohort.config import (
    AUTO,
    PARTICIPANT_COLUMN,
    PARTICIPANTS,
    SITE_COLUMN,
    UNKNOWN_SITE,
    CohortConfig,
    Note,
)
from understudy.errors import UnderstudyError

_UNKNOWN = ("", "n/a", "na", "nan", "none", "null", "unknown")


def _composed(name: str) -> str:
    """The letter ü may be one character or two (macOS)."""
    return unicodedata.normalize("NFC", name)


def _plain(name: str) -> str:
    return _composed(name).strip().casefold().removeprefix("sub-")


# One after the other, until an id of the table and a patient have the same key and nobody else has it.
_KEYS: tuple[Callable[[str], str], ...] = (
    _composed,
    lambda name: _composed(name).removeprefix("sub-"),
    _plain,
    lambda name: re.sub(r"(?<!\d)0+(?=\d)", "", _plain(name)),  # 0050772 and 50772
)


def read_sites(config: CohortConfig, names: Mapping[str, str]) -> tuple[dict[str, str], list[Note]]:
    """The site of each scan.

    Args:
        config: of the cohort.
        names: scan's id -> the person's name in the cohort, which is the id itself for those scanned once.

    Returns:
        Scan's id -> site, of those that the table names; and what is doubtful about the table.

    Raises:
        UnderstudyError: a table or column that the user named is not there, a table that cannot be read, a patient
            at two sites.
    """
    if config.participants is None:
        return {}, []
    path = Path(config.path) / (PARTICIPANTS if config.participants == AUTO else config.participants)
    asked = (config.participants, config.site_column, config.participant_column) != (AUTO, AUTO, PARTICIPANT_COLUMN)
    if not path.is_file():
        if not asked:
            return {}, []
        raise UnderstudyError(
            "the table of participants does not exist",
            where=path,
            fix="correct `participants`, or remove what the study file says of the table and its columns",
        )
    header, rows = _read(path)
    ids = _column(header, config.participant_column, path)
    sites = _column(header, SITE_COLUMN if config.site_column == AUTO else config.site_column, path)
    there = f"the table has {', '.join(header)}"
    if sites is None and config.site_column == AUTO and (ids is not None or not asked):
        return {}, []  # BIDS tables often have no site
    if ids is None or sites is None:
        name, option = (
            (config.participant_column, "participant_column") if ids is None else (config.site_column, "site_column")
        )
        what, fix = f"the table of participants has no column {name}", f"set `{option}`; {there}"
        if asked:
            raise UnderstudyError(what, where=path, fix=fix)
        return {}, [Note(f"{what}: no patient has a site", fix, path)]
    table, notes = _one_site_each(header, rows, ids, sites, path)
    found, doubts = _matched(table, names, path)
    return found, notes + doubts


def _read(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The header, and line -> fields, whatever separates them; lines without any are left out."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        separator = next((mark for mark in "\t;," if mark in lines[0]), " ")
        if separator == " ":  # columns in line, by one space or several
            lines = [re.sub(" +", " ", line.strip()) for line in lines]
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
        rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
        if not rows:
            raise ValueError("it is empty")
        return rows[0][1], dict(rows[1:])
    except PermissionError as error:
        raise UnderstudyError(
            "no permission to read the table of participants", where=path, fix="ask its owner (chmod u+r)"
        ) from error
    except (ValueError, csv.Error) as error:  # not text, or not a table
        raise UnderstudyError(
            f"the table of participants cannot be read ({str(error).strip()})",
            where=path,
            fix="save it as tab-separated text in UTF-8, quotation marks in pairs, or set `participants: null` to go"
            " without sites",
        ) from error


def _column(header: Sequence[str], wanted: str, path: Path) -> int | None:
    """The number of a column: of the same name, or the same but for case and spaces around it."""
    close = [name for name in header if name == wanted]
    close = close or [name for name in header if name.strip().casefold() == wanted.strip().casefold()]
    if len(close) > 1:
        raise UnderstudyError(
            f"the table of participants has the columns {' and '.join(close)}",
            where=path,
            fix=f"remove one, or name one of them in place of {wanted}",
        )
    return header.index(close[0]) if close else None


def _one_site_each(
    header: Sequence[str], rows: Mapping[int, Sequence[str]], ids: int, sites: int, path: Path
) -> tuple[dict[str, str], list[Note]]:
    """Id -> site. Several rows of a patient (visits) must agree; a row without a site says nothing."""
    found: dict[str, str] = {}
    spellings: dict[str, dict[str, None]] = {}
    for line, row in rows.items():
        if len(row) < len(header) or any(field.strip() for field in row[len(header) :]):
            raise UnderstudyError(
                f"line {line} of the table of participants has {len(row)} fields, and the header {len(header)}",
                where=path,
                fix="write n/a for what is not known, and put text that holds the separator in quotation marks",
            )
        name, site = row[ids], " ".join(_composed(row[sites]).split())
        if site.casefold() in _UNKNOWN:
            site = UNKNOWN_SITE
        else:
            same = spellings.setdefault(site.casefold(), {})
            same[row[sites]] = None
            site = " ".join(_composed(next(iter(same))).split())
        before = found.get(name, UNKNOWN_SITE)
        if before and site and before != site:
            raise UnderstudyError(
                f"the table of participants says that {name} is from {before} and from {site}",
                where=path,
                fix="give the patient one site in all rows",
            )
        found[name] = before or site
    notes = [
        Note(f"the sites {' and '.join(map(repr, same))} are taken as one", "write the site in one way", path)
        for same in spellings.values()
        if len(same) > 1
    ]
    return found, notes


def _matched(table: Mapping[str, str], names: Mapping[str, str], path: Path) -> tuple[dict[str, str], list[Note]]:
    """Scan's id -> site by the first key that tells a patient and a row from all others."""
    sites: dict[str, str] = {}
    for key in _KEYS:
        rows, scans, persons = (_by_key(key, given) for given in (table, names, set(names.values())))
        for scan, person in names.items():
            for name, others in ((scan, scans), (person, persons)):
                row = rows.get(key(name), [])
                if scan not in sites and len(row) == len(others[key(name)]) == 1:
                    sites[scan] = table[row[0]]
    people, named = set(names.values()), {names[scan] for scan in sites}
    if named == people:
        return sites, []
    note = Note(
        f"the table names {len(named)} of {len(people)} patients, the others are of unknown site"
        f" ({min(people - named)} is not in it)",
        f"write the ids as in the file names (the table has for example {next(iter(table), 'no row')}), or set"
        " `participants: null`",
        path,
    )
    return sites, [note]


def _by_key(key: Callable[[str], str], names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found
