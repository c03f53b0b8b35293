"""Every command of the documentation is one that the program has, and all that are cheap are run, page by page."""

from __future__ import annotations

import glob
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import typer
from fences import ROOT, Block, blocks, inline_commands
from typer.testing import CliRunner

from plugged import EXAMPLE, declare_plugin
from understudy.cli import app
from understudy.errors import UnderstudyError
from understudy.io.files import read_json, write_json
from understudy.study.config.schema import load_study

TINY = """
name: {name}
phantom: {{patients: 12, shape: [32, 32, 32], sites: 1}}
slices: {{resolution: 32, scaling: robust, rule_intensity: 20}}
split: {{test_patients: 3, validation_fraction: 0.25}}
generators:
  mine: {{plugin: principal, config: {{components: 8}}, samples: 130}}
segmenters:
  unet:
    model: {{width: 4}}
    training: {{samples: 160, batch: 8, validations: 1}}
trainings: [real, synthetic]
audit: null
annotations: null
"""
# What stands in the pages for the reader's own files -> what the test has in its place.
PLACES = {
    "OUT/segmenters/real.unet.aug-repeat-1": "understudy-first/segmenters/real.unet.aug-repeat-1",
    "OUT/synthetic/stylegan2": "understudy-first/synthetic/mine",
    "OUT": "understudy-first",
    "/data/new/patient7": "phantoms-of-others/*001",
    "/data/brats2020": "phantoms-of-others",
    "/data/my-cohort": "phantoms-of-others",
}
NOT_RUN = {
    "README.md": ["installs packages", "installs packages", "trains three segmenters"],
    "docs/audit.md": [
        "trains four generators",
        "needs TCGA-LGG, prepared by docs/examples/lgg64-three.yaml",
        "needs TCGA-LGG, prepared",
        "trains five generators",
    ],
    "docs/correlate.md": ["needs snapshots of several trainings", "trains four generators and 17 segmenters"],
    "docs/exports.md": [
        "needs a package",
        "needs a package",
        "needs a trained diffusion model",
        "needs a finished study",
    ],
    "docs/failures.md": ["a minute", "takes a damaged study", "an id is each study's own"],
    "docs/gallery.md": ["needs the three folders"] * 6,
    "docs/generators.md": ["needs an official checkpoint"],
    "docs/offline-weights.md": ["needs the file of weights"],
    "docs/reading.md": [
        "needs a study's slices",
        "needs a study's slices",
        "serves until it is stopped",
        "needs answers",
    ],
    "docs/release.md": [
        "needs an audited study and filled forms",
        "needs a package",
        "needs a trained generator and filled forms",
    ],
    "docs/slurm.md": ["installs packages", "needs a cluster", "a minute", "a minute", "needs SLURM and root"],
    "docs/tutorial.md": ["installs packages"],
    "docs/your-own-generator.md": ["installs a package", "a minute"],
    "docs/your-own-images.md": ["trains three segmenters for each"],
}
JUDGES = ("audit", "screen")  # end with 1 unless there is no sign of copying; so few patients cannot tell
SHELL = blocks("sh")


def test_what_is_not_run_is_listed_with_its_reason() -> None:
    found: dict[str, list[str]] = {}
    for block in SHELL:
        if block.why:
            found.setdefault(block.page, []).append(block.why)
    assert found == NOT_RUN


@pytest.mark.parametrize("block", SHELL, ids=lambda b: b.where)
def test_every_command_and_option_exists(block: Block) -> None:
    for words in block.commands:
        if words[0].endswith("understudy"):
            parse(words[1:])


def test_commands_in_sentences_exist() -> None:
    found = inline_commands()
    assert len(found) > 20
    root: Any = typer.main.get_command(app)
    for page, words in found:
        if len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            assert words[1] in root.commands, f"{page}: {' '.join(words)}"
            known = {o for p in every_parameter(root.commands[words[1]]) for o in (*p.opts, *p.secondary_opts)}
            for word in (w.partition("=")[0] for w in words[2:] if w.startswith("--")):
                assert word in known | {"--help"}, f"{page}: {' '.join(words)}"


def every_parameter(command: Any) -> list[Any]:
    below = getattr(command, "commands", {}).values()
    return [*command.params, *(p for inner in below for p in every_parameter(inner))]


def parse(words: list[str]) -> None:
    """Has the program read the words, and do nothing.

    Raises:
        a usage error: no such command or option, a value of another type, an argument too many or too few.
    """
    command, context, name = typer.main.get_command(app), None, "understudy"
    if ">" in words:
        words = words[: words.index(">")]
    while hasattr(command, "commands"):
        if not words:
            return
        name, words, command = words[0], words[1:], command.commands[words[0]]
    command.make_context(name, list(words), parent=context)


