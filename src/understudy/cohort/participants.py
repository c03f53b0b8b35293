"""Who is from which hospital: the table beside the patients, and how its ids are matched with theirs."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
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
from understudy.lazy import pandas as pd

_UNKNOWN = ("", "n/a")  # n/a: BIDS


def _plain(name: str) -> str:
    return name.strip().casefold().removeprefix("sub-")


# One after the other, until an id of the table and a patient have the same key and nobody else has it.
_KEYS: tuple[Callable[[str], str], ...] = (
    lambda name: name,
    lambda name: name.removeprefix("sub-"),
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
    asked = (config.participants, config.site_column, config.participant_column) != (
        AUTO,
        AUTO,
        PARTICIPANT_COLUMN,
    )
    if not path.is_file():
        if not asked:
            return {}, []
        raise UnderstudyError(
            "the table of participants does not exist",
            where=path,
            fix="correct `participants`, or remove what the study file says of the table and its columns",
        )
    table = _read(path)
    ids = _column(table, config.participant_column, path)
    sites = _column(table, SITE_COLUMN if config.site_column == AUTO else config.site_column, path)
    there = f"the table has {', '.join(map(str, table.columns))}"
    if sites is None and config.site_column == AUTO and (ids is not None or not asked):
        return {}, []  # BIDS tables often have no site
    if ids is None or sites is None:
        name, option = (
            (config.participant_column, "participant_column")
            if ids is None
            else (config.site_column, "site_column")
        )
        what, fix = f"the table of participants has no column {name}", f"set `{option}`; {there}"
        if asked:
            raise UnderstudyError(what, where=path, fix=fix)
        return {}, [Note(f"{what}: no patient has a site", fix, path)]
    return _matched(_one_site_each(table[ids], table[sites], path), names, path)


def _read(path: Path) -> pd.DataFrame:
    """The table as text, whatever separates its columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = next((mark for mark in "\t;," if mark in text.split("\n", 1)[0]), "\t")
        with warnings.catch_warnings(action="ignore", category=pd.errors.ParserWarning):
            # index_col: a row with a tab at its end would otherwise shift all columns by one
            return pd.read_csv(
                io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False
            ).fillna("")
    except PermissionError as error:
        raise UnderstudyError(
            "no permission to read the table of participants", where=path, fix="ask its owner (chmod u+r)"
        ) from error
    except ValueError as error:  # not text, or not a table
        raise UnderstudyError(
            f"the table of participants cannot be read ({str(error).strip()})",
            where=path,
            fix="save it as tab-separated text in UTF-8, or set `participants: null` to go without sites",
        ) from error


def _column(table: pd.DataFrame, wanted: str, path: Path) -> str | None:
    """The name of a column in the table: the same, or the same but for case and spaces around it."""
    if wanted in table:
        return wanted
    close = [str(name) for name in table if str(name).strip().casefold() == wanted.strip().casefold()]
    if len(close) > 1:
        raise UnderstudyError(
            f"the table of participants has the columns {' and '.join(close)}",
            where=path,
            fix=f"remove one, or name one of them in place of {wanted}",
        )
    return close[0] if close else None


def _one_site_each(ids: pd.Series, sites: pd.Series, path: Path) -> dict[str, str]:
    """Id -> site. Several rows of a patient (visits) must agree; a row without a site says nothing."""
    found: dict[str, str] = {}
    for name, site in zip(ids, (str(site).strip() for site in sites), strict=True):
        site = UNKNOWN_SITE if site.lower() in _UNKNOWN else site
        before = found.get(name, UNKNOWN_SITE)
        if before and site and before != site:
            raise UnderstudyError(
                f"the table of participants says that {name} is from {before} and from {site}",
                where=path,
                fix="give the patient one site in all rows",
            )
        found[name] = before or site
    return found


def _matched(
    table: Mapping[str, str], names: Mapping[str, str], path: Path
) -> tuple[dict[str, str], list[Note]]:
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
