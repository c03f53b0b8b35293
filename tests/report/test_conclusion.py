"""The four lines of a study's answer: the same in the terminal, on the page and in report.json."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.report.conclusion import LINES, conclusion, in_terminal
from understudy.report.sections.opening import Part, Verdict


def verdict(name: str, useful: str, copy: str) -> Verdict:
    titles = {"no_sign": "No sign of copies", "copies_found": "Yes: copies found", "cannot_tell": "Cannot tell"}
    nothing = Part("alone", "", [])
    return Verdict(name, name.upper(), Part(useful, "", []), Part(copy, titles.get(copy, copy), []), nothing)


@pytest.mark.parametrize(
    ("useful", "copy", "release", "following"),
    [
        ("can_replace", "no_sign", "Nothing that was measured speaks", "understudy release slices --study OUT"),
        ("can_replace", "copies_found", "No, copies of patients were found", "understudy screen OUT/synthetic/a"),
        ("can_replace", "cannot_tell", "No, the search for copies cannot tell", "understudy run x.yaml (after what"),
        ("can_replace", "not_audited", "No, copies were not searched for", "understudy audit --training OUT/real"),
        ("withheld", "no_sign", "No, it holds copies of patients on whom", "understudy run x.yaml (after making"),
        ("no", "no_sign", "No copy was found, but nothing shows", "understudy run x.yaml (after a longer"),
        ("unanswered", "no_slices", "There is nothing to release.", "understudy run x.yaml"),
    ],
)  # fmt: skip
def test_one_generator(useful: str, copy: str, release: str, following: str) -> None:
    lines = conclusion("Yes: 96 %.", [verdict("a", useful, copy)], "understudy run x.yaml")
    assert list(lines) == list(LINES)
    assert lines["useful"] == "Yes: 96 %."
    assert lines["release"].startswith(release)
    assert lines["next"].startswith(following)


def test_of_several_each_is_named_and_the_one_that_may_go_comes_next() -> None:
    asked = [("a", "can_replace", "copies_found"), ("b", "helps", "no_sign"), ("c", "no", "no_sign")]
    found = [verdict(*one) for one in asked]
    lines: dict[str, Any] = conclusion("Yes.", found, "understudy run x.yaml")
    assert lines["copies"] == "A: copies of patients were found. B and C: no sign of copies."
    assert lines["release"].startswith("A: no, copies of patients were found. B: nothing that was measured speaks")
    assert lines["next"].startswith("understudy release slices --study OUT --generator b --about")
    shown = in_terminal(lines, "/results").splitlines()
    assert [line.split("  ")[0] for line in shown] == list(LINES.values())
    assert "--study /results --generator b" in shown[-1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--study OUT --generator ROUTE", "--study 'my runs/q' --generator ROUTE"),
        ("OUT/real, OUT/synthetic/OUT", "'my runs/q'/real, 'my runs/q'/synthetic/OUT"),
        ("LAYOUT.yaml of OUTCOMES, xOUT OUT", "LAYOUT.yaml of OUTCOMES, xOUT 'my runs/q'"),
    ],
)
def test_only_the_word_for_the_folder_is_replaced(words: str, expected: str) -> None:
    assert in_terminal(dict.fromkeys(LINES, words), "my runs/q").splitlines()[0].endswith(expected)
