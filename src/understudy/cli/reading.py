"""Commands of the blinded reading study: prepare, segmentations, serve, token, status, analyse."""

import importlib.util
from pathlib import Path
from typing import Any

from typer import Argument, Option

from understudy.cli.base import Commands, JsonOption, Said, app, named, print_json, print_table
from understudy.errors import UnderstudyError
from understudy.io.files import plain, read_json

reading_app = Commands(help="Blinded reading study: can experts tell, and what would they correct?")
app.add_typer(reading_app, name="reading")

OutArgument = Option(..., "--out", "-o", help="New folder of the study, shown to readers.")
KeyOption = Option(None, help="New file of the answer key [default: <out>-key.json].")
MarginOption = Option(0.1, min=0.001, max=0.999, help="Difference of rates that counts as none.")
FolderArgument = Argument(..., metavar="STUDY", help="Folder that `understudy reading prepare` wrote.")
PortOption = Option(8321, min=1, max=65535, help="Port on this machine.")
HostOption = Option("127.0.0.1", help="Address to listen at; any but this machine's is readable on the network.")


@reading_app.command("prepare")
def prepare_command(
    real: Path = Option(..., help="Slice set with held-out patients (its test and val rows)."),
    synthetic: list[str] = Option(..., help="NAME=SET for each generator; may be repeated."),
    out: Path = OutArgument,
    key: Path | None = KeyOption,
    design: str = Option("balanced", help="balanced (mix not told), or paper (100 real, 100 of each, told)."),
    real_count: int = Option(100, min=1, help="Real slices."),
    synthetic_count: int | None = Option(None, min=1, help="Slices of each generator [default: by design]."),
    repeats: float | None = Option(None, min=0, max=1, help="Share shown twice [default: 0.1; paper: 0]."),
    channels: str | None = Option(None, help="Channels shown, e.g. T1wGd [default: all]."),
    splits: str = Option("test,val,validation", help="Parts of the real set that are drawn from."),
    scale: str = Option("confidence", help="confidence (1 to 5) or binary."),
    margin: float = MarginOption,
    pixels: int = Option(512, min=32, max=2048, help="Edge of a panel."),
    floor: int = Option(0, min=0, max=64, help="Grey values below this are shown black."),
    title: str = Option("Real or synthetic?", help="Heading of the page."),
    seed: int = Option(0, min=0),
) -> Said:
    """Draw real and synthetic slices under names that say nothing; the answer key is written elsewhere."""
    from understudy.reading.prepare import TELLING, Design, prepare
    from understudy.slices import SliceSet

    asked = {"design": design, "real_count": real_count, "synthetic_count": synthetic_count, "repeats": repeats}
    asked |= {"channels": channels.split(",") if channels else None, "splits": splits.split(","), "scale": scale}
    asked |= {"margin": margin, "pixels": pixels, "floor": floor, "title": title, "seed": seed}
    wanted = Design.model_validate(asked)
    sets = {name: SliceSet.open(path) for name, path in (named("--synthetic", text) for text in synthetic)}
    where = key or out.with_name(f"{out.name}-key.json")
    words, record = _said(prepare(SliceSet.open(real), sets, out, where, wanted), out, where)
    telling = [row for row in read_json(where)["telltales"] if row["auc"] >= TELLING]
    if telling:
        words += "\ncareful: trivial numbers of the pictures tell synthetic from real (AUC; 0.5 says nothing, 1 all):\n"
        words += "\n".join(f"  {row['measure']}, {row['generator']}: {row['auc']:.2f}" for row in telling)
        words += (
            "\nreaders see this without looking at anatomy: see docs/reading.md (--floor N hides a noisy background)"
        )
    return Said(words, record | {"telltales": telling})


@reading_app.command("segmentations")
def segmentations_command(
    volumes: Path = Option(..., help="`volumes` of a study's prepare job."),
    first: str = Option(..., help="NAME=FOLDER of predictions (of an evaluate job)."),
    second: str = Option(..., help="NAME=FOLDER of the other's predictions."),
    out: Path = OutArgument,
    key: Path | None = KeyOption,
    count: int = Option(50, min=1, help="Slices."),
    channel: str = Option("", help="Under the overlay [default: FLAIR, or the last]."),
    margin: float = MarginOption,
    seed: int = Option(0, min=0),
) -> Said:
    """Two segmentations of the same slice, left and right by lot: which would you rather correct?"""
    from understudy.reading.prepare import prepare_segmentations

    where = key or out.with_name(f"{out.name}-key.json")
    sides = named("--first", first), named("--second", second)
    study = prepare_segmentations(volumes, *sides, out, where, count=count, channel=channel, margin=margin, seed=seed)
    return _said(study, out, where)


