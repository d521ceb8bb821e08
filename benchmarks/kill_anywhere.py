"""Kills commands at random moments and continues them: is anything lost, doubled, damaged or left behind?

    python benchmarks/kill_anywhere.py [--commands generate fit replace export batch] [--rounds 50] [--seed 0]
    python benchmarks/kill_anywhere.py --commands fit --only 17   # one round again

A round starts a command on a tiny workload, ends it with SIGKILL at a random moment (half of the time right
after a name in its folder has changed: a temporary file, a rename), or with SIGTERM, SIGHUP or SIGINT, or two
of them; up to three times in a row. Then the command is continued, with --resume or as it was, to its end,
and its result compared with that of an undisturbed one:

- all tensors and metrics are equal (1e-3 is allowed; the table says how far they are apart),
- metrics.jsonl has every step once, in order; the report is there,
- no temporary file, lock or unfinished run is left, and none keeps the command from going on,
- no more than a minute is worked again: what a kill takes, in seconds of the processor, is less than the
  interval of checkpoints, which is shortened here, and fifteen seconds,
- what was there before, an older export or a run that is replaced, is whole until the new one is.

Prints a table; a round at fault keeps its folder, and is named with what repeats it. Exit code 1 if there is
one. Moments depend on the machine, so a repeated round meets its fault often, not always.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from killed import Kill, Running, draw_kill
from safetensors.torch import load_file

from specularip.avatar import load
from specularip.errors import UserError
from specularip.files import is_temporary
from specularip.run_folder import KEEP, RunFolder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import captures  # noqa: E402
from tiny_prior import compact_prior, pixel_prior, with_surface  # noqa: E402

from specularip.diffusion.loading.folder import save_prior  # noqa: E402

CLOSE = 1e-3
INTERVAL, REST = 0.4, 15.0
"""Seconds between two checkpoints here; and beyond that of what a kill may take: a minute, but for the usual
interval of 45 seconds."""
FRESH_EVERY = 25
"""One round in so many starts the command as a user does, with the usual interval."""
COLOURS = ("red", "blue")
FORMS = ("html", "glb", "ply", "spz", "sog", "safetensors")
STOPPED = 130


class Fault(Exception):
    """What is wrong after a kill."""


@dataclass(frozen=True)
class Command:
    """begin(folder), again(folder): arguments that start it and that continue it after a kill.
    prepare(folder): what is there before. intact(folder, whole): raises Fault if a kill has damaged
    something; whole: the folder of the undisturbed one. difference(folder, whole): the largest of the result;
    raises Fault."""

    name: str
    prepare: Callable[[Path], None]
    begin: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    intact: Callable[[Path, Path], None]
    difference: Callable[[Path, Path], float]


@dataclass
class Tally:
    """Of a command's rounds. difference: the largest. repeated: seconds, the most that a kill took."""

    rounds: int = 0
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    difference: float = 0.0
    repeated: float = 0.0


# What the commands are.


def made_inputs(folder: Path) -> Path:
    """Two priors, of pixels and of images with depth, and a capture."""
    save_prior(pixel_prior(), folder / "pixels")
    save_prior(with_surface(compact_prior()), folder / "surface")
    captures.write(folder / "scene")
    return folder


