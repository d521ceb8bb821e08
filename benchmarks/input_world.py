"""The world around a run: numbers, kills, other runs, missing programs, locales, streams, caches."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import made_captures as made
from input_rows import (
    FACE,
    QUICK,
    ROOT,
    SHORT,
    Row,
    Unexpected,
    colors_in,
    environment,
    refusal,
    shell,
    specularip,
    success,
)
from made_captures import (
    nerfstudio,
    shots,
)

from specularip.avatar import load


def finished(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A run folder, and what is in it."""
    run = folder / "run"
    run.mkdir()
    made.subject().save(run / "avatar.safetensors")
    made.write_table(run, {"seed": 0}, "report.json")
    return run, {path.name: path.read_bytes() for path in run.iterdir()}


def keeps(given: str, run: Callable[[Path, Path], str]) -> Row:
    """Something that goes wrong with --overwrite: the finished run stays. run: gets the folder of the input
    and that of the run."""

    def checked(folder: Path) -> str:
        out, before = finished(folder)
        got = run(folder, out)
        after = {name: (out / name).read_bytes() if (out / name).is_file() else b"" for name in before}
        if after != before:
            raise Unexpected(f"the finished run was changed; {got}")
        return got

    return Row("--overwrite", given, "refused or stopped; the old run is whole", checked)


def until_it_runs(out: Path, process: subprocess.Popen[bytes], patience: float = 200.0) -> None:
    """Wait for the first line of metrics."""
    end = time.monotonic() + patience
    while not any(path.stat().st_size for path in out.rglob("metrics.jsonl")):
        if process.poll() is not None or time.monotonic() > end:
            raise Unexpected("the first run did not start")
        time.sleep(0.1)


def long_fit(folder: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "specularip", "fit", str(folder), "--out", str(out), "--device", "cpu"]
    command += ["--iterations", "100000", "--points", "500", *options]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, env=environment({}), **quiet)  # type: ignore[call-overload,no-any-return]


