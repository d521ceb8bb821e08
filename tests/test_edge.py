"""The command's edge: whatever the world around does, one line, an exit code, and the work is kept."""

import errno
import importlib.util
import json
import os
import pty
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from PIL import Image
from tyro.conf import Positional

from specularip import cli, guard, streams
from specularip.errors import UserError, escaped, one_line, quoted
from specularip.progress import Progress
from specularip.run_folder import RunFolder
from specularip.stopping import interrupt_on_termination, stop_on_signal

COMMAND = (sys.executable, "-m", "specularip")
NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
    """What the command sets for its process is set back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setenv("COLUMNS", "80")
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """avatar.ply of 50 Gaussians, and a capture of 6 images of 32²."""
    folder = tmp_path_factory.mktemp("inputs")
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    rows = np.zeros((50, len(names)), "<f4")
    rows[:, :3] = np.random.default_rng(0).normal(size=(50, 3)) * 0.2
    rows[:, 7:10], rows[:, 10] = -3, 1
    header = ["ply", "format binary_little_endian 1.0", "element vertex 50"]
    header += [f"property float {name}" for name in names]
    text = "\n".join([*header, "end_header", ""])
    (folder / "avatar.ply").write_bytes(text.encode() + rows.tobytes())

    frames = []
    for index in range(6):
        angle = index * np.pi / 3
        position = np.array([2 * np.sin(angle), -2 * np.cos(angle), 0])
        z = position / 2
        x = np.cross([0, 0, 1], z)
        pose = np.eye(4)
        pose[:3] = np.stack([x, np.cross(z, x), z, position], 1)
        pixels = np.zeros((32, 32, 4), np.uint8)
        pixels[8:24, 8:24] = 200, 80, 60, 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        frames.append({"file_path": f"{index}", "transform_matrix": pose.tolist()})
    table = {"camera_angle_x": 0.7, "frames": frames}
    (folder / "transforms_train.json").write_text(json.dumps(table))
    return folder


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script that names the command $S. There is never a traceback."""
    found = {"S": " ".join(COMMAND), **os.environ, **environment}
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, env=found)
    assert "Traceback" not in result.stderr + result.stdout, result
    return result


# Messages


def test_messages_are_one_printable_line():
    assert escaped(f"{NOT_UTF8} \x1b[31m\u202e\x07é") == r"caf\xe9 \x1b[31m\u202e\x07é"
    assert one_line("no\n  such\r\nfile \x1b]0;title\x07") == r"no such file \x1b]0;title\x07"
    long = one_line("wrong: " + "x" * 10_000 + ": do this")
    assert len(long) == 600 and long.startswith("wrong: x") and long.endswith("x: do this")
    assert quoted("a\n\x1b" + "b" * 100) == r"'a\n\x1b" + "b" * 49 + "..."
    assert len(quoted("a" * 100)) == 60


def test_words_for_errors_of_the_system(tmp_path):
    def words(error: Exception, code: int) -> str:
        found, text = guard.explain(error)
        assert found == code and len(text) <= 600 and text.isprintable()
        return text

    for number, advice in ((errno.ENOSPC, "free some space"), (errno.EMFILE, "ulimit -n"), (errno.EROFS, "")):
        text = words(OSError(number, os.strerror(number), "a\x1bb"), 2)
        assert text.startswith(rf"a\x1bb: {os.strerror(number)}") and advice in text
    with pytest.raises(MemoryError) as from_numpy:
        np.empty(1 << 60, np.uint8)
    with pytest.raises(RuntimeError) as from_torch:
        torch.empty(1 << 60, dtype=torch.uint8)
    for memory in (MemoryError(), from_numpy.value, from_torch.value, torch.OutOfMemoryError("CUDA")):
        assert words(memory, 2).startswith("memory ran out: end other programs")
    assert "cannot be loaded" in words(ImportError("libtorch_cpu.so: failed to map segment"), 2)
    assert words(UserError("two\nlines"), 2) == "two lines"
    with pytest.raises(RecursionError) as nested:
        json.loads("[" * 100_000)
    assert "nested too deeply" in words(nested.value, 70)
    for fault in (ValueError("x" * 9999), ImportError("no x", name="specularip.x"), KeyError("\x1b")):
        assert "report it with the whole command and what it prints with --debug" in words(fault, 70)