def run_commands(inputs: Path) -> dict[str, list[Command]]:
    """`generate`, at times from sampled views, whose surface takes seconds to find; `fit`; and a `fit` that
    replaces an older run."""
    settings = [
        "seid.steps=20", "seid.points=600", "seid.max_points=800", "seid.render_size=64",
        "seid.views_per_step=2", "seid.densify_every=5",
        "scr.orbit_views=8", "scr.close_ups=false", "scr.refine_steps=1", "scr.fit_steps=20",
        "scr.views_per_step=2", "turntable_frames=8", "turntable_size=64",
    ]  # fmt: skip
    from_views = [
        "start.ddim_steps=4", "start.scale=1", "start.shading_steps=4",
        "start.fit.steps=20", "start.fit.views_per_step=2",
        # Random networks draw rough surfaces.
        "start.fusion.depth_tolerance=1", "start.fusion.least_tolerance=1",
        "start.fusion.outline_tolerance=64", "start.fusion.confirmations_per_outside=1",
        "start.fusion.least_neighbours=1",
    ]  # fmt: skip
    photo = str(ROOT / "examples" / "eileen_collins.jpg")
    text = "A woman in a red satin dress"
    generate = ["generate", text, "--image", photo, "--photo-weight", "0", "--set", *settings]
    surface = [*generate, *from_views, f"prior.path={inputs / 'surface'}"]
    pixels = [*generate, f"prior.path={inputs / 'pixels'}"]
    fit = ["fit", str(inputs / "scene"), "--iterations", "150", "--points", "150", "--device", "cpu"]
    older = ["fit", str(inputs / "scene"), "--iterations", "2", "--points", "100", "--device", "cpu"]

    def resumed(folder: Path) -> list[str]:
        return ["--resume"] if RunFolder.is_begun(folder / "out") else []

    def replaced(folder: Path) -> list[str]:
        run = RunFolder.current(folder / "out")
        return ["--resume"] if run.replaces is not None and run.has_checkpoint() else ["--overwrite"]

    def run(name: str, arguments: list[str]) -> Command:
        return Command(
            name,
            lambda folder: None,
            lambda folder: [*arguments, "--out", str(folder / "out")],
            lambda folder: [*arguments, "--out", str(folder / "out"), *resumed(folder)],
            lambda folder, whole: whole_files(folder / "out"),
            lambda folder, whole: run_difference(folder / "out", whole / "out"),
        )

    def finish_older(folder: Path) -> None:
        if not (inputs / "older").exists():
            finished(
                Running([*older, "--out", str(inputs / "older")], inputs, inputs / "older.txt", INTERVAL)
            )
        shutil.copytree(inputs / "older", folder / "out")

    def keeps_older(folder: Path, whole: Path) -> None:
        whole_files(folder / "out")
        avatar = (folder / "out" / "avatar.safetensors").read_bytes()
        if avatar not in [
            (place / "avatar.safetensors").read_bytes() for place in (inputs / "older", whole / "out")
        ]:
            raise Fault("the avatar is neither that of the older run nor the new one")

    replace = Command(
        "fit --overwrite",
        finish_older,
        lambda folder: [*fit, "--out", str(folder / "out"), "--overwrite"],
        lambda folder: [*fit, "--out", str(folder / "out"), *replaced(folder)],
        keeps_older,
        lambda folder, whole: run_difference(folder / "out", whole / "out"),
    )
    return {
        "generate": [run("generate", pixels)] * 3 + [run("generate from views", surface)],
        "batch": [batch_command(inputs, [*settings, f"prior.path={inputs / 'pixels'}"])],
        "fit": [run("fit", fit)],
        "replace": [replace],
    }


def batch_command(inputs: Path, settings: Sequence[str]) -> Command:
    """`batch` of two jobs, with their pages and the summary."""
    photo = str(ROOT / "examples" / "eileen_collins.jpg")
    jobs = inputs / "jobs.csv"
    jobs.write_text(
        "text,image,seed,photo_weight\n"
        + "".join(
            f"A woman in a {colour} satin dress,{photo},{seed},0\n" for seed, colour in enumerate(COLOURS)
        )
    )

    def arguments(folder: Path) -> list[str]:
        return ["batch", str(jobs), "--out", str(folder / "out"), "--set", *settings]

    def intact(folder: Path, whole: Path) -> None:
        for report in (folder / "out").glob("*/report.json"):  # a finished job
            run_difference(report.parent, whole / "out" / report.parent.name, pages=False)
        whole_files(folder / "out")

    def difference(folder: Path, whole: Path) -> float:
        out, other = folder / "out", whole / "out"
        same_names(out, other)
        rows, wanted = ((place / "summary.csv").read_text().splitlines() for place in (out, other))
        if len(rows) != len(wanted):
            raise Fault(f"summary.csv has {len(rows)} lines instead of {len(wanted)}")
        same_names(out / "summary", other / "summary")
        names = [path.parent.name for path in other.glob("*/report.json")]
        return max(run_difference(out / name, other / name) for name in names)

    return Command("batch", lambda folder: None, arguments, arguments, intact, difference)


def export_command(inputs: Path, form: str) -> Command:
    """`export` of a run folder, in place of an older file."""

    def prepare(folder: Path) -> None:
        source = inputs / "exported"
        if not source.exists():
            arguments = [
                "fit",
                str(inputs / "scene"),
                "--iterations",
                "2",
                "--points",
                "400",
                "--device",
                "cpu",
            ]
            finished(Running([*arguments, "--out", str(source)], inputs, inputs / "exported.txt", INTERVAL))
        shutil.copytree(source, folder / "run")
        (folder / "out").mkdir()
        (folder / "out" / f"avatar.{form}").write_bytes(b"older")

    def arguments(folder: Path) -> list[str]:
        return ["export", str(folder / "run"), str(folder / "out" / f"avatar.{form}"), "--device", "cpu"]

    def intact(folder: Path, whole: Path) -> None:
        found = (folder / "out" / f"avatar.{form}").read_bytes()
        if found not in (b"older", (whole / "out" / f"avatar.{form}").read_bytes()):
            raise Fault("the file is neither the older nor the new one")
        for kept in (folder / "run").glob("*.safetensors"):
            whole_avatar(kept)

    def difference(folder: Path, whole: Path) -> float:
        for place in ("out", "run"):
            same_names(folder / place, whole / place)
        one, other = (place / "out" / f"avatar.{form}" for place in (folder, whole))
        if one.read_bytes() == other.read_bytes():
            return 0.0
        if form == "html":
            raise Fault("the page is another")
        return tensor_difference(load(one).gaussians.tensors(), load(other).gaussians.tensors())

    return Command(f"export .{form}", prepare, arguments, arguments, intact, difference)


