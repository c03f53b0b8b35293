"""A study on phantoms, the reading studies drawn from it, and what the browser test looks at besides answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from plugged import EXAMPLE, declare_plugin

GENERATORS = ("pca4", "pca30", "pca200")
STUDY = """
name: reading
phantom: {patients: 18, shape: [128, 128, 40], sites: 1}
slices: {resolution: 128, scaling: robust}
split: {test_patients: 6, validation_fraction: 0.15}
generators:
  pca4: {plugin: principal, config: {components: 4}, samples: 150}
  pca30: {plugin: principal, config: {components: 30}, samples: 150}
  pca200: {plugin: principal, config: {components: 200}, samples: 300}
segmenters:
  unet:
    model: {width: 8}
    training: {samples: 1200, batch: 8, optimiser: adamw, lr: 0.003, validations: 1}
trainings: [real, synthetic]
exclude: [{generator: pca4}, {generator: pca30}]
audit: null
annotations: null
"""
LOOKED_AT = {"reading-room": (1920, 1080), "laptop": (1366, 768), "telephone": (390, 844)}
SHOTS = os.environ.get("UNDERSTUDY_SHOTS", "")


class Chain:
    """A study made by commands, as a user would make it."""

    def __init__(self, place: Path) -> None:
        self.place, self.out = place, place / "understudy-reading"
        site = place / "site"
        for old in (site, *place.glob("four*"), *place.glob("one*"), *place.glob("which*")):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        site.mkdir(parents=True)
        shutil.copy(EXAMPLE / "principal.py", site)
        declare_plugin(site, "principal", "principal:Principal")
        paths = [str(site), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self.study = place / "study.yaml"
        self.study.write_text(STUDY)
        self.run_study()

    def run_study(self) -> None:
        self.command("run", str(self.study), "--quiet", "--device", "cpu", "--workers", "1")

    def command(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "understudy.cli", *words],
            cwd=self.place, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def job(self, name: str) -> Path:
        """Folder of the job whose name begins like this."""
        for job in json.loads((self.out / "plan.json").read_text())["jobs"]:
            if job["name"].startswith(name):
                found: Path = next((self.out / "jobs").glob(f"*-{job['id'][:12]}"))
                return found
        raise AssertionError(f"no job {name}")

    def prepare(self, out: str, generators: tuple[str, ...], *words: str) -> str:
        made = [w for g in generators for w in ("--synthetic", f"{g}={self.job(f'sample {g}')}/slices")]
        return self.command("reading", "prepare", "--real", f"{self.job('prepare')}/slices", *made, *words, "-o", out)

    def prepare_segmentations(self, out: str, count: int) -> str:
        pair = {"first": ("real", "evaluate real"), "second": ("synthetic", "evaluate synthetic-pca200")}
        words = [w for k, (n, j) in pair.items() for w in (f"--{k}", f"{n}={self.job(j)}/predictions")]
        return self.command(
            "reading", "segmentations", "--volumes", f"{self.job('prepare')}/volumes", *words,
            "--count", str(count), "-o", out,
        )  # fmt: skip


def picture(page: Any, name: str) -> None:
    """The page in the size of a reading room, a laptop and a telephone, if UNDERSTUDY_SHOTS names a folder."""
    if not SHOTS:
        return
    Path(SHOTS).mkdir(parents=True, exist_ok=True)
    before = page.viewport_size
    for size, (width, height) in LOOKED_AT.items():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(150)
        page.screenshot(path=str(Path(SHOTS) / f"{name}-{size}.png"))
    page.set_viewport_size(before)
    page.wait_for_timeout(150)


# Every visible element with a text of its own: its contrast with what lies behind it (WCAG 2, relative luminance). A
# half-transparent ground is taken to lie on white, the brightest that a picture can be.
CONTRAST = """() => {
  const parts = (colour) => { const n = colour.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const c = parts(getComputedStyle(n).backgroundColor);
      if (c[3] > 0) return c.slice(0, 3).map((v) => v * c[3] + 255 * (1 - c[3]));
    }
    return [0, 0, 0];
  };
  const found = [];
  const top = document.querySelector("dialog[open]") || document.body;
  for (const node of top.querySelectorAll("*")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(node.tagName)) continue;
    const a = light(parts(getComputedStyle(node).color).slice(0, 3)), b = light(behind(node));
    found.push([node.textContent.trim().slice(0, 30), (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)]);
  }
  return found; }"""


def least_contrast(page: Any) -> tuple[str, float]:
    """(text, ratio) of the text on the page that is hardest to read."""
    found = page.evaluate(CONTRAST)
    assert len(found) > 3
    text, ratio = min(found, key=lambda entry: entry[1])
    return str(text), float(ratio)


def unnamed(page: Any) -> list[str]:
    """Roles of what a screen reader would reach and could not name, from the browser's accessibility tree."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    spoken = [n for n in nodes if not n["ignored"] and n["role"]["value"] in NAMED]
    # a tree that was not read would pass everything; behind an open dialog there is nothing to reach
    assert {"button", "heading"} <= {n["role"]["value"] for n in spoken}, [n["role"]["value"] for n in spoken]
    return [n["role"]["value"] for n in spoken if not n.get("name", {}).get("value", "").strip()]


NAMED = {"button", "textbox", "img", "image", "progressbar", "dialog", "main", "complementary", "group", "heading"}


def boxes(page: Any) -> dict[str, Any]:
    """Where the parts of the page stand: they must not move while answers are given."""
    ids = ["grid", "questions", "back", "next", "progress", "count", "pause"]
    return {i: page.locator(f"#{i}").bounding_box() for i in ids}