def test_the_check_itself_finds_mistakes() -> None:
    parse(["audit", "--training", "a", "--synthetic", "b"])
    for wrong in (["audit", "--trainin", "a"], ["plan"], ["sample", "a", "b", "--count", "many"]):
        with pytest.raises(Exception, match=r"(?i)no such option|missing|valid integer"):
            parse(wrong)
    with pytest.raises(KeyError):
        parse(["audits"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with what the pages speak of: cohorts, study files, a study that has run, slices, label volumes."""
    place = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        site = place / "site"
        site.mkdir()
        shutil.copy(EXAMPLE / "principal.py", site)
        declare_plugin(site, "principal", "principal:Principal")
        patch.syspath_prepend(site)
        patch.chdir(place)
        (place / "docs").symlink_to(ROOT / "docs")
        for name in ("first", "my-study", "brats2020"):
            (place / f"{name}.yaml").write_text(TINY.format(name=name))
        (place / "first-study.yaml").write_text(TINY.format(name="first"))
        run(["understudy", "phantom", "phantoms-of-others", "--patients", "3", "--shape", "32", "32", "32"])
        run(["understudy", "run", "first-study.yaml", "--quiet", "--device", "cpu"])
        first, second = place / "understudy-first", place / "understudy-my-study"
        shutil.copytree(first, second)
        write_json(second / "study.json", {**read_json(second / "study.json"), "name": "my-study"})
        for name, job in (("real", "prepare"), ("made", "sample")):
            shutil.copytree(next(first.glob(f"jobs/{job}-*")) / "slices", place / name)
        write_labels(place)
        yield place


def write_labels(place: Path) -> None:
    truth = np.zeros((16, 16, 8), np.uint8)
    truth[4:9, 4:9, 2:5], truth[9:11, 4:9, 2:5], truth[11:12, 4:9, 2:5] = 2, 1, 4
    moved = np.roll(truth, 1, axis=0)
    for folder, array in (("labels", truth), ("predictions", moved)):
        (place / folder).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), place / folder / "a.nii.gz")
    shutil.copy(place / "labels" / "a.nii.gz", place / "truth.nii.gz")
    shutil.copy(place / "predictions" / "a.nii.gz", place / "prediction.nii.gz")


def run(words: list[str]) -> None:
    """Runs a command of ours as a shell would, in this process."""
    said: list[str] = []
    for word in words[1:]:
        for text, place in PLACES.items():
            if word.startswith(text):
                word = word.replace(text, place)
                break
        if words[1] == "check" and word == "my-study.yaml":
            word = "phantoms-of-others"  # whose study file draws phantoms here
        matches = sorted(glob.glob(word)) if "*" in word else []
        said += matches or [word]
    if ">" in said:
        said = said[: said.index(">")]
    result = CliRunner().invoke(app, said)
    ended = result.exception.code if isinstance(result.exception, SystemExit) else result.exception
    if said[0] == "screen" and isinstance(ended, UnderstudyError) and "slices are copies" in str(ended):
        ended = 1  # eight principal components of so few patients are blends of them
    assert ended in ((None, 0, 1) if said[0] in JUDGES else (None, 0)), f"{said}: {ended!r}\n{result.output}"


@pytest.mark.parametrize("page", sorted({b.page for b in SHELL if not b.why}))
def test_commands_run(page: str, world: Path) -> None:
    """In the order of the page; what the README shows of other pages is run there."""
    elsewhere = [w for b in SHELL if b.page != "README.md" and not b.why for w in b.commands]
    before = set(os.listdir(world))
    for block in SHELL:
        if block.page == page and not block.why:
            for words in block.commands:
                if words[0] == "sha256sum" or (page == "README.md" and words in elsewhere):
                    continue
                assert words[0] == "understudy", f"{block.where}: mark what is no command of ours as not run"
                run(words)
    for made in set(os.listdir(world)) - before:  # each page begins with the same files
        shutil.rmtree(world / made) if (world / made).is_dir() else (world / made).unlink()


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda b: b.where)
def test_study_snippets_are_valid(block: Block, world: Path) -> None:
    text = block.text
    if not re.search(r"^(preset|phantom|cohort|cohorts):", text, re.M):
        text = f"phantom: {{}}\n{text}"  # a part of a study file
    if not re.search(r"^(preset|generators):", text, re.M):
        text = f"{text}\ngenerators: {{stylegan2: {{}}}}\n"
    path = world / "snippet.yaml"
    path.write_text(text)
    load_study(path)
    path.unlink()


def test_the_example_on_the_page_is_the_example() -> None:
    page = (ROOT / "docs" / "your-own-generator.md").read_text()
    for name in ("principal.py", "pyproject.toml"):
        content = (EXAMPLE / name).read_text().rstrip()
        assert f"# {name}\n{content}\n```" in page
    assert len((EXAMPLE / "principal.py").read_text().splitlines()) <= 30


def test_keys_of_the_report_are_documented(world: Path) -> None:
    page = (ROOT / "docs" / "reference" / "report-json.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert documented == set(read_json(world / "understudy-first" / "report.json"))


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "examples").rglob("*.yaml")), ids=lambda p: p.name)
def test_example_studies_are_valid(path: Path, world: Path) -> None:
    load_study(path)
