"""Sdist and wheel, built and installed into a fresh environment, and run from outside of the checkout.

    python benchmarks/installed.py            # what it needs is found where this Python has it
    python benchmarks/installed.py --fresh    # everything installed anew, with constraints.txt (minutes)

The wheel is built from the sdist, so that what either lacks is noticed. Needs the package `build`.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMANDS = (  # they read templates, recipes and presets, which a wheel may lack
    ["--version"], ["recipe", "quick"], ["plan", "quickstart"], ["doctor"], ["release", "template", "forms"],
    ["phantom", "patients", "--patients", "2", "--shape", "32", "32", "16", "--quiet"], ["init", "patients"],
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="install all that it depends on as well")
    fresh = parser.parse_args().fresh
    with tempfile.TemporaryDirectory() as folder:
        work, start = Path(folder), time.monotonic()
        subprocess.run([sys.executable, "-m", "build", "-q", "--outdir", work / "dist", ROOT], check=True)
        (wheel,), (sdist,) = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
        missing = missing_files(wheel, sdist)
        print(f"{wheel.name} {wheel.stat().st_size / 1e6:.1f} MB, {sdist.name} {sdist.stat().st_size / 1e6:.1f} MB")
        assert not missing, f"not in them: {missing}"
        python = environment(work / "venv", wheel, fresh)
        clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        where = [python, "-c", "import understudy; print(understudy.__file__)"]
        found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=work, env=clean).stdout
        assert Path(found.strip()).is_relative_to(work), f"another understudy is imported: {found}"
        for words in COMMANDS:
            subprocess.run([python, "-m", "understudy", *words], check=True, cwd=work, env=clean, capture_output=True)
            print(f"understudy {' '.join(words)}: ok")
        print(f"{len(COMMANDS)} commands from outside of the checkout in {time.monotonic() - start:.0f} s")


def missing_files(wheel: Path, sdist: Path) -> list[str]:
    """Files of the package in the repository that a wheel or an sdist lacks."""
    listed = subprocess.run(["git", "ls-files", "src"], check=True, capture_output=True, text=True, cwd=ROOT)
    wanted = {line.removeprefix("src/") for line in listed.stdout.splitlines()}
    with zipfile.ZipFile(wheel) as packed, tarfile.open(sdist) as archive:
        sources = {name.partition("/src/")[2] for name in archive.getnames()}
        return sorted((wanted - set(packed.namelist())) | (wanted - sources))


def environment(folder: Path, wheel: Path, fresh: bool) -> Path:
    """The Python of a new environment with the wheel; not `fresh`: all else is this Python's."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pins = ["-q", "-c", ROOT / "constraints.txt"] if fresh else ["-q", "--no-deps", "--no-index"]
    subprocess.run([python, "-m", "pip", "install", *pins, wheel], check=True)
    if not fresh:
        site = next((folder / "lib").glob("python*/site-packages"))
        (site / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), *borrowed()}) + "\n")
    return python


def borrowed() -> list[str]:
    """Folders of packages that this Python has beside its own, but none of a checkout."""
    return [path for path in sys.path if path.endswith("site-packages")]


if __name__ == "__main__":
    main()
