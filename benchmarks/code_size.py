"""The size and shape of the code, before and after: a Markdown table.

    python benchmarks/code_size.py OLD_CHECKOUT NEW_CHECKOUT

Counted from the sources of `src/understudy`: lines by kind, modules, functions and their length, import circles, files
that name one built-in generator. Traced in a child process for each checkout: the Python functions of the package that
stand on the stack between `understudy run` and the generator's loss.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

STUDY = """
name: trace
phantom: {patients: 4, shape: [32, 32, 8], sites: 1}
slices: {resolution: 16}
split: {test_patients: 1, validation_fraction: 0.34}
generators:
  stylegan2: {recipe: quick, samples: 8, training: {kimg: 0.1, batch: 4}}
segmenters: {unet: {training: {samples: 8}}}
repeats: 1
"""
LOSSES = ("logistic_generator_loss", "generator_loss")  # the loss of a GAN's generator, under its names so far

TRACE = f"""
import sys, threading, traceback, json, os
def watch(frame, event, argument):
    if event == "call" and frame.f_code.co_name in {LOSSES!r}:
        stack, at = [], frame
        while at is not None:
            if os.sep + "understudy" + os.sep in at.f_code.co_filename and not at.f_code.co_name.startswith("<"):
                stack.append((os.path.relpath(at.f_code.co_filename, PACKAGE), at.f_code.co_name))
            at = at.f_back
        print("TRACE " + json.dumps(stack[::-1]), flush=True)
        os._exit(0)
import understudy
PACKAGE = os.path.dirname(understudy.__file__)
from understudy.cli import app
threading.setprofile(watch); sys.setprofile(watch)
app(["run", sys.argv[1], "--out", sys.argv[2]], standalone_mode=False)
"""


def measured(root: Path) -> dict[str, str]:
    """The numbers of one checkout."""
    package = root / "src" / "understudy"
    sources = {path.relative_to(package): path.read_text() for path in sorted(package.rglob("*.py"))}
    kinds: dict[str, int] = defaultdict(int)
    lengths: list[int] = []
    for text in sources.values():
        tree, docstrings = ast.parse(text), set[int]()
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
                docstrings.update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
            if isinstance(node, ast.FunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            kind = "docstring" if number in docstrings else "comment" if stripped.startswith("#") else "code"
            kinds[kind if stripped or kind == "docstring" else "blank"] += 1
            kinds["beside"] += kind == "code" and "  # " in line
    lengths.sort()
    circles = import_circles(sources)
    naming = [path for path, text in sources.items() if "stylegan1" in text.lower().replace("_", "")]
    elsewhere = [path for path in naming if path.stem != "stylegan1"]
    stack = traced(root)
    return {
        "lines": f"{sum(kinds[k] for k in ('code', 'docstring', 'comment', 'blank')):,}",
        "of code": f"{kinds['code']:,}",
        "of docstrings": f"{kinds['docstring']:,}",
        "of comments, and beside code": f"{kinds['comment']:,} + {kinds['beside']:,}",
        "blank": f"{kinds['blank']:,}",
        "modules": f"{len(sources):,}",
        "functions": f"{len(lengths):,}",
        "their length: median, 90 %, longest": f"{lengths[len(lengths) // 2]}, {lengths[int(0.9 * len(lengths))]},"
        f" {lengths[-1]}",
        "import circles (modules in them)": f"{len(circles)} ({sum(map(len, circles))})",
        "functions, files from `run` to the loss": f"{len(stack)}, {len({file for file, _ in stack})}",
        "files that name StyleGAN 1, beside its own": str(len(elsewhere)),
    }


def import_circles(sources: dict[Path, str]) -> list[list[str]]:
    """Groups of modules that import each other, also inside functions, not for types only (connected components)."""
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): text for path, text in sources.items()}
    graph: dict[str, set[str]] = {name: set() for name in modules}

    def module_of(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    for name, text in modules.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        for node in ast.walk(tree):
            found = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "understudy":
                found = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                found = [alias.name for alias in node.names if alias.name.startswith("understudy.")]
            targets = {module_of(full.removeprefix("understudy.")) for full in found}
            graph[name] |= {target for target in targets if target not in (None, name)}  # type: ignore[arg-type]
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset({a, *(b for b in reach[a] if a in reach[b])}) for a in graph if a in reach[a]}
    return [sorted(group) for group in groups]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """What is imported by `start`, directly or not."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def traced(root: Path) -> list[tuple[str, str]]:
    """(file, function) of the package's frames from the command to the loss."""
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(STUDY)
        environment = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", TRACE, str(study), str(Path(folder) / "out")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("TRACE ")]
    if not lines:
        raise SystemExit(f"no loss was reached in {root}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    stack = [tuple(entry) for entry in json.loads(lines[0].removeprefix("TRACE "))]
    return stack[[function for _, function in stack].index("run") :]  # without what calls every command


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", type=Path)
    parser.add_argument("--trace", action="store_true", help="print the functions from `run` to the loss instead")
    arguments = parser.parse_args()
    if arguments.trace:
        for root in arguments.checkouts:
            print(root, *(f"  {file}: {function}" for file, function in traced(root)), sep="\n")
        return
    columns = [measured(root) for root in arguments.checkouts]
    print("| |", " | ".join(str(root) for root in arguments.checkouts), "|")
    print("| --- |", " --- |" * len(columns))
    for name in columns[0]:
        print(f"| {name} |", " | ".join(column[name] for column in columns), "|")


if __name__ == "__main__":
    main()
