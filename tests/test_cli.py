"""The command line: every command parses, calls one function and prints."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from understudy import __version__, cli
from understudy.cli.base import TASKS, Command, Group
from understudy.errors import Interrupted, UnderstudyError
from understudy.io.files import write_json
from understudy.slices import SliceSet
from understudy.study.config.schema import Study, load_study
from understudy.study.engine.jobs import job_folder
from understudy.study.engine.plan import make_plan
from understudy.study.engine.run import claimed
from understudy.study.registry import STAGES

STUDY = """
name: little
phantom: {patients: 4, shape: [16, 16, 12]}
slices: {resolution: 16}
generators: {stylegan2: {samples: 10, model: {z_dim: 8, w_dim: 8, channel_base: 64, channel_max: 4}}}
segmenters: {unet: {model: {width: 4}, training: {samples: 64}}}
repeats: 2
"""


COMMANDS = (
    "phantom", "check", "plan", "run", "job", "status", "report", "preset",  # a study
    "sample", "import", "recipe",  # generators
    "read", "evaluate", "segment", "export", "score",  # from elsewhere, for elsewhere
    "quality", "annotations", "audit", "screen",
)  # fmt: skip

NO_JSON = {(name,) for name in ("init", "preset", "recipe")} | {("reading", "serve"), ("reading", "token")}


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    path = tmp_path / "little.yaml"
    path.write_text(STUDY)
    return path


def test_version_and_help() -> None:
    assert invoke("--version").output == f"understudy {__version__}\n"
    shown = invoke("--help").output
    for command in COMMANDS:
        assert command in shown
        described = invoke(command, "--help")
        assert described.exit_code == 0
        assert command in described.output


def test_the_help_of_run_names_every_stage() -> None:
    shown = invoke("run", "--help").output
    assert {stage for stage in STAGES if stage not in shown} == set()


def test_a_resolution_beside_a_study_is_refused(tmp_path: Path) -> None:
    refused = invoke("evaluate", "--synthetic", tmp_path, "--study", "quickstart", "--resolution", 64)
    assert refused.exception.where == "--resolution"


def test_help_does_not_load_torch() -> None:
    heavy = "('torch', 'pandas', 'monai')"
    script = f"import sys; from understudy import cli; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_study_file_is_read_without_what_only_networks_need() -> None:
    heavy = "('monai', 'transformers', 'matplotlib', 'scipy.signal')"
    script = f"import sys; import understudy.study.engine.plan; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_folders_are_read_without_torch() -> None:
    script = "import sys; import understudy.exchange.read; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_phantoms_are_written_and_pass_the_check(tmp_path: Path) -> None:
    out = tmp_path / "phantoms"
    made = invoke("phantom", out, "--patients", 2, "--shape", 24, 24, 16, "--sites", 2, "-q")
    assert made.exit_code == 0, made.output
    assert len(list(out.glob("*/*_seg.nii.gz"))) == 2
    checked = invoke("check", out, "-q")
    assert "2 patients" in checked.output
    assert "(brats2018: T1w, T1wGd, T2w, FLAIR)" in checked.output
    (out / "Phantom_002" / "Phantom_002_flair.nii.gz").unlink()
    bad = invoke("check", out, "-q", "--json")
    assert bad.exit_code == 1
    (problem,) = [entry for entry in json.loads(bad.output) if entry["severity"] == "error"]
    assert problem["patient"] == "Phantom_002"
    assert "flair" in problem["file"]


def test_the_cohort_of_a_study_is_checked(tmp_path: Path, study_file: Path) -> None:
    result = invoke("check", study_file)
    assert isinstance(result.exception, UnderstudyError)
    assert "draws phantoms" in str(result.exception)


def test_plan_as_table_and_as_json(study_file: Path, tmp_path: Path) -> None:
    table = invoke("plan", study_file, "--out", tmp_path / "out")
    assert table.exit_code == 0, table.output
    assert "19 of 19 jobs to do" in table.output
    planned = json.loads(invoke("plan", study_file, "--out", tmp_path / "out", "--json").output)
    assert planned["jobs"] == {
        "phantom": 1, "prepare": 1, "generator": 1, "sample": 1, "audit": 1, "segmenter": 6, "evaluate": 6,
        "annotations": 1, "report": 1,
    }  # fmt: skip
    assert (planned["settings"], planned["repeats"]) == (3, 2)
    assert planned["seconds"] > 0
    assert planned["disk_bytes"] > 0
    assert 0 < planned["gpu_hours"] * 3600 < planned["seconds"] + 2
    two = json.loads(
        invoke("plan", study_file, "--out", tmp_path / "out", "--json", "--workers", 2, "--speed", "1e11").output
    )
    one = json.loads(invoke("plan", study_file, "--out", tmp_path / "out", "--json", "--speed", "1e11").output)
    assert (one["workers"], two["workers"]) == (1, 2)
    assert one["elapsed_seconds"] == pytest.approx(one["seconds"], abs=0.1)
    assert one["seconds"] / 2 < two["elapsed_seconds"] < one["elapsed_seconds"]
    assert planned["setting_ids"] == ["real.unet.aug", "synthetic-stylegan2.unet.aug", "both-stylegan2.unet.aug"]
    assert {entry["state"] for entry in planned["list"]} == {"waiting"}
    assert not (tmp_path / "out").exists()


def test_a_run_of_the_first_stages_its_status_and_one_job(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = invoke("run", study_file, "--out", out, "--until", "phantom")
    assert ran.exit_code == 0, ran.output
    assert "1 job done, 0 were done before" in ran.stdout
    assert "understudy release template forms" in ran.stderr  # while thresholds can still be set before the audit
    assert "template forms" not in invoke("run", study_file, "--out", out, "--until", "phantom").stderr
    states = json.loads(invoke("status", out, "--json").output)
    assert [row["state"] for row in states][:2] == ["done", "waiting"]
    prepare = states[1]["id"][:12]
    assert prepare in invoke("status", out).output
    one = invoke("job", prepare, "--study", study_file, "--out", out, "-q")
    assert one.exit_code == 0, one.output
    assert "prepare: done in" in one.output
    shown = invoke("status", out)
    assert "2 done" in shown.output
    early = invoke("report", out)
    assert isinstance(early.exception, UnderstudyError)


def test_status_shows_failures(study_file: Path, tmp_path: Path) -> None:
    plan = make_plan(load_study(study_file))
    with claimed(tmp_path / "out", plan):
        folder = job_folder(tmp_path / "out", plan.jobs[0])
        write_json(folder / "failed.json", {"message": "[bold]odd[/bold]\n  where: here"})
    shown = invoke("status", tmp_path / "out").output
    assert "failed" in shown
    assert "[bold]odd[/bold]" in shown


def test_presets_can_be_printed_and_used_as_a_file(tmp_path: Path) -> None:
    printed = invoke("preset", "workstation").output
    (tmp_path / "mine.yaml").write_text(printed)
    assert isinstance(load_study(tmp_path / "mine.yaml"), Study)


def test_a_generator_on_two_devices(study_file: Path, tmp_path: Path) -> None:
    """In processes that are started for real."""
    out = tmp_path / "out"
    study_file.write_text(STUDY.replace("samples: 10,", "samples: 10, training: {kimg: 0.032, batch: 8},"))
    prepared = invoke("run", study_file, "--out", out, "--until", "prepare", "-q")
    assert prepared.exit_code == 0, prepared.output
    plan = make_plan(load_study(study_file))
    (generator,) = [job for job in plan.jobs if job.stage == "generator"]
    where = ("--study", study_file, "--out", out, "--device", "cpu", "--devices", 2, "-q")
    trained = invoke("job", generator.id, *where)
    assert trained.exit_code == 0, trained.output
    assert json.loads((job_folder(out, generator) / "model" / "config.json").read_text())["steps"] == 4
    assert invoke("run", study_file, "--out", out, "--until", "generator", "-q").output.startswith("0 jobs done, 3")
    assert "one device" in str(invoke("job", plan.jobs[1].id, *where).exception)


def test_devices_that_cannot_be_used_are_refused_at_once(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in (("run", study_file), ("job", "1", "--study", study_file)):
        refused = invoke(*command, "--devices", 0)
        assert refused.exit_code == 2
        assert "Invalid value for '--devices'" in refused.output
    asked = ("run", study_file, "--out", tmp_path / "out", "-q", "--devices", 99)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "99 GPUs wanted" in str(invoke(*asked, "--device", "cuda").exception)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "99")
    assert "99 processes" in str(invoke(*asked).exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UnderstudyError("all is lost", where="x", fix="give up"), 1, "error: all is lost\n  where: x\n"),
        (Interrupted("stopped by SIGTERM"), 75, "stopped by SIGTERM; run the same command again to continue\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/out/file"),
            1,
            "error: the disk is full\n  where: /out/file",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/in"), 1, "error: no permission to read\n"),
        (MemoryError(), 1, "error: there is not enough memory"),
        (KeyboardInterrupt(), 75, "stopped; run the same command again"),
    ],
)
def test_errors_end_with_one_message(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    shown = capsys.readouterr().err
    assert shown.startswith(said)
    assert "Traceback" not in shown


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero\nand more"), RecursionError(), OSError("odd")])
@pytest.mark.parametrize("home", ["kept", "read-only"])
def test_what_nobody_foresaw_is_one_line_and_a_file_to_be_sent(
    error: Exception, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(sys, "argv", ["understudy", "check", "a folder"])
    monkeypatch.delenv("UNDERSTUDY_DEBUG", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache" if home == "kept" else "/proc/no/such"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70
    first, where, fix = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: unexpected {type(error).__name__}: ")
    log = Path(where.removeprefix("  where: "))
    assert log.is_relative_to(tmp_path / "cache" / "understudy" / "logs" if home == "kept" else tmp_path)
    assert log.stat().st_mode & 0o077 == 0
    assert "look through that file" in fix
    text = log.read_text()
    assert "understudy check 'a folder'" in text
    assert f"understudy {__version__}" in text
    assert "Traceback" in text
    monkeypatch.setenv("UNDERSTUDY_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main()


def all_commands() -> list[tuple[tuple[str, ...], Any]]:
    """(words, command) of every command, those of groups too."""

    def below(words: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield (*words, name), inner
            yield from below((*words, name), inner)

    return list(below((), typer.main.get_command(cli.app)))


def named(commands: list[tuple[tuple[str, ...], Any]]) -> list[Any]:
    return [pytest.param(words, command, id=" ".join(words)) for words, command in commands]


def required(command: Any) -> list[str]:
    """Values for all that a command needs, to get past its own parsing."""
    words = []
    for parameter in command.params:
        if parameter.required:
            value = ["1"] * max(1, parameter.nargs)
            words += value if parameter.param_type_name == "argument" else [parameter.opts[0], *value]
    return words


WITH_DEVICE = [entry for entry in all_commands() if any("--device" in parameter.opts for parameter in entry[1].params)]


@pytest.mark.parametrize(("words", "command"), named(WITH_DEVICE))
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "mps", "", "meta"])
def test_a_wrong_device_is_refused_before_anything_is_done(
    words: tuple[str, ...], command: Any, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda:7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(device == "cuda:7"))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["understudy", *words, *required(command), "--device", device])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert f"where: device {device}" in said
    assert "what to do:" in said
    assert list(tmp_path.iterdir()) == []


def test_every_command_that_computes_has_its_device_checked() -> None:
    assert {" ".join(words) for words, _ in WITH_DEVICE} >= {
        "run", "job", "plan", "sample", "quality", "evaluate", "segment", "audit", "screen",
    }  # fmt: skip
    for words, command in all_commands():
        assert isinstance(command, Command | Group), words


def test_a_device_of_another_machine_need_not_be_here(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = ("--device", "cuda:7", "--out", tmp_path / "out")
    planned = invoke("plan", study_file, *there, "--speed", "a100")
    assert planned.exit_code == 0, planned.output
    queued = invoke("run", study_file, *there, "--cluster", "slurm", "--dry-run")
    assert queued.exit_code == 0, queued.output
    assert "no device called 'gpu'" in str(invoke("plan", study_file, "--device", "gpu").exception)


@pytest.mark.parametrize(("words", "command"), named(all_commands()))
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_every_word_of_a_help_text_is_shown(words: tuple[str, ...], command: Any, option: str) -> None:
    shown = CliRunner().invoke(cli.app, [*words, option], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    seen = shown.output.split()
    texts = [command.help or "", *(parameter.help or "" for parameter in command.params)]
    assert [word for text in texts for word in text.split() if word not in seen] == []


def test_the_list_of_commands_shows_whole_sentences() -> None:
    shown = " ".join(invoke("--help").output.split())
    for words, command in all_commands():
        if len(words) == 1:
            first = " ".join(command.help.split()).split(". ")[0].rstrip(".")
            assert first in shown, words
    assert "..." not in shown.replace("[ARGS]...", "")


def test_commands_are_listed_by_task_and_every_one_takes_quiet() -> None:
    shown = invoke("--help").output
    places = [shown.index(f"{title}:") for title in TASKS.values()]
    assert places == sorted(places)
    parts = dict(zip(TASKS, (shown[a:b] for a, b in zip(places, [*places[1:], None], strict=True)), strict=True))
    for topic, command in {"study": "run", "segmentation": "evaluate", "release": "verify", "export": "export"}.items():
        assert f"\n  {command} " in parts[topic]
    assert "--install-completion" in shown
    for words, command in all_commands():
        if not isinstance(command, Group):
            options = {option for parameter in command.params for option in parameter.opts}
            assert "--quiet" in options, words
            assert ("--json" in options) != (words in NO_JSON), words


def test_commands_that_write_say_in_json_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "patients"
    asked = ("phantom", out, "--patients", 2, "--shape", 16, 16, 12, "--quiet", "--json")
    assert json.loads(invoke(*asked).output) == {"out": str(out), "patients": 2}
    forms = json.loads(invoke("release", "template", tmp_path, "--json").output)
    assert forms == {name: str(tmp_path / f"{name}.yaml") for name in ("about", "decision")}
    images, labels = np.zeros((2, 1, 8, 8), np.uint8), np.ones((2, 8, 8), np.uint8)
    images[:, :, 2] = 200
    SliceSet.from_arrays(images, labels, patients=["a", "b"], classes=["ED"]).save(tmp_path / "set")
    shown = invoke("export", "images", tmp_path / "set", tmp_path / "png", "-q", "--json")
    assert json.loads(shown.output) == {"out": str(tmp_path / "png"), "slices": 2, "codes": {"ED": 255}}
    shown = json.loads(invoke("read", tmp_path / "png", tmp_path / "again", "-q", "--json").stdout)
    assert (shown["slices"], shown["resolution"], shown["classes"]) == (2, 8, ["ED"])
    assert shown["content_hash"] == SliceSet.open(tmp_path / "again").content_hash


def test_a_mistyped_command_is_told_the_right_one() -> None:
    shown = invoke("chek", "x")
    assert shown.exit_code == 2
    assert "Did you mean 'check'?" in shown.output


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    for module in ("understudy", "understudy.cli"):
        ran = subprocess.run(
            f"{sys.executable} -m {module} recipe quick | true", shell=True, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_folder_in_place_of_a_study_file(tmp_path: Path) -> None:
    (tmp_path / "my scans").mkdir()
    refused = invoke("run", tmp_path / "my scans").exception
    assert isinstance(refused, UnderstudyError)
    assert f"understudy init '{tmp_path / 'my scans'}' > my-study.yaml" in str(refused.fix)


def test_a_mistyped_option_is_a_usage_error() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "understudy.cli", "run", "quickstart", "--outt", "x"],
        capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert ran.returncode == 2
    assert "No such option" in ran.stderr
