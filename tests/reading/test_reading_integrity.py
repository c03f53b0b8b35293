"""What was changed between preparing and analysing is found, whichever file it is in."""

import json
import sqlite3

import pytest
from made_reading import answer_all, made_set

from understudy.errors import UnderstudyError
from understudy.reading import store as store_module
from understudy.reading.analyse import analyse
from understudy.reading.prepare import Design, prepare
from understudy.reading.store import Answer, Call, Store, checked_answers


@pytest.fixture
def read(tmp_path):
    """A study that two readers have read: its folder and its key."""
    real = made_set(tmp_path / "real", [("a", "test", 4), ("b", "val", 4)])
    made = {"gan": made_set(tmp_path / "gan", count=8, seed=1)}
    out, key = tmp_path / "study", tmp_path / "key.json"
    prepare(real, made, out, key, Design(real_count=6, pixels=32, repeats=0.25))
    with Store(out) as store:
        store.begin()
    answer_all(out, key, lambda reader, entry: {"call": "real", "confidence": 3})
    return out, key


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def in_answers(study, *words):
    with sqlite3.connect(study / "answers.sqlite") as base:
        for name in ("answers_stay", "answers_remain"):
            base.execute(f"DROP TRIGGER {name}")
        for command in words:
            assert base.execute(command).rowcount == 1
    base.close()


def picture(study):
    return sorted((study / "images").iterdir())[0]


TAMPERED = {
    "margin": (lambda s, k: edited(s / "study.json", lambda c: c.update(margin=0.5)), "study.json"),
    "item taken out": (lambda s, k: edited(s / "items.json", lambda c: c.pop()), "items.json"),
    "panels exchanged": (
        lambda s, k: edited(s / "items.json", lambda c: c[0].update(panels=c[1]["panels"])), "items.json"),
    "picture": (lambda s, k: picture(s).write_bytes(picture(s).read_bytes()[:-1] + b"x"), "picture"),
    "one more picture": (lambda s, k: (s / "images" / "0.png").write_bytes(b""), "picture"),
    "key": (lambda s, k: edited(k, lambda c: c["items"].popitem()), "key"),
    "answer": (
        lambda s, k: in_answers(s, "UPDATE answers SET value = replace(value, 'real', 'synthetic') WHERE id = 3"),
        "answer 3 of 30"),
    "answer taken out": (lambda s, k: in_answers(s, "DELETE FROM answers WHERE id = 7"), "answer 7 of 29"),
    "answer put in": (
        lambda s, k: in_answers(s, "INSERT INTO answers SELECT 31, 'bo', item, value, 1, '', '', 'n', chain"
                                   " FROM answers WHERE id = 30"), "answer 31 of 31"),
    "study when begun": (
        lambda s, k: in_answers(s, "UPDATE begun SET sha256 = 'x' WHERE file = 'items.json'"), "another items.json"),
    "not a database": (lambda s, k: (s / "answers.sqlite").write_bytes(b"0" * 5000), "read"),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_changed_is_named(read, name):
    change, message = TAMPERED[name]
    analyse(*read)  # before, all is well
    change(*read)
    with pytest.raises(UnderstudyError, match=message):
        analyse(*read)


def test_a_study_that_was_changed_is_not_served_on(read):
    study, _ = read
    edited(study / "items.json", lambda content: content.pop())
    with Store(study) as store, pytest.raises(UnderstudyError, match=r"items\.json"):
        store.begin()


def test_the_order_of_answers_is_not_that_of_the_clock(read, monkeypatch):
    study, _ = read
    rows, head = checked_answers(study)
    monkeypatch.setattr(store_module, "_now", lambda: "1970-01-01T00:00:00.000+00:00")  # the clock was set back
    with Store(study) as store:
        store.add(
            "ann", Answer(item=rows[0]["item"], value=Call(call="synthetic", confidence=1), seconds=1, nonce="f" * 32)
        )
        assert store.head() != head
        assert store.last("ann")[rows[0]["item"]][0]["call"] == "synthetic"
        assert store.progress()[0:0] == []
    rows, _ = checked_answers(study)
    assert rows[-1]["at"] < rows[0]["at"]


def test_a_store_of_an_older_version_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "answers.sqlite") as base:
        base.execute("create table answers(id integer primary key, reader, item, value, seconds, comment, at, nonce)")
    base.close()
    with pytest.raises(UnderstudyError, match="older version"):
        Store(tmp_path)