def test_unexpected_errors_are_one_line_and_debug_shows_where(monkeypatch, capsys):
    def broken(out: Path) -> None:
        raise ValueError("a surprise\nof \x1b[31mtwo lines")

    monkeypatch.setattr(cli, "bake", broken)
    for arguments, variable in (
        (["bake", "--out", "x"], ""), (["--debug", "bake", "--out", "x"], ""),
        (["bake", "--out", "x", "--debug"], ""), (["bake", "--out", "x"], "1"),
    ):  # fmt: skip
        monkeypatch.setenv("SPECULARIP_DEBUG", variable)
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        *before, line = capsys.readouterr().err.splitlines()
        assert end.value.code == guard.FAULT == 70
        assert r"ValueError: a surprise of \x1b[31mtwo lines" in line
        shows = "--debug" in arguments or variable == "1"
        assert any("test_edge.py" in text for text in before) == shows == bool(before)


def test_errors_of_threads_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with guard.guard():
        thread = threading.Thread(target=lambda: [][0])
        thread.start()
        thread.join()

        class Broken:
            def __del__(self):
                raise OSError("gone\x1b")

        Broken()
    first, second = capsys.readouterr().err.splitlines()
    assert "a thread failed" in first and "IndexError" in first
    assert "warning: OSError" in second and "\x1b" not in second


# Arguments


def test_home_folder_and_empty_names(monkeypatch, tmp_path, capsys):
    given = []

    def take(avatar: Annotated[Positional[Path], ""], out: Path, data: Path | None = None) -> None:
        given.extend([avatar, out, data])

    monkeypatch.setattr(cli, "bake", take)
    monkeypatch.setenv("HOME", str(tmp_path))
    cli.main(["bake", "~/a", "--out=~/x.png", "--data", "~"])
    assert given == [tmp_path / "a", tmp_path / "x.png", tmp_path]
    given.clear()
    cli.main(["bake", "./~/a", "--out", "~nobody-of-this-name/x"])  # as a shell reads them
    assert given == [Path("~/a"), Path("~nobody-of-this-name/x"), None]
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # neither HOME nor an entry in passwd
    for name, words in (("", "a file name is empty"), ("~/x", "HOME is not set")):
        with pytest.raises(SystemExit) as end:
            cli.main(["bake", "a", "--out", name])
        error = capsys.readouterr().err
        assert end.value.code == 2 and words in error and error.count("\n") == 1


def test_text_in_any_locale():
    assert cli._decoded("A woman in a café") == "A woman in a café"
    ascii_locale = "café".encode().decode("ascii", "surrogateescape")
    if sys.getfilesystemencoding() == "utf-8":
        assert cli._decoded(ascii_locale) == "café"
        with pytest.raises(UserError, match="not in UTF-8"):
            cli._decoded(NOT_UTF8)


def test_resume_command_of_a_strange_name_can_be_pasted():
    for name in (NOT_UTF8, "it's \\ \x1b", "a b", "plain"):
        word = cli._shell_word(name)
        assert word.isprintable()
        assert subprocess.check_output(["bash", "-c", f"printf %s {word}"]) == os.fsencode(name)


# Streams


def test_streams_drop_what_cannot_be_written():
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY) if os.path.exists("/dev/full") else None
    for number in (writer, full):
        if number is not None:
            raw = streams.LenientStream(open(number, "wb", buffering=0))
            assert raw.write(b"lost") == raw.write(b"lost") == 4
            assert raw.error is not None and raw.error.errno in (errno.EPIPE, errno.ENOSPC)