# What is checked.


def finished(process: Running) -> None:
    if code := process.wait():
        raise RuntimeError(f"exit code {code}: {process.log.read_text()}")


def whole_avatar(path: Path) -> None:
    try:
        load(path)
    except UserError as error:
        raise Fault(str(error)) from None


def whole_files(out: Path) -> None:
    """Every file that has its final name can be read."""
    for path in (*out.rglob("*.safetensors"), *out.rglob("*.json"), *out.rglob("*.jsonl")):
        if is_temporary(path.name):
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            else:  # a kill may cut the last line
                [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        except Exception as error:
            raise Fault(f"{path.relative_to(out)} is damaged: {error}") from None


def same_names(out: Path, whole: Path) -> None:
    names, wanted = ({p.name for p in folder.iterdir()} for folder in (out, whole))
    if left := names - wanted:
        raise Fault(f"left behind: {', '.join(sorted(left))}")
    if missing := wanted - names:
        raise Fault(f"missing: {', '.join(sorted(missing))}")


def run_difference(out: Path, whole: Path, pages: bool = True) -> float:
    """Of all tensors and metrics of two finished runs. pages: their folders hold the same files, too."""
    if pages:
        same_names(out, whole)
    kept = out / "checkpoints"  # which finished jobs of a batch have not
    checkpoints = [path.name for path in kept.iterdir()] if kept.is_dir() else []
    if len(checkpoints) > KEEP or any(map(is_temporary, checkpoints)):
        raise Fault(f"checkpoints are left behind: {', '.join(sorted(checkpoints))}")
    lines, wanted = (
        [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        for place in (out, whole)
    )
    steps, wanted_steps = ([(line.get("stage"), line["step"]) for line in rows] for rows in (lines, wanted))
    if steps != wanted_steps:
        twice = len(steps) - len(set(steps))
        raise Fault(
            f"metrics.jsonl has {len(steps)} steps, {twice} of them twice, instead of {len(wanted_steps)}"
        )
    found = tensor_difference(load_file(out / "avatar.safetensors"), load_file(whole / "avatar.safetensors"))
    for line, other in zip(lines, wanted):
        for name, value in other.items():
            if isinstance(value, float):
                found = max(found, abs(line[name] - value))
    return found


def tensor_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in other.items()}:
        raise Fault("the avatar has other tensors")
    return max(
        float((one[name].double() - other[name].double()).abs().max()) for name in one if one[name].numel()
    )


def since_checkpoint(out: Path, process: Running) -> float:
    """Seconds of work that a kill now takes: since the last checkpoint, if the process wrote one. They are of
    the processor, of which a busy machine gives a process a share."""
    began = process.began
    for path in out.rglob("checkpoints/*.safetensors"):
        with suppress(FileNotFoundError):
            began = max(began, path.stat().st_mtime if path.name[0] != "." else 0.0)
    now = time.time()
    return (now - began) * min(1.0, process.processor_seconds() / max(now - process.began, 1e-3))


# Rounds.


@dataclass(frozen=True)
class Reference:
    """The undisturbed command: its folder, how long it takes, how often its folder's names change."""

    folder: Path
    seconds: float
    changes: int


def undisturbed(command: Command, place: Path, as_users: bool) -> Reference:
    """Run it as the rounds do. as_users: before that as a user does; the two must agree."""
    folders = []
    process = None
    for fresh in (True, False) if as_users else (False,):
        folder = place / ("whole" if fresh else "timed")
        folder.mkdir(parents=True)
        command.prepare(folder)
        process = Running(command.begin(folder), folder / "out", folder / "log.txt", INTERVAL, fresh)
        finished(process)
        folders.append(folder)
    assert process is not None
    seconds = time.time() - process.began
    if apart := command.difference(folders[-1], folders[0]):
        raise RuntimeError(f"{command.name}: two undisturbed ones differ by {apart}")
    return Reference(folders[0], seconds, process.changes())


def one_round(
    command: Command, whole: Reference, place: Path, rng: random.Random, fresh: bool, tally: Tally
) -> list[str]:
    """Kill, continue, compare. Returns what was done, for the message of a fault, which it raises."""
    place.mkdir(parents=True)
    command.prepare(place)
    out, done = place / "out", []
    planned = [draw_kill(rng) for _ in range(rng.choice([1, 1, 2, 3]))]
    try:
        for index, kill in enumerate(planned):
            if fresh:
                kill = Kill((signal.SIGKILL,), kill.at, kill.writes)
            arguments = command.begin(place) if index == 0 else command.again(place)
            process = Running(arguments, out, place / f"log-{index}.txt", INTERVAL, fresh)
            reached = process.until(kill, whole.seconds, whole.changes, rng)
            lost = since_checkpoint(out, process) if reached else 0.0
            code = process.kill(kill) if reached else process.wait()
            check_end(process, code, reached)
            done.append(f"{kill}: {code}")
            command.intact(place, whole.folder)
            if not reached:
                break
            tally.kills += 1
            tally.repeated = max(tally.repeated, lost)
            if not fresh and lost > INTERVAL + REST:
                raise Fault(f"the kill took {lost:.0f} s of work")
        process = Running(command.again(place), out, place / "log-last.txt", INTERVAL, fresh)
        if code := process.wait():
            raise Fault(f"cannot be continued: exit code {code}: {last_line(process.log)}")
        check_end(process, code, False)
        apart = command.difference(place, whole.folder)
        tally.difference = max(tally.difference, apart)
        if apart > CLOSE:
            raise Fault(f"the result differs by {apart:.2g}")
    except (Fault, TimeoutError) as error:
        raise Fault(f"{error} (after {'; '.join(done) or 'none'})") from None
    return done


def check_end(process: Running, code: int, killed: bool) -> None:
    printed = process.log.read_text(errors="replace") if process.log.is_file() else ""
    if "Traceback" in printed or "fault of specularip" in printed:
        raise Fault(f"exit code {code}: {last_line(process.log)}")
    if code not in ((0, STOPPED) if killed else (0,)) and not (killed and code < 0):
        raise Fault(f"exit code {code}: {last_line(process.log)}")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else "nothing printed"


def rounds_of(
    commands: Sequence[Command],
    rounds: int,
    seed: int,
    place: Path,
    tally: Tally,
    only: int | None = None,
    as_users: bool = True,
) -> None:
    """Rounds that take the commands in turn, added to `tally`. only: the number of a single one. as_users:
    for `undisturbed`."""
    references: dict[str, Reference] = {}
    for index in range(rounds) if only is None else [only]:
        command = commands[index % len(commands)]
        folder = place / command.name.replace(" ", "")
        if command.name not in references:
            references[command.name] = undisturbed(command, folder, as_users)
        rng = random.Random(f"{seed} {command.name} {index}")
        at = folder / f"round-{index}"
        try:
            one_round(
                command, references[command.name], at, rng, index % FRESH_EVERY == FRESH_EVERY - 1, tally
            )
        except Fault as error:
            tally.faults.append(f"{command.name}, round {index}: {error}; kept in {at}")
            print(tally.faults[-1], flush=True)
        else:
            shutil.rmtree(at)
        tally.rounds += 1


def table(tallies: dict[str, Tally]) -> str:
    head = ("command", "rounds", "kills", "faults", "largest difference", "most work repeated")
    rows = [
        (
            name,
            str(tally.rounds),
            str(tally.kills),
            str(len(tally.faults)),
            f"{tally.difference:.1g}",
            f"{tally.repeated:.1f} s",
        )
        for name, tally in tallies.items()
    ]
    lines = [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
    return "\n".join(lines)


def all_commands(inputs: Path) -> dict[str, list[Command]]:
    """By the names of --commands."""
    return {**run_commands(inputs), "export": [export_command(inputs, form) for form in FORMS]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("generate", "fit", "replace", "export", "batch")
    parser.add_argument("--commands", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=50, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="ROUND", help="this round alone")
    arguments = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="specularip-kills-"))
    inputs = made_inputs(place / "inputs")
    commands = all_commands(inputs)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore
    tallies: dict[str, Tally] = {}
    try:
        for name in arguments.commands:
            began = time.time()
            tallies[name] = Tally()
            rounds_of(commands[name], arguments.rounds, arguments.seed, place, tallies[name], arguments.only)
            print(f"{name}: {time.time() - began:.0f} s", flush=True)
    except KeyboardInterrupt:
        print("stopped; so far:")
    print(table(tallies))
    if any(tally.faults for tally in tallies.values()):
        print(f"repeat one with --seed {arguments.seed} --commands NAME --only ROUND")
        raise SystemExit(1)
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