def without_ffmpeg(folder: Path) -> dict[str, str]:
    """imageio-ffmpeg as its wheel is on platforms for which it has no program."""
    package = folder / "shim" / "imageio_ffmpeg"
    package.mkdir(parents=True)
    code = "def get_ffmpeg_exe():\n    raise RuntimeError('No ffmpeg exe could be found.')\n"
    (package / "__init__.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "shim"), str(ROOT / "src")]), "PATH": "/nonexistent"}


def world() -> list[Row]:
    generate = ("generate", "A woman", "--image", FACE)

    def number(*options: str, names: str) -> Row:
        return keeps(" ".join(options), lambda d, out: refusal(
            specularip(*generate, "--out", out, "--overwrite", *options), names))  # fmt: skip

    def fit_number(*options: str) -> Row:
        def run(folder: Path, out: Path) -> str:
            nerfstudio(folder, shots())
            return refusal(specularip("fit", folder, "--out", out, "--overwrite", *options), options[0])

        return keeps(" ".join(options), run)

    def drawing(*options: str, names: str) -> Row:
        def run(folder: Path) -> str:
            made.subject().save(folder / "a.safetensors")
            result = specularip("render", folder / "a.safetensors", "--out", folder / "o.png", *options)
            return refusal(result, names)

        return Row("numbers", f"render {' '.join(options)}", "refused", run)

    def killed(folder: Path, out: Path) -> str:
        nerfstudio(folder, shots())
        process = long_fit(folder, out, "--overwrite")
        try:
            until_it_runs(out, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        return f"the old avatar of {len(load(out).gaussians)} Gaussians"

    def second(folder: Path) -> str:
        nerfstudio(folder, shots())
        out = folder / "run"
        process = long_fit(folder, out)
        try:
            until_it_runs(out, process)
            lines = [
                refusal(specularip("fit", folder, "--out", out, *SHORT, option), str(out))
                for option in ("--overwrite", "--resume")
            ]
            if process.poll() is not None:
                raise Unexpected("the first run ended")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        success(specularip("fit", folder, "--out", out, *SHORT, "--overwrite"))
        return f"{lines[0].split(' (')[0].replace(str(out), out.name)}; after its end: done"

    def no_ffmpeg(folder: Path) -> str:
        result = specularip(*generate, "--out", folder / "out", "--set", *QUICK, **without_ffmpeg(folder))
        line = refusal(result, "ffmpeg")
        if (folder / "out").exists():
            raise Unexpected("the folder was made")
        return line

    def no_ffmpeg_render(folder: Path) -> str:
        made.subject().save(folder / "a.safetensors")
        video = folder / "o.mp4"
        result = specularip(
            "render", folder / "a.safetensors", "--out", video, IMAGEIO_FFMPEG_EXE="/nonexistent/ffmpeg"
        )
        return refusal(result, "ffmpeg")

    def below_a_file(folder: Path) -> str:
        (folder / "file").write_text("text")
        return refusal(specularip(*generate, "--out", folder / "file" / "out", "--set", *QUICK), "file")

    def tilde(folder: Path) -> str:
        made.subject().save(folder / "a.safetensors")
        success(specularip("render", "~/a.safetensors", "--out=~/o.png", "--size", "64", HOME=str(folder)))
        if not (folder / "o.png").exists():
            raise Unexpected("no picture in the home folder")
        return "in the home folder"

    def no_utf8(folder: Path, **changes: str | None) -> str:
        name = os.fsencode(folder) + b"/caf\xe9"
        made.subject().save(os.fsdecode(name + b".safetensors"))
        result = specularip(
            "render", name + b".safetensors", "--out", name + b".png", "--size", "64", **changes
        )
        success(result)
        if not os.path.exists(name + b".png"):
            raise Unexpected("no picture")
        return "a picture"

    def photo_no_utf8(folder: Path) -> str:
        photo_name = os.fsencode(folder) + b"/caf\xe9.jpg"
        shutil.copy(FACE, photo_name)
        result = specularip(
            "generate", "A woman in a red satin dress, café", "--image", photo_name, "--out", folder / "out",
            "--set", *QUICK, timeout=500, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0",
        )  # fmt: skip
        return success(result)

    def help_in(encoding: str, _: Path) -> str:
        return success(specularip("generate", "--help", PYTHONIOENCODING=encoding))

    def piped(script: str, _: Path) -> str:
        result = shell(script)
        if result.err.strip():
            raise Unexpected(result.err.strip().splitlines()[-1])
        return "quiet"

    def rendered(folder: Path, **changes: str | None) -> str:
        made.subject().save(folder / "a.safetensors")
        picture = folder / "o.png"
        success(specularip("render", folder / "a.safetensors", "--out", picture, "--size", "64", **changes))
        return f"a picture of {colors_in(picture)} colours"

    def fault(debug: bool, folder: Path) -> str:
        """An error of our own, made by breaking a function."""
        code = (
            "import sys\nfrom specularip import cli, exporting\n"
            "def broken(*arguments, **options): raise ValueError('a surprise')\n"
            "exporting.export = broken\n"
            "cli.main(['export', 'a.ply', 'b.ply', *sys.argv[1:]])"
        )
        command = [sys.executable, "-c", code, *(["--debug"] if debug else [])]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment({}), cwd=folder, timeout=120
        )
        lines = done.stderr.strip().splitlines()
        shown = "Traceback" in done.stderr
        if (
            done.returncode != 70
            or shown != debug
            or (not debug and len(lines) != 1)
            or "--debug" not in lines[-1]
        ):
            raise Unexpected(f"exit code {done.returncode}: {lines[-1:]}")
        return "a traceback, then the line" if debug else lines[0].removeprefix("specularip: ")

    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    nowhere = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "NUMBA_CACHE_DIR": "/proc/none"}
    settings = """seid.steps=0 seid.points=0 seid.render_size=0 seid.views_per_step=0 scr.refine_batch=0
    scr.orbit_views=2 turntable_frames=0 turntable_size=0 seid.points=1e99 seid.steps=-5""".split()
    return [
        *(number("--set", one, names=one.split("=")[0]) for one in settings),
        number("--photo-weight", "nan", names="--photo-weight"),
        number("--seed", "-1", names="--seed"),
        fit_number("--iterations", "0"),
        fit_number("--points", "0"),
        drawing("--azimuth-deg", "nan", names="--azimuth-deg"),
        drawing("--fov-y-deg", "0", names="--fov-y-deg"),
        drawing("--distance", "inf", names="--distance"),
        drawing("--size", "0", names="--size"),
        drawing("--background", "nan", names="--background"),
        keeps("kill -9 during the new run", killed),
        Row("two runs", "a second one into the first's folder", "refused until the first ends", second),
        Row("no ffmpeg", "generate", "refused before it starts", no_ffmpeg),
        Row("no ffmpeg", "render to .mp4", "refused", no_ffmpeg_render),
        Row("not writable", "generate --out FILE/out", "refused before it starts", below_a_file),
        Row("~", "--out=~/o.png", "in the home folder", tilde),
        Row("encodings", "a file name that is no UTF-8", "a picture", no_utf8),
        Row("encodings", "the same, C locale", "a picture", partial(no_utf8, **c_locale)),
        Row("encodings", "generate: such a photo, café, C locale", "an avatar", photo_no_utf8),
        Row("encodings", "--help, Latin-1", "done", partial(help_in, "latin-1")),
        Row("encodings", "--help, ASCII", "done", partial(help_in, "ascii")),
        Row("streams", "--help | head -1", "quiet", partial(piped, "$S generate --help | head -1")),
        Row("streams", "models | head -1", "quiet", partial(piped, "$S models --quick | head -1")),
        Row("streams", "--version >&-", "quiet", partial(piped, "$S --version >&-")),
        Row("no HOME", "render", "a picture", partial(rendered, HOME=None)),
        Row("caches", "none can be written", "a picture", partial(rendered, **nowhere)),
        Row("a fault of ours", "render", "one line, how to report it", partial(fault, False)),
        Row("a fault of ours", "--debug", "the traceback", partial(fault, True)),
    ]
