"""Signatures of packages by SSH keys: OpenSSH's `ssh-keygen -Y` signs SHA256SUMS, which lists all the rest."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from understudy.errors import UnderstudyError
from understudy.io.files import reading
from understudy.io.foreign import TEXT
from understudy.release.content import SIGNATURE, SUMS

_PURPOSE = "understudy-release"  # a signature made for anything else does not count
_WHO = "publisher"
FORM = r"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=]{1,76}\n){1,60}-----END SSH SIGNATURE-----\n"


def check_key(key: Path) -> None:
    """Raises where nothing can be signed with a key, before the work whose result it shall sign."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SUMS).write_text("a trial\n", encoding="utf-8")
        sign(Path(folder), key)


def sign(folder: Path, key: Path) -> None:
    """Writes SHA256SUMS.sig; `key` is a private key of SSH, or a public one whose private one the agent holds."""
    with reading(key), open(key, "rb"):
        pass
    done = _keygen("sign", "-f", str(key), str(folder / SUMS))
    if done.returncode or not (folder / SIGNATURE).is_file():
        what = f"this key cannot sign ({_reason(done)})"
        fix = "give a private key of SSH, as `ssh-keygen -t ed25519` makes them; one with a passphrase: load it with"
        raise UnderstudyError(what, where=key, fix=f"{fix} `ssh-add` and give its .pub file")


def form_problem(folder: Path) -> str:
    """What is wrong with the form of a package's signature, if it has one; "" for nothing."""
    path = folder / SIGNATURE
    if not os.path.lexists(path):
        return ""
    with reading(path, TEXT):
        whole = path.is_file() and not path.is_symlink() and re.fullmatch(FORM, path.read_text(encoding="utf-8"))
    return "" if whole else f"{SIGNATURE} is no signature"


def problem_of(folder: Path, key: Path) -> str:
    """What is wrong with the signature of a package by the holder of a public key (a file `.pub`), "" for nothing."""
    with reading(key, TEXT):
        lines = [line for line in key.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    if len(lines) != 1 or not re.match(r"(ssh|ecdsa|sk-)[\w@.-]+ [A-Za-z0-9+/=]+(\s|$)", lines[0]):
        what = "this is no public key of SSH"
        raise UnderstudyError(what, where=key, fix="give the file that ends in .pub, as its publisher made it known")
    if not (folder / SIGNATURE).is_file():
        return f"it is not signed: {SIGNATURE} is missing"
    with tempfile.TemporaryDirectory() as known, open(folder / SUMS, "rb") as signed:
        signers = Path(known) / "signers"
        signers.write_text(f"{_WHO} {' '.join(lines[0].split()[:2])}\n", encoding="utf-8")
        options = ("-f", str(signers), "-I", _WHO, "-s", str(folder / SIGNATURE))
        done = _keygen("verify", *options, signed=signed)
    return f"it is not signed with this key ({_reason(done)})" if done.returncode else ""


def _keygen(how: str, *options: str, signed: IO[bytes] | None = None) -> "subprocess.CompletedProcess[bytes]":
    program = shutil.which("ssh-keygen")
    if program is None:
        fix = "install OpenSSH 8.1 or newer (Debian: openssh-client)"
        raise UnderstudyError("signatures need the program ssh-keygen, which is not there", fix=fix)
    return subprocess.run(
        [program, "-Y", how, "-n", _PURPOSE, *options], stdin=signed, capture_output=True, check=False
    )


def _reason(done: "subprocess.CompletedProcess[bytes]") -> str:
    said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
    return said[-1][:200] if said else f"exit status {done.returncode}"