@reading_app.command()
def serve(
    study: Path = FolderArgument,
    port: int = PortOption,
    readers: str = Option("", help="Names of new readers, with commas: alice,bob."),
    host: str = HostOption,
) -> None:
    """The reading page in a browser on this machine; every answer is on the disk at once.

    Each new reader's personal link is printed once; it goes on where the reader stopped, on any day.
    """
    from understudy.reading.folder import address, open_folder
    from understudy.reading.store import Store

    if host in ("0.0.0.0", "::", ""):
        fix = "give this machine's own address, or keep 127.0.0.1 and let readers use an SSH tunnel"
        raise UnderstudyError("the server answers to one name only", where="--host", fix=fix)
    for package in ("starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            fix = "pip install 'understudy-mri[reading]'"
            raise UnderstudyError(f"the package {package} is not installed", fix=fix)
    from understudy.reading.app import listen, make_server, only_server

    folder = open_folder(study)
    where = address(host, port)
    with only_server(study, where), listen(host, port) as server, Store(study) as store:
        store.begin()
        known = set(store.readers())
        for name in dict.fromkeys(part.strip() for part in readers.split(",") if part.strip()):
            if name in known:
                print(f"{name}: has a link (a new one: understudy reading token {study} {name})")
            else:
                print(f"{name}: {where}/r/{store.new_token(name)}")
        if not store.readers():
            raise UnderstudyError("nobody may read yet", where=study, fix="name readers: --readers alice,bob")
        if host not in ("127.0.0.1", "localhost", "::1"):
            print("careful: not encrypted, and anybody on the network who has a link can read")
        print(f"{len(folder.items)} items at {where}/ (stop with Ctrl-C)", flush=True)
        make_server(folder, store, host).run(sockets=[server])


@reading_app.command()
def token(
    study: Path = FolderArgument,
    name: str = Argument(..., metavar="NAME", help="The reader, new or known."),
    port: int = PortOption,
    host: str = HostOption,
) -> None:
    """A personal link for a reader; one that the reader had before ends, the answers stay."""
    from understudy.reading.folder import address, open_folder
    from understudy.reading.store import Store

    open_folder(study)
    with Store(study) as store:
        print(f"{address(host, port)}/r/{store.new_token(name)}")


@reading_app.command()
def status(study: Path = FolderArgument, as_json: bool = JsonOption) -> None:
    """How far every reader is. Says nothing about what they answered."""
    from understudy.reading.folder import open_folder
    from understudy.reading.store import Store

    total = len(open_folder(study).items)
    with Store(study) as store:
        found, head = store.progress(), store.head()
    if as_json:
        print_json({"items": total, "readers": found, "head": head})
        return
    rows = []
    for one in found:
        seconds = "–" if one["seconds"] is None else f"{one['seconds']:.1f} s"
        rows.append([one["reader"], f"{one['done']} of {total}", one["changed"], seconds, one["last"] or "–"])
    print_table(["Reader", "Answered", "Changed", "Median time", "Last answer (UTC)"], rows)
    print(f"head of the answers: {head[:16]} (note it when reading has ended: `analyse` names it again)")


@reading_app.command("analyse")
def analyse_command(
    study: Path | None = Argument(None, help="Folder of the reading study."),
    key: Path | None = KeyOption,
    paper: bool = Option(False, "--paper", help="Worked example: the paper's Table 6."),
    margin: float = Option(0.1, min=0.001, max=0.999, help="With --paper."),
    out: Path | None = Option(None, "--out", "-o", help="Folder for the results [default: <study>-results]."),
    as_json: bool = JsonOption,
) -> None:
    """Table 6, d', AUC, equivalence and agreement, with intervals."""
    from understudy.reading.analyse import analyse, of_counts
    from understudy.reading.results import sentences, table6, write_result

    if paper == (study is not None):
        raise UnderstudyError("give the folder of a study, or --paper", fix="see `understudy reading analyse --help`")
    result: dict[str, Any]
    if study is None:
        from understudy.report.published import published

        frame = published(6)
        called = zip(frame["image"], frame["real"], frame["synthetic"], strict=True)
        result = of_counts({str(name): (int(a), int(a + b)) for name, a, b in called}, margin)
    else:
        result = analyse(study, key or study.with_name(f"{study.name}-key.json"))
        out = out or study.with_name(f"{study.name}-results")
    if as_json:
        print_json(plain(result))
    else:
        if "rows" in result:
            table = table6(result)
            print_table(table.header, table.body)
        print("\n".join(sentences(result)))
    if out is not None:
        write_result(result, out)
        if not as_json:
            print(f"written to {out}")


def _said(study: dict[str, Any], out: Path, key: Path) -> Said:
    words = [
        f"study: {out}\nanswer key: {key} (keep it from readers)",
        f"its SHA-256, to be noted before reading: {study['key_sha256']}",
    ]
    record = {"study": str(out), "key": str(key), "key_sha256": study["key_sha256"]}
    if study["kind"] == "real_or_synthetic":
        words.append(f"margin of the equivalence test, fixed with it: {100 * study['margin']:g} points")
        record["margin"] = study["margin"]
    words.append(f"next: understudy reading serve {out}")
    return Said("\n".join(words), record)
