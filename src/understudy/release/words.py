"""What no package may hold (ids, sites, paths, this machine), and how a text is searched for it.

A word is looked for in other letters (case, accents, NFKD), with other separators or none, inside other words, and its
digits alone. How far depends on its length, or the patient "1" would be in every text:

    6 characters with letters and digits, or 8 letters: anywhere, also inside other words
    4 characters, not all digits: as a whole word
    6 digits of a patient's id: as a whole number, in groups that up to three signs separate, or grouped as in the id
    fewer, or in the templates that every package is made from: not in texts; `Words.unsought` counts these
"""

import html
import re
import socket
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote

from understudy.slices import SliceSet

NEUTRAL = "syn"  # released slices are called syn000000, syn000001, ...
_WHOLE, _INSIDE, _LETTERS, _DIGITS, _PATHS = 4, 6, 8, 6, 10  # characters from which on a spelling is looked for
_GROUPS = 6  # numbers that an id may consist of
_COMMON = {
    "root", "user", "admin", "ubuntu", "localhost", "debian", "home", "data", "hospital", "clinic", "unknown", "",
}  # fmt: skip
_COLUMNS = {"subject": "a patient's id", "id": "a slice's id", "site": "a site's name"}  # of an index; patients first
_PLAIN = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i"})
_SPELT_OUT = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe"})
_LOOK_ALIKE = str.maketrans("авекмнорстухіјαβεικνορτυχ", "abekmhopctyxijabeiknoptux")  # Cyrillic and Greek
_TOKEN = re.compile(r"[^\W\d_]+|\d+")
_GROUPED = re.compile(r"\d+(?:[\W_]{1,3}\d+)*")
_RATE = re.compile(r"(?<![\w.])0\.\d+(?![\d.])")  # as in `"p": 0.012`, which is not the patient P0012
_MEASURED = re.compile(r"(?<![\w.])(?:0\.\d+|\d{1,3}\.(?!\d{3}(?!\d))\d+)(?![\d.])")  # a decimal, no id
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|[nrtbf/\"\\])")
_HASH = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{64}(?![0-9a-zA-Z])")
_COUNTED = re.compile(rf"(?<![0-9a-zA-Z])(?:{NEUTRAL}|shard-)\d{{6,}}(?!\d)")  # released slices, shards
_TAG = re.compile(r"<[^<>]{1,200}>")
_INLINE = re.compile(r"</?(?:[abiu]|em|strong|span|tspan|code|su[bp]|wbr|mark|font)\b[^>]*>|[*`]|<!--|-->")
# what the software itself writes into documents: the names of patients in an audit, colours, names in figures
OURS = re.compile(r"\bpatient \d{1,4}\b|(?<=: )#[0-9a-f]{6}(?=[\";}])|(?:(?<=id=\")|(?<=#))[a-z][0-9a-f]{10}(?=[\")])")
_PATH = re.compile(
    r"(?<![\w./<~])/[\w-][\w.-]*(?:/[\w-][\w.-]*)+|(?<![\w/])~\w*/[\w.-]+|(?<![A-Za-z])[A-Za-z]:\\{1,2}\w"
    r"|(?<!\\)\\{2,4}\w[\w.-]*\\{1,2}\w|\b(?:file|smb|nfs|afp|sftp|ssh):/{1,3}\w"
)