def test_streams_wait_for_slow_readers():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    raw = streams.LenientStream(open(writer, "wb", buffering=0))
    data, got = os.urandom(1 << 18), []

    def read() -> None:
        with open(reader, "rb") as file:
            got.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    left = memoryview(data)
    while left:
        left = left[raw.write(left) :]
    raw.raw.close()
    thread.join()
    assert got == [data] and raw.error is None


def test_help_and_errors_in_any_encoding_and_stream():
    """`tyro` draws frames; the readers of pipes leave; streams are closed or full."""
    tests = {
        "PYTHONIOENCODING=ascii $S fit --help | LC_ALL=C grep -c '[^ -~]'": "0 1",
        "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 $S --hlp 2>&1 | LC_ALL=C grep -c '[^ -~]'": "2 1",
        "$S --help | head -1 >/dev/null": "0 0",
        "$S generate --help >&- 2>&- <&-": "0",
        "$S generate >&- 2>&-": "2",
        "COLUMNS=1 timeout 10 $S generate --help | head -1 >/dev/null": "0 0",
        "$S --version >/dev/full 2>/dev/null": "2",
        'd=$(mktemp -d); cd "$d"; rmdir "$d"; $S render a --out b 2>&1 | grep -c "current folder"': "2 0",
    }
    if not os.path.exists("/dev/full"):
        tests = {script: code for script, code in tests.items() if "/dev/full" not in script}
    script = "\n".join(f"({test}; echo ${{PIPESTATUS[@]}}) | tail -1" for test in tests)
    assert shell(script).stdout.splitlines() == list(tests.values())


def test_latin_1():
    locales = subprocess.run(["locale", "-a"], capture_output=True, text=True).stdout.split()
    found = [name for name in locales if name.lower().replace("-", "").endswith(("iso88591", "iso885915"))]
    variables = {"LC_ALL": found[0]} if found else {"PYTHONIOENCODING": "latin-1"}
    result = subprocess.run([*COMMAND, "generate"], capture_output=True, env={**os.environ, **variables})
    assert result.returncode == 2 and b"Traceback" not in result.stderr
    assert "Required options" in result.stderr.decode("latin-1")


# Commands in a strange world


def test_render_without_streams_home_and_caches(inputs, tmp_path):
    """Names that are no UTF-8, a home that is a file, no stream at all, no folder for temporary files."""
    out = tmp_path / NOT_UTF8
    out.mkdir()
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file")
    result = shell(
        f'$S render "{inputs}/avatar.ply" --size 32 --out "$OUT/é.png" >&- 2>&- <&-',
        OUT=str(out), HOME=nowhere, XDG_CACHE_HOME=nowhere, TMPDIR=nowhere, LC_ALL="C", PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0", TERM="dumb",
    )  # fmt: skip
    assert result.returncode == 0 and Image.open(out / "é.png").size == (32, 32)


def test_fit_goes_on_when_its_reader_goes_away(inputs, tmp_path):
    result = shell(
        '$S fit "$IN" --iterations 20 --points 100 --out "$OUT" | head -1; echo ${PIPESTATUS[@]}',
        IN=str(inputs), OUT=str(tmp_path / NOT_UTF8),
    )  # fmt: skip
    first, codes = result.stdout.splitlines()
    assert "fit to" in first and codes == "0 0", result.stderr
    assert (tmp_path / NOT_UTF8 / "report.json").is_file()


def test_fit_saves_a_checkpoint_when_its_terminal_is_gone(inputs, tmp_path):
    out = tmp_path / "out"
    arguments = ["fit", str(inputs), "--iterations", "100000", "--points", "100", "--out", str(out)]
    terminal, its_end = pty.openpty()
    # The terminal controls the process, as in a shell.
    take_it = "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    listen = "signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # these tests may run under nohup
    start = f"{take_it}; {listen}; os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, *COMMAND, *arguments],
        stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(its_end)
    seen, until = b"", time.monotonic() + 60
    while seen.count(b"loss") < 3 and process.poll() is None and time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 10_000)
    os.close(terminal)  # the kernel sends SIGHUP; what the process prints from now on is an error
    try:
        assert process.wait(60) == 130, seen[-500:]
    finally:
        process.kill()
    assert RunFolder(out).load_checkpoint() is not None


