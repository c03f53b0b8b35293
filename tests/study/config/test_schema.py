"""The study file: round trips, presets, and errors that name the line, the field and what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import UnderstudyError
from understudy.study.config.networks import kinds_meant
from understudy.study.config.schema import Study, load_study, preset, preset_text, presets
from understudy.study.config.yaml import fields_at, merged, parse_yaml

SEGMENTERS = st.fixed_dictionaries({"training": st.fixed_dictionaries({"lr": st.floats(1e-6, 1)})})
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)
# those that look like a misspelt kind ("swn") are refused, see below
GENERATOR_NAMES = st.sampled_from(["stylegan2", "stylegan2-b", "diffusion", "progan"])
SEGMENTER_NAMES = NAMES.filter(lambda name: not kinds_meant(name, "segmenters"))


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return path


def message(path: Path) -> str:
    with pytest.raises(UnderstudyError) as caught:
        load_study(path)
    return caught.value.message


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    generators = draw(
        st.dictionaries(GENERATOR_NAMES, st.fixed_dictionaries({"samples": st.integers(1, 10**6)}), max_size=3)
    )
    trainings = ["real", "synthetic", "both"] if generators else ["real"]
    return {
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**40)),
        "phantom": {"patients": draw(st.integers(1, 50)), "sites": draw(st.integers(1, 5))},
        "slices": {"resolution": draw(st.sampled_from([32, 64, 128])), "rule_fraction": draw(st.floats(0, 0.9))},
        "generators": generators,
        "segmenters": draw(st.dictionaries(SEGMENTER_NAMES, SEGMENTERS, min_size=1, max_size=2)),
        "trainings": draw(st.lists(st.sampled_from(trainings), min_size=1, unique=True)),
        "augmentation": draw(st.lists(st.booleans(), min_size=1, unique=True)),
        "repeats": draw(st.integers(1, 20)),
    }


@settings(max_examples=40, deadline=None)
@given(content=studies())
def test_a_study_survives_being_written_and_read(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("study") / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    study = load_study(path)
    path.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    again = load_study(path)
    assert again.model_dump() == study.model_dump()
    assert again.hash == study.hash
    assert study.name == content["name"]
    assert list(study.segmenters) == sorted(content["segmenters"])  # safe_dump sorts keys


def test_every_preset_is_a_valid_study() -> None:
    assert presets() == ["paper", "quickstart", "quickstart-five", "workstation"]
    for name in presets():
        study = Study.model_validate(preset(name))
        assert study.name == name


def test_the_paper_preset_is_the_papers_protocol() -> None:
    study = Study.model_validate(preset("paper"))
    assert (study.slices.resolution, study.slices.scaling, study.repeats) == (256, "max", 10)
    assert study.generators["stylegan2"].samples == 100_000
    training = study.segmenters["unet"].training
    assert (training.samples, training.lr, training.momentum) == (30_000_000, 0.05, 0.99)


def test_a_study_file_changes_one_field_of_a_preset(tmp_path: Path) -> None:
    path = write(tmp_path, "preset: quickstart\nname: mine\ngenerators: {stylegan2: {samples: 77}}\n")
    mine, base = load_study(path), load_study("quickstart")
    assert mine.generators["stylegan2"].samples == 77
    assert mine.generators["stylegan2"].training == base.generators["stylegan2"].training
    assert mine.name == "mine"


def test_a_cohort_takes_the_place_of_the_presets_phantoms(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, "preset: quickstart\ncohort: {path: patients}\n"))
    assert study.phantom is None
    assert study.cohort is not None
    assert study.cohort.path == tmp_path / "patients"


def test_null_drops_a_generator_and_sets_a_field(tmp_path: Path) -> None:
    text = "preset: quickstart\ngenerators: {stylegan2: null, other: {model: {kind: stylegan2, conv_clamp: null}}}\n"
    study = load_study(write(tmp_path, text))
    assert "stylegan2" not in study.generators
    assert list(study.generators)[-1] == "other"
    assert study.generators["other"].model.conv_clamp is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("phantom: {}\nrepeats: 3\nreapeats: 4\n", ["line 3", "`reapeats`", "did you mean `repeats`?"]),
        (
            "phantom: {}\ngenerators:\n  stylegan2:\n    training:\n      batch: 8\n      kimgs: 4\n",
            ["line 6", "`generators.stylegan2.training.kimgs`", "did you mean `kimg`?", "batch"],
        ),
        ("phantom:\n  patients: many\n", ["line 2", "`phantom.patients`", "whole number", "'many'"]),
        (
            "phantom: {}\ntrainings: [real, syntetic]\ngenerators: {stylegan2: {}}\n",
            ["line 2", "`trainings.1`", "real, synthetic, both", "did you mean synthetic?"],
        ),
        (
            "phantom: {}\ngenerators:\n  difusion: {recipe: quick}\n",
            ["line 3", "`generators.difusion`: is diffusion meant?", "model: {kind: diffusion}"],
        ),
        (
            "phantom: {}\ngenerators:\n  mine: {recipe: quick}\n",
            ["line 3", "`generators.mine`: which generator is this? The nearest name is", "progan, stylegan1"],
        ),
        (
            "phantom: {}\ntrainings: [real]\nslices: {resolution: 30}\n",
            ["line 3", "`slices.resolution`: should be a power of two", "given: 30"],
        ),
        ("phantom: {}\nrepeats: 0\ntrainings: [real]\n", ["line 2", "`repeats`", "equal to 1", "given: 0"]),
        ("phantom: {}\nname: a\nname: b\n", ["line 3", "`name` is given twice, first in line 2"]),
        ("phantom: {patients: 3\nname: x\n", ["not a valid YAML file", "line 2"]),
        ("- a\n- b\n", ["list of `name: value` lines"]),
        ("name: x\n", ["give either `cohort", "neither"]),
        ("phantom: {}\ncohort: {path: x}\ntrainings: [real]\n", ["give either `cohort", "both"]),
        ("phantom: {}\n", ["no `generators`"]),
        ("phantom: {}\n<<x: 1\ntrainings: [real]\n", ["`<<x` is not a known field"]),
        ("phantom: {}\ntrainings: [real]\nslices: {<x>: 1}\n", ["`slices.<x>` is not a known field"]),
        ("phantom: {}\nname: ../x\ntrainings: [real]\n", ["line 2", "`name`", "letters, digits"]),
        ("phantom: {}\ntrainings: [real, real]\n", ["line 2", "duplicate"]),
        ("preset: quickstrat\n", ["no preset 'quickstrat'", "line 1", "quickstart"]),
        (
            "phantom: {}\ngenerators:\n  stylegan2:\n    model: {channels: 7}\n",
            ["line 4", "`generators.stylegan2.model`", "`channels` cannot be set here"],
        ),
        (
            "phantom: {}\ngenerators:\n  g: {model: {kind: stylegan9}}\n",
            ["line 3", "`generators.g.model.kind`: should be progan", "did you mean stylegan"],
        ),
        (
            "phantom: {}\ngenerators:\n  diffusion: {model: {learn_sgma: true}}\n",
            ["line 3", "`generators.diffusion.model.learn_sgma`", "did you mean `learn_sigma`"],
        ),
        (
            "phantom: {}\ntrainings: [real]\nsegmenters:\n  u:\n    training: {seed: 5}\n",
            ["line 4", "`segmenters.u`", "`seed` cannot be set here"],
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    said = message(write(tmp_path, text))
    for part in expected:
        assert part in said
    assert "study.yaml" in said


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    said = message(write(tmp_path, "phantom: {}\nreapeats: 4\nslices: {resolutoin: 32}\ntrainings: [real]\n"))
    assert "2 problems" in said
    assert "did you mean `resolution`?" in said


def test_a_wrong_path_and_a_misspelt_preset_are_told_apart_from_files(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "nothing.yaml")
    with pytest.raises(UnderstudyError, match="did you mean quickstart"):
        load_study("quickstartt")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in message(tmp_path / "binary.yaml")


def test_files_of_the_split_are_relative_to_the_study_file(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, "phantom: {}\ntrainings: [real]\nsplit: {method: list, test: test.txt}\n"))
    assert study.split.test == str(tmp_path / "test.txt")


def test_seeds_differ_between_jobs_and_follow_the_study(tmp_path: Path) -> None:
    one, two = Study(phantom={}, trainings=["real"], seed=1), Study(phantom={}, trainings=["real"], seed=2)  # type: ignore[arg-type]
    seeds = {one.derived_seed("a"), one.derived_seed("b"), two.derived_seed("a"), one.derived_seed("a", 0)}
    assert len(seeds) == 4
    assert one.derived_seed("a") == Study(phantom={}, trainings=["real"], seed=1, name="other").derived_seed("a")  # type: ignore[arg-type]
    assert all(0 <= seed < 2**31 for seed in seeds)


@given(
    base=st.dictionaries(NAMES, st.integers() | st.dictionaries(NAMES, st.integers(), max_size=3), max_size=4),
    over=st.dictionaries(NAMES, st.integers() | st.dictionaries(NAMES, st.integers(), max_size=3), max_size=4),
)
def test_merging_keeps_what_is_not_overridden(base: dict[str, Any], over: dict[str, Any]) -> None:
    result = merged(base, over)
    assert set(result) == {*base, *over}
    assert merged(result, over) == result
    assert all(result[key] == base[key] for key in base.keys() - over.keys())
    assert all(result[key] == value for key, value in over.items() if not isinstance(value, dict))


def test_the_fields_of_a_place_in_the_study_are_known() -> None:
    assert "kimg" in fields_at(Study, ("generators", "any", "training"))
    assert "path" in fields_at(Study, ("cohort",))
    assert fields_at(Study, ("nowhere",)) == []
    assert fields_at(Study, ("name",)) == []


def test_lines_are_those_of_the_file() -> None:
    content, lines = parse_yaml("a: 1\nb:\n  - x: 2\n    y: 3\n", "text")
    assert content == {"a": 1, "b": [{"x": 2, "y": 3}]}
    assert lines == {("a",): 1, ("b",): 2, ("b", "0"): 3, ("b", "0", "x"): 3, ("b", "0", "y"): 4}


def test_of_many_problems_the_first_are_explained_and_all_counted(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("phantom: {}\n" + "".join(f"k{i}: 1\n" for i in range(300)))
    with pytest.raises(UnderstudyError) as caught:
        load_study(tmp_path / "s.yaml")
    lines = caught.value.what.splitlines()
    assert "300 problems" in lines[0]
    assert len(lines) == 22


def test_an_unknown_preset_has_no_text() -> None:
    assert "phantom:" in preset_text("quickstart")
    with pytest.raises(UnderstudyError, match="no preset"):
        preset_text("nothing")


def test_regions_are_words_or_names_with_classes(tmp_path: Path) -> None:
    said = message(write(tmp_path, "preset: quickstart\nevaluation:\n  regions: all\n"))
    assert "1 problem" in said
    assert "line 3" in said
    assert "should be auto, none" in said


PHANTOMS = "phantom: {patients: 4}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("generators: {stylegan2: {recipe: quick, kimg: 5}}", "`training: {kimg: 5}`?"),
        ("generators: {diffusion: {learn_sigma: true}}", "`model: {learn_sigma: true}`?"),
        ("generators: {stylegan2: {training: {psi: 0.5}}}", "`psi: 0.5` in `generators.stylegan2`?"),
        ("generators: {stylegan2: {seed: 5}}", "`seed: 5` at the top of the file?"),
        ("segmenters: {unet: {batch: 4}}", "`training: {batch: 4}`?"),
        ("resolution: 64", "`slices: {resolution: 64}`?"),
        ("slices: {test_patients: 3}", "`split: {test_patients: 3}` at the top of the file?"),
        ("test_pateints: 3", "`split: {test_patients: 3}`?"),
        ("slices: {resolutoin: 3}", "`resolution`?"),
        ("samples: 100", "`generators: {NAME: {samples: 100}}`?"),
        ("layout: brats2018", "`cohort: {layout: brats2018}`?"),
    ],
)
def test_a_field_at_the_wrong_level_is_told_where_it_belongs(text: str, expected: str, tmp_path: Path) -> None:
    said = message(write(tmp_path, f"{PHANTOMS}{text}\n"))
    assert f"line 2: `{text.split(':')[0]}" in said
    assert f"did you mean {expected}" in said


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("difusion", "diffusion"), ("diffusion-long", "diffusion"), ("Diffusion", "diffusion"), ("ddpm", "diffusion"),
        ("stylegan3-small", "stylegan3"), ("sg3", "stylegan3"), ("pro-gan", "progan"), ("stylegan_1", "stylegan1"),
        ("stylegan", "stylegan1 or stylegan2 or stylegan3"),
    ],
)  # fmt: skip
def test_a_name_that_seems_to_mean_another_kind_than_it_gets(name: str, kind: str, tmp_path: Path) -> None:
    said = message(write(tmp_path, f"{PHANTOMS}generators: {{{name}: {{recipe: quick}}}}\n"))
    assert f"line 2: `generators.{name}`: is {kind} meant?" in said
    first = kind.split()[0]
    assert f"`model: {{kind: {first}}}`" in said
    told = load_study(write(tmp_path, f"{PHANTOMS}generators: {{{name}: {{model: {{kind: {first}}}}}}}\n"))
    assert told.generators[name].model.kind == first


@pytest.mark.parametrize("name", ["stylegan2", "StyleGAN2", "stylegan-2-long", "sg2-small"])
def test_a_name_that_holds_the_default_kind_is_of_it(name: str, tmp_path: Path) -> None:
    study = load_study(write(tmp_path, f"{PHANTOMS}generators: {{{name}: {{recipe: quick}}}}\n"))
    assert study.generators[name].model.kind == "stylegan2"


@pytest.mark.parametrize("name", ["g", "mine", "stylgan2"])
def test_other_names_do_not_tell_the_kind(name: str, tmp_path: Path) -> None:
    said = message(write(tmp_path, f"{PHANTOMS}generators: {{{name}: {{recipe: quick}}}}\n"))
    assert f"`generators.{name}`: which generator is this?" in said
    assert ("nearest name is stylegan2" in said) == (name == "stylgan2")


def test_a_segmenter_whose_name_seems_to_mean_another(tmp_path: Path) -> None:
    text = f"{PHANTOMS}trainings: [real]\nsegmenters: {{NAME: {{}}}}\n"
    assert "is swin meant?" in message(write(tmp_path, text.replace("NAME", "swin-unetr")))
    assert load_study(write(tmp_path, text.replace("NAME", "small"))).segmenters["small"].model.kind == "unet"


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("a: &a [*a]", "line 1", "alias"),
        ("phantom: &a {x: *a}", "line 1", "alias"),
        ("&a\n<<: *a", "line 1", "alias"),
        ("a: " + "[" * 3000 + "]" * 3000, "study.yaml", "nested too deep"),
        ("a: &a [" + "x," * 99 + "]\nb: &b [" + "*a," * 99 + "]\nc: [" + "*b," * 99 + "]", "line 1", "100,000"),
        ("phantom:\n\tpatients: 4", "line 2", "'\\t'"),
        ("phantom: {patients: 2020-13-01}", "line 1", "'2020-13-01' cannot be read"),
        ("phantom: {patients: " + "9" * 5000 + "}", "line 1", "cannot be read"),
        ("phantom: {patients: 9223372036854775808}\ntrainings: [real]", "study.yaml", "line 1: `phantom.patients`"),
        (PHANTOMS + "trainings: [real]\nseed: 9223372036854775808", "study.yaml", "line 3: `seed`: should be"),
        (PHANTOMS + "generators: {stylegan2: {training: {kimg: .inf}}}", "study.yaml", "training.kimg`: should be"),
        (PHANTOMS + "trainings: [real]\nslices: {rule_fraction: .nan}", "study.yaml", "`slices.rule_fraction`"),
        (PHANTOMS + "trainings: [real]\nslices:", "study.yaml", "line 3: `slices` is empty"),
        ("hello", "study.yaml", "a list of `name: value` lines"),
        ("1: 2", "study.yaml", "the field name 1 is not text"),
        ("a: !!python/name:os.system", "line 1", "not a valid YAML file"),
        ("a: \x07", "study.yaml", "not a valid YAML file"),
        ("cohort: /data", "study.yaml", "e.g. `cohort: {path: /data}`"),
        (PHANTOMS + "generators: stylegan2", "study.yaml", "e.g. `generators: {stylegan2: {}}`"),
        (PHANTOMS + "generators: [stylegan2, progan]", "study.yaml", "e.g. `generators: {stylegan2: {}, progan: {}}`"),
        (PHANTOMS + "generators: {stylegan2: quick}", "study.yaml", "e.g. `stylegan2: {recipe: quick}`"),
        (PHANTOMS + "generators: {g: {model: {kind: {}}}}", "study.yaml", "`generators.g"),
        (PHANTOMS + "trainings: real", "study.yaml", "e.g. `trainings: [real]`"),
        (PHANTOMS + "trainings: [real]\nrepeats: 100000000", "study.yaml", "`repeats`"),
        (PHANTOMS + "slices: {resolution: 30}\ngenerators: {stylegan2: {}}", "study.yaml", "`slices.resolution`"),
        (PHANTOMS + "slices: {resolution: 30}\ntrainings: [real]", "study.yaml", "`slices.resolution`: "),
    ],
)  # fmt: skip
def test_files_that_are_hardly_yaml(text: str, where: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UnderstudyError) as refused:
        load_study(write(tmp_path, f"{text}\n"))
    assert expected in refused.value.what
    assert where in str(refused.value.where)
    assert refused.value.fix
    assert "<" not in refused.value.message


def test_a_file_of_another_kind_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"x" * (5 << 20))
    assert "too long" in message(tmp_path / "scan.nii.gz")


def test_a_file_that_only_says_where_patients_are(tmp_path: Path) -> None:
    path = write(tmp_path, "cohort: {path: patients}\nslices: {resolution: 64}\n")
    assert "`generators: {stylegan2: {recipe: quick}}`" in " ".join(message(path).split())
    ((_, part),) = load_study(path, cohort_only=True).parts().items()
    assert part.cohort is not None
    assert part.cohort.path == tmp_path / "patients"
    assert part.slices.resolution == 64
    with pytest.raises(UnderstudyError, match=r"line 2: `slices.resolutoin`"):
        load_study(write(tmp_path, "cohort: {path: x}\nslices: {resolutoin: 64}\n"), cohort_only=True)


def test_a_network_of_the_preset_is_dropped_with_the_rules_about_it(tmp_path: Path) -> None:
    assert any(rule.segmenter == "swin" for rule in load_study("quickstart-five").exclude)
    (tmp_path / "study.yaml").write_text(
        "preset: quickstart-five\nsegmenters: {swin: null}\ngenerators: {progan: null}\n"
    )
    study = load_study(tmp_path / "study.yaml")
    assert list(study.segmenters) == ["unet"]
    assert "progan" not in study.generators
    assert study.exclude == []
