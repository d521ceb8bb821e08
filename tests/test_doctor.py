"""`specularip doctor`: what it finds on whole, bare and damaged installations."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from specularip import cli, resources
from specularip.doctor import installed, processes, report, system, trials
from specularip.doctor.findings import REINSTALL, Finding, found, without_home
from specularip.doctor.processes import TRIALS, tried, try_all
from specularip.doctor.report import SECTIONS, TRIED, WIDTH, Line, as_json, as_text
from specularip.kernels import threads
from specularip.models import check

KEYS = {
    "python", "processor", "threads", "memory", "disk.current", "disk.temporary", "disk.models", "encoding",
    "terminal", "libraries", "ffmpeg", "models.compact", "models.sd15", "models.lpips", "package.ray",
    "package.tensorboard", "package.rembg", "package.onnxruntime", "package.smplx", "package.anny",
    "package.pillow_heif", "torch", "numba", "gpu", "gsplat", "triton", "render", "gpu_render", "distil",
}  # fmt: skip
posix = pytest.mark.skipif(os.name == "nt", reason="needs a shell and signals")


def line(finding: Finding, needed: bool = False, title: str = "render", key: str = "render") -> Line:
    return Line("Self-tests", key, title, needed, finding)


def damaged(folder: Path, module: str, code: str) -> Path:
    """A folder whose module stands before the installed one."""
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    return folder


def run(path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(path), *sys.path])
    command = [sys.executable, "-m", "specularip", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_the_trials_and_their_titles_agree_with_the_keys() -> None:
    assert list(TRIED) == list(TRIALS)
    keys = [check.key for checks in SECTIONS.values() for check in checks] + list(TRIALS)
    assert len(keys) == len(set(keys)) and set(keys) == KEYS, "programs read these names: they stay"


def test_a_render_and_a_step_of_distillation() -> None:
    rendered = trials.render_works()
    assert rendered.state in ("ok", "slow") and rendered.details["difference"] < 1e-5, rendered
    distilled = trials.distil_works()
    assert distilled.state in ("ok", "slow") and distilled.details["gradient"] > 0, distilled


def test_a_render_that_is_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = trials._draw
    monkeypatch.setattr(trials, "_draw", lambda *arguments: draw(*arguments) * 0.98)
    finding = trials.render_works()
    assert finding.state == "problem" and "wrong by" in finding.text and "-delete" in finding.command
    monkeypatch.setattr(trials, "_draw", lambda *arguments: draw(*arguments) * torch.nan)
    assert trials.render_works().state == "problem"


def test_gradients_that_are_not_finite_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from specularip.diffusion import sds

    monkeypatch.setattr(sds, "clip_pixels", lambda gradient, limit: gradient * torch.nan)
    finding = trials.distil_works()
    assert finding.state == "problem" and "gradients" in finding.text
    whole = json.loads(as_json([line(finding, needed=True)]), parse_constant=pytest.fail)
    assert whole["works"] is False and whole["findings"]["render"]["details"]["gradient"] is None


@pytest.mark.parametrize(
    "code, said",
    [
        ("raise ImportError('libtorch.so: no such file')", "ImportError: libtorch.so: no such file"),
        ("raise OSError('libcudart.so.12: cannot open')", "OSError: libcudart.so.12: cannot open"),
        ("__version__ = '2.9'", "AttributeError"),
        ("print('noise'); raise SystemExit(3)", "code 3"),
        pytest.param("import os; os.kill(os.getpid(), 4)", "SIGILL", marks=posix),
    ],
)
def test_a_torch_that_does_not_load(tmp_path: Path, code: str, said: str) -> None:
    done = run(damaged(tmp_path / "bad", "torch", code), "--json")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    whole = json.loads(done.stdout)
    findings = whole["findings"]
    assert whole["works"] is False and set(findings) == KEYS
    assert findings["torch"]["state"] == "problem" and said in findings["torch"]["text"]
    assert findings["render"]["text"] == "not tried: torch must work first"
    assert findings["models.compact"]["state"] == findings["ffmpeg"]["state"] == "ok"


@pytest.mark.parametrize("module", ["numba", "numpy", "diffusers"])
def test_another_library_that_does_not_load(tmp_path: Path, module: str) -> None:
    bad = damaged(tmp_path / "bad", module, "raise ImportError('it is broken')")
    done = run(bad)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "ImportError: it is broken" in done.stdout and f"$ {REINSTALL}" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("`specularip generate` will not work: see ")


def test_a_library_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = damaged(tmp_path, "torch", "import time; time.sleep(600)")
    monkeypatch.setattr(sys, "path", [str(bad), *sys.path])
    findings = dict(try_all(seconds=2))
    assert findings["torch"].text == "not done after 2 seconds"
    assert set(findings) == set(TRIALS) and findings["distil"].state == "problem"


@posix
def test_the_trials_after_one_that_kills_the_process_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = damaged(tmp_path, "triton", "import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(sys, "path", [str(bad), *sys.path])
    findings = dict(try_all(("torch", "triton", "gsplat")))
    assert findings["torch"].state == "ok" and "SIGSEGV" in findings["triton"].text
    assert findings["gsplat"].state == "missing"


def test_damaged_files_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed.compact_models().state == "ok"
    for source in check.ASSETS.rglob("*"):
        target = tmp_path / source.relative_to(check.ASSETS)
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
    monkeypatch.setattr(check, "ASSETS", tmp_path)
    [weights] = (tmp_path / "compact" / "unet").glob("*.safetensors")
    half = weights.read_bytes()[:1000]
    weights.unlink()
    weights.write_bytes(half)
    (tmp_path / "rig.safetensors").unlink()
    finding = installed.compact_models()
    assert finding.state == "problem" and finding.command.startswith("pip install")
    assert set(finding.details["broken"]) == {f"compact/unet/{weights.name}", "rig.safetensors"}


def test_a_damaged_prior_is_a_finding_of_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    from specularip import run_networks

    def damaged_prior(*arguments: Any) -> None:
        raise RuntimeError("Error(s) in loading state_dict:\n size mismatch")

    monkeypatch.setattr(run_networks, "load_prior", damaged_prior)
    finding = tried("distil", set())
    assert finding.state == "problem" and finding.text == "RuntimeError: Error(s) in loading state_dict:"


def test_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed.libraries().state == "ok"
    required = ["numpy>=2.0", "no-such-package-here>=1", "torch<1", 'ray>=2.40; extra == "ray"']
    monkeypatch.setattr(metadata, "requires", lambda name: required)
    finding = installed.libraries()
    assert finding.state == "problem" and "no-such-package-here is not installed" in finding.text
    assert "torch" in finding.text and "numpy" not in finding.text and "ray" not in finding.details


def test_optional_packages_name_what_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    for key in installed.OPTIONAL:
        finding = installed.optional_package(key)
        assert finding.state == "missing" and finding.command.startswith("pip install ")
    assert installed.optional_package("ray").command == "pip install 'specularip[ray]'"


def test_an_ffmpeg_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert installed.ffmpeg().state == "ok"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "absent"))
    finding = installed.ffmpeg()
    assert finding.state == "problem" and "install ffmpeg" in finding.advice


@posix
def test_a_gpu_that_torch_does_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'NVIDIA L4, 580.1, 23034, 22000'\necho 'NVIDIA L4, 580.1, [N/A], 1'\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    first, second = system.gpus()
    assert first["name"] == "NVIDIA L4" and first["free_bytes"] == 22000 * 2**20
    assert second["memory_bytes"] is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    finding = trials.gpu_works()
    assert finding.state == "problem" and "CPU build" in finding.advice
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "driver 580.1" in trials.gpu_works().advice
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert trials.gpu_works().command == "unset CUDA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    "version, compiled, word",
    [
        ("1.4.0", False, "version 1.5.3 is needed"),
        ("1.5.3", False, "no compiled kernels"),
        ("1.5.3+pt24cu124", True, "built for another torch (pt24cu124)"),
    ],
)
def test_a_gsplat_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, compiled: bool, word: str
) -> None:
    from specularip.errors import UserError
    from specularip.raster import cuda

    package = tmp_path / "gsplat"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if compiled:
        (package / "csrc.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")

    def fail() -> None:
        raise UserError("gsplat has no compiled kernels and found no CUDA toolkit")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(cuda, "check_kernels", fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trials, "version", lambda name: version)
    for name in [name for name in sys.modules if name.split(".")[0] == "gsplat"]:
        monkeypatch.delitem(sys.modules, name)
    finding = trials.gsplat_works()
    assert finding.state == "problem" and word in finding.advice, finding


@pytest.mark.gpu(needs="gsplat")
def test_on_a_gpu() -> None:
    for trial in (trials.gpu_works, trials.gsplat_works, trials.triton_works, trials.gpu_render_works):
        assert trial().state in ("ok", "slow"), trial()


def test_threads_that_are_left_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SPECULARIP_NUM_THREADS", raising=False)
    assert system.threads().state == "ok" and system.threads().details["threads"] == 8
    monkeypatch.setenv("SPECULARIP_NUM_THREADS", "2")
    assert system.threads().command == "unset SPECULARIP_NUM_THREADS"
    monkeypatch.setenv("SPECULARIP_NUM_THREADS", "two")
    assert found(system.threads).text == "SPECULARIP_NUM_THREADS must be a positive whole number, not 'two'"


def test_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:   64000000 kB\n")
    for name, value in (("memory.max", "4000000000"), ("memory.current", "3500000000")):
        (tmp_path / name).write_text(value)
    (tmp_path / "memory.stat").write_text("anon 2\ninactive_file 500000000\n")
    monkeypatch.setattr(resources, "MEMORY_INFO", tmp_path / "meminfo")
    monkeypatch.setattr(resources, "MEMORY_LIMIT", tmp_path / "memory.max")
    assert resources.free_memory() == 1e9
    finding = system.memory()
    assert finding.state == "slow" and finding.text.startswith("1.0 GB free of 4.0 GB")
    (tmp_path / "memory.max").write_text("1000000000")
    assert system.memory().state == "problem"
    (tmp_path / "memory.max").write_text("max")
    assert resources.free_memory() == 64e6 * 1024


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = found(lambda: system.disk(tmp_path / "file" / "below", 0, "a run"))
    assert finding.state == "problem"
    assert system.disk(tmp_path, 1e18, "a run").advice == "a run may take 1000000000.0 GB: make room"


def test_the_home_folder_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jane")
    monkeypatch.setenv("USERPROFILE", "/home/jane")
    assert without_home("in /home/jane/x:/home/jane, /home/janet/y") == "in ~/x:~, /home/janet/y"
    finding = Finding(
        "problem", "/home/jane/a", "see /home/jane/b", "rm /home/jane/c", {"at": ["/home/jane"]}
    )
    assert "jane" not in as_text(line(finding)) + as_json([line(finding)])
    monkeypatch.setenv("HOME", "/")
    assert without_home("/usr/bin") == "/usr/bin"


def test_lines_are_at_most_80_columns_wide_and_without_escapes() -> None:
    long = "word " * 50 + "\x1b[31m"
    text = as_text(line(Finding("problem", long, long, "pip install 'a b'"), title="render on the GPU"))
    assert max(map(len, text.splitlines())) <= WIDTH and "\x1b" not in text
    assert text.splitlines()[0].startswith("  problem  render on the GPU  word")
    assert text.splitlines()[-1] == "           $ pip install 'a b'"
    assert as_text(line(Finding("ok", "fine", "advice", "command"))) == "  ok       render             fine"


@pytest.mark.parametrize(
    "state, needed, code", [("problem", True, 1), ("problem", False, 0), ("slow", True, 0)]
)
def test_the_exit_code_says_whether_the_default_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Any, needed: bool, code: int
) -> None:
    monkeypatch.setattr(report, "examine", lambda: iter([line(Finding(state, "seen"), needed)]))

    def ended(run: Callable[[], None]) -> int:
        try:
            run()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    assert ended(cli.doctor) == code
    assert capsys.readouterr().out.splitlines()[-1] == (
        "`specularip generate` will not work: see render"
        if code
        else "`specularip generate` works with its default settings"
    )
    assert ended(lambda: cli.doctor(json=True)) == code
    assert json.loads(capsys.readouterr().out)["works"] is (code == 0)


def test_what_libraries_print_is_not_among_the_findings(capsys: pytest.CaptureFixture[str]) -> None:
    def noisy() -> Finding:
        print("hello from a library")
        return Finding("ok", "fine")

    assert found(noisy).text == "fine"
    assert capsys.readouterr().out == ""


def test_the_parent_loads_no_torch() -> None:
    code = "import sys\nfrom specularip.doctor import report\nassert 'torch' not in sys.modules"
    code += " and 'numpy' not in sys.modules and 'numba' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
    assert processes.SECONDS > 60