def test_nohup_is_respected():
    for before in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGHUP, before)
        interrupt_on_termination()
        assert (signal.getsignal(signal.SIGHUP) is before) == (before is signal.SIG_IGN)
        with stop_on_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.requested == (before is not signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(1)


def test_checkpoints_in_folders_whose_names_are_no_utf8(tmp_path):
    folder = RunFolder.open(tmp_path / NOT_UTF8)
    folder.save_checkpoint("fit", {"x": torch.arange(5)})
    found = folder.load_checkpoint()
    assert found is not None and found.state["x"].tolist() == [0, 1, 2, 3, 4]


def test_terminals_without_a_cursor_get_plain_lines(monkeypatch):
    controller, terminal = pty.openpty()
    with open(terminal, "w") as stream:
        for kind, plain in (("dumb", True), ("xterm", False)):
            monkeypatch.setenv("TERM", kind)
            with Progress(stream) as progress:
                progress.start("SEID", total=1)
                progress.log("photo \x1b]0;title\x07")
            text = b""
            while b"title" not in text:
                text += os.read(controller, 10_000)
            assert (b"SEID 0/1 (0%)" in text) == plain and rb"photo \x1b]0;title\x07" in text
    os.close(controller)


# numba's cache


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A function that loads a small kernel as a new process does, with a cache in tmp_path/cache."""
    from numba.core import config

    source = tmp_path / "kernel.py"
    source.write_text(
        textwrap.dedent(
            """
            from numba import njit
            from specularip.kernels.compiling import cached

            @cached
            @njit
            def add(a, b):
                return a + b
            """
        )
    )
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))

    def load():
        spec = importlib.util.spec_from_file_location("kernel", source)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.add

    return load


def test_kernels_are_cached_and_damaged_caches_mended(kernel, tmp_path, monkeypatch, caplog):
    from specularip.kernels import compiling

    def hits() -> int:
        add = kernel()
        assert add(1, 2) == 3
        return sum(add.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1] and not caplog.records
    for pattern, damage in (
        ("*.nbi", b""), ("*.nbi", b"\x80\x05garbage"), ("*.nbc", b"(((("), ("*.nbc", b"\x80\x05]q\x00.")
    ):  # fmt: skip
        monkeypatch.setattr(compiling._KernelCache, "warned", False)
        caplog.clear()
        [file] = (tmp_path / "cache").rglob(pattern)
        file.write_bytes(damage)
        assert [hits(), hits()] == [0, 1]
        assert len(caplog.records) == 1 and str(file.parent) in caplog.text


def test_kernels_run_where_they_cannot_be_kept(kernel, tmp_path, monkeypatch, caplog):
    from numba.core import caching, config

    from specularip.kernels import compiling

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(compiling._KernelCache, "warned", False)
    with monkeypatch.context() as disk:
        disk.setattr(caching.IndexDataCacheFile, "_save_data", full)
        assert kernel()(1, 2) == 3
    assert "No space left" in caplog.text and "NUMBA_CACHE_DIR" in caplog.text
    assert kernel()(1, 2) == 3  # the index names a file that was not written

    monkeypatch.setattr(compiling._CompilationLogger, "kept", True)
    monkeypatch.setattr(config, "CACHE_LOCATOR_CLASSES", "UserProvidedCacheLocator")
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "kernel.py"))  # a file: no folder can be made
    assert kernel()(1, 2) == 3
    assert not compiling._CompilationLogger.kept


def test_all_kernels_have_the_cache_that_can_fail():
    for path in Path(cli.__file__).parent.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert not any(line.startswith("@njit") and "cache=True" in line for line in lines), path