def fold(text: str) -> str:
    """Without case, accents and compatibility forms, digits as 0 to 9: "Ｍüller ①" gives "muller 1"."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept = (c for c in plain.translate(_PLAIN).translate(_LOOK_ALIKE) if unicodedata.category(c) not in ("Mn", "Cf"))
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in kept)


def _foldings(text: str) -> set[str]:
    """As `fold`; with two letters in place of an umlaut; without zeros before numbers."""
    found = {fold(text), fold(unicodedata.normalize("NFC", text).lower().translate(_SPELT_OUT))}
    return found | {re.sub(r"(?<!\d)0+(?=\d)", "", one) for one in found}


def _squeezed(folded: str) -> str:
    return "".join(_TOKEN.findall(folded))


def secrets_of(real: Sequence[SliceSet], paths: Sequence[Path] = (), named: Iterable[str] = ()) -> dict[str, str]:
    """Word -> what it is: what no file may hold. Sites that are `named` on purpose are left out."""
    found: dict[str, str] = {}
    allowed = {_squeezed(fold(site)) for site in named}
    for column, what in _COLUMNS.items():
        for slices in (s for s in real if column in s.index):
            for word in map(str, slices.index[column].dropna().unique()):
                if column != "site" or _squeezed(fold(word)) not in allowed:
                    found.setdefault(word, what)
    found |= {str(p.absolute()): "a path" for p in (*paths, Path.home())} | {socket.gethostname(): "the machine's name"}
    return {word: what for word, what in found.items() if _squeezed(fold(word)) not in _COMMON}


class Words:
    """Words that texts are searched for.

    Attributes:
        count: of all words.
        unsought: of those that no text is searched for: too short, or in the templates.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.count, self.unsought = len(secrets), 0
        self._what, self._numbers = dict[str, str](), dict[str, str]()  # spelling, number -> what it is
        self._starts: defaultdict[str, list[tuple[str, bool, bool]]] = defaultdict(list)  # first letters -> spellings
        for word, what in secrets.items():
            if what == "a slice's id" and any(True for _ in self._spellings(word)):
                continue  # it holds its patient's, by which it is found
            spelt = {s for s in map(_squeezed, _foldings(word)) if self._add(s, what)}
            numbers = set(_numbers_in(fold(word), whole=True)) if what == "a patient's id" else set[str]()
            self._numbers |= dict.fromkeys(numbers, what)
            self.unsought += not spelt and not numbers
        rooms = ("understudy.release", "understudy.report")
        texts = (p.read_text(encoding="utf-8") for room in rooms for p in (files(room) / "templates").iterdir())
        for spelling in set(self._spellings("\n".join(texts))):
            self._starts[spelling[:_WHOLE]] = [s for s in self._starts[spelling[:_WHOLE]] if s[0] != spelling]
            self.unsought += 1

    def _add(self, spelling: str, what: str) -> bool:
        """Whether it is long enough to be looked for."""
        digits = sum(map(str.isdigit, spelling))
        inside = len(spelling) >= (_INSIDE if digits else _LETTERS)
        few = inside and digits < 4  # "patient1" is not found in "patient 12"; four digits may stand beside others
        entry = spelling, not inside or (few and spelling[0].isdigit()), not inside or (few and spelling[-1].isdigit())
        if len(spelling) < (_PATHS if what == "a path" else _WHOLE) or digits == len(spelling):
            return False
        if spelling not in self._what:
            self._what[spelling] = what
            self._starts[spelling[:_WHOLE]].append(entry)
        return True

    def found_in(self, text: str, passed_over: re.Pattern[str] | None = None) -> list[str]:
        """What a text holds that it must not, in words that do not give it away."""
        found = {f"{self._what[h]} ({_masked(h)})" for h in _HASH.findall(text) if h in self._what}
        text = _COUNTED.sub(" ", _HASH.sub(" ", text))
        text = html.unescape(passed_over.sub(" ", text) if passed_over else text)
        decoded = _decoded(_decoded(text))  # a form may quote what was quoted already
        for reading in {text, decoded, _INLINE.sub("", decoded), _TAG.sub(" ", decoded)}:
            rated = _RATE.sub(" zz ", reading)  # letters, so that the words on both sides are not joined
            found |= {f"{self._what[s]} ({_masked(s)})" for s in self._spellings(rated)}
            found |= {f"{self._numbers[n]} ({_masked(n)})" for n in _numbers_in(fold(reading)) if n in self._numbers}
            found |= {f"a path ({path[:3]}…, {len(path)} characters)" for path in _PATH.findall(reading)}
        return sorted(found)

    def spoken(self, text: str) -> str:
        """The text, for a log; only its beginning where it gives something away."""
        return f"{text[:2]}… ({len(text)} characters)" if self.found_in(text) else text

    def _spellings(self, text: str) -> Iterator[str]:
        """Spellings of words that stand in a text."""
        for folded in _foldings(text):
            tokens = _TOKEN.findall(folded)
            squeezed, at, starts, ends = "".join(tokens), 0, set[int](), set[int]()
            for token in tokens:
                starts.add(at)
                at += len(token)
                ends.add(at)
            for i in range(len(squeezed) - _WHOLE + 1):
                for spelling, from_start, to_end in self._starts.get(squeezed[i : i + _WHOLE], ()):
                    whole = (i in starts or not from_start) and (i + len(spelling) in ends or not to_end)
                    if whole and squeezed.startswith(spelling, i):
                        yield spelling


def _numbers_in(folded: str, whole: bool = False) -> Iterator[str]:
    """Numbers of at least six digits, with and without zeros before them: "123-45-678" gives 12345678 and itself.

    Runs of digits that few signs separate are joined, all of them; with "-" between them also neighbours, as an id of
    several numbers has them. `whole`: of an id, whose runs belong together.
    """
    for group in _GROUPED.findall(re.sub(r"[^\W\d]+", "-", folded) if whole else _MEASURED.sub(" x ", folded)):
        written = re.findall(r"\d+", group)
        for runs in (written, [run.lstrip("0") for run in written]):
            widths = [len(runs)] if whole else range(2, min(len(runs), _GROUPS) + 1)
            grouped = ("-".join(runs[i : i + n]) for n in widths if n > 1 for i in range(len(runs) - n + 1))
            yield from (n for n in ("".join(runs), *runs, *grouped) if len(n) - n.count("-") >= _DIGITS)


def _masked(word: str) -> str:
    # enough to find it, too little to leak it into a log
    return f"{word[:2]}…, {len(word)} characters"


def _decoded(text: str) -> str:
    """Without the escapes of JSON, YAML, HTML and addresses."""

    def character(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(min(int(code, 16), 0x10FFFF)) if code else " "

    plain = _ESCAPE.sub(character, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unquote(html.unescape(plain))
