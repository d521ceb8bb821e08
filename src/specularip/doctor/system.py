"""The machine: processor, threads, memory, disks, GPUs by their driver, locale, terminal. Free of torch."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from specularip.doctor.findings import Finding, shown

MEMORY_BYTES = 2.5e9
"""What `generate` with the compact preset takes at its peak, with a margin."""
TEMPORARY_BYTES = 100e6
PROBE_SECONDS = 20.0
FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bf16", "amx_bf16": "AMX"}
"""Names of features in /proc/cpuinfo."""


def python() -> Finding:
    """Python, the operating system, and this package."""
    from specularip.version import __version__

    details = {
        "specularip": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    text = f"{__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Finding("ok", text, details=details)


def processor() -> Finding:
    """Its name, and the vector instructions that kernels are compiled for."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    if sys.platform == "darwin":
        name = _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or name
    for line in _lines("/proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip() or name
        elif key.strip() == "flags":
            flags = set(value.split())
            break
    features = [word for flag, word in FLAGS.items() if flag in flags]
    details = {"name": name, "machine": platform.machine(), "features": features}
    text = ", ".join([name, *features])
    if flags and "avx2" not in flags:
        return Finding("slow", text, "it lacks AVX2: kernels run several times slower", details=details)
    return Finding("ok", text, details=details)


def threads() -> Finding:
    """How many threads the kernels use, of the cores that affinity and containers leave."""
    from specularip.kernels.threads import available_cores, thread_count

    used, cores, all_cores = thread_count(), available_cores(), os.cpu_count() or 1
    limits = {
        name: os.environ[name]
        for name in ("SPECULARIP_NUM_THREADS", "OMP_NUM_THREADS")
        if os.environ.get(name)
    }
    details = {"threads": used, "cores": cores, "cores_of_machine": all_cores, "limits": limits}
    text = f"{used} on {cores} cores"
    if cores < all_cores:
        text += f" (the machine has {all_cores}; affinity or a container leaves {cores})"
    low = [name for name, value in limits.items() if value.isdecimal() and int(value) < cores]
    if low:
        named = " and ".join(f"{name}={limits[name]}" for name in low)
        return Finding("slow", text, f"cores stay idle: {named}", f"unset {' '.join(low)}", details)
    return Finding("ok", text, details=details)


def memory() -> Finding:
    """Of this machine, or of the container."""
    from specularip.resources import free_memory, size_words, total_memory

    total, free = total_memory(), free_memory()
    details = {"total_bytes": total, "free_bytes": free}
    if total is None:
        return Finding("ok", "the system does not say", details=details)
    text = f"{size_words(total)}" if free is None else f"{size_words(free)} free of {size_words(total)}"
    needs = f"`generate` takes about {size_words(MEMORY_BYTES)}"
    if total < MEMORY_BYTES:
        return Finding("problem", text, f"{needs}: use a machine or a container with more", details=details)
    if free is not None and free < MEMORY_BYTES:
        return Finding("slow", text, f"{needs}: end other programs", details=details)
    return Finding("ok", text, details=details)


def disk(folder: Path, needed: float, purpose: str) -> Finding:
    """The room on the disk of a folder, which need not exist yet, and whether files can be created there."""
    from specularip.files import check_writable, existing_folder
    from specularip.resources import size_words

    free = shutil.disk_usage(existing_folder(folder)).free
    details: dict[str, Any] = {"folder": shown(folder), "free_bytes": free, "writable": True}
    text = f"{size_words(free)} free in {shown(folder)}"
    try:
        check_writable(folder / "trial")
    except Exception as error:
        details["writable"] = False
        return Finding("problem", text, f"{error}: {purpose} cannot be there", details=details)
    if free < needed:
        return Finding(
            "problem", text, f"{purpose} may take {size_words(needed)}: make room", details=details
        )
    return Finding("ok", text, details=details)


def current_folder() -> Finding:
    """Where runs are, unless --out says otherwise."""
    from specularip.presets import preset_config
    from specularip.run_folder import run_bytes

    config = preset_config("compact")
    needed = run_bytes(max(config.seid.points, config.seid.max_points), config.scr.target_pixels)
    return disk(Path.cwd(), needed, "a run")


def temporary_folder() -> Finding:
    """The system's folder for temporary files."""
    return disk(Path(tempfile.gettempdir()), TEMPORARY_BYTES, "temporary files")


def models_folder() -> Finding:
    """Where `models fetch` puts what it downloads."""
    from huggingface_hub import constants

    return disk(Path(constants.HF_HUB_CACHE), 0.0, "downloaded models")


def text_encoding() -> Finding:
    """Prompts and paths need UTF-8."""
    names = {
        "files": sys.getfilesystemencoding(),
        "locale": locale.getencoding(),
        "output": getattr(sys.stdout, "encoding", None) or "none",
    }
    text = ", ".join(f"{where} {name}" for where, name in names.items())
    if all(name.lower().replace("-", "") == "utf8" for name in (names["files"], names["locale"])):
        return Finding("ok", "UTF-8", details=names)
    command = "set PYTHONUTF8=1" if os.name == "nt" else "export LC_ALL=C.UTF-8"
    return Finding("problem", text, "texts and paths with other letters than ASCII may fail", command, names)


def terminal() -> Finding:
    """Whether bars are drawn, and how wide."""
    columns = shutil.get_terminal_size().columns
    kind = os.environ.get("TERM", "")
    details = {"terminal": bool(sys.stdout and sys.stdout.isatty()), "columns": columns, "term": kind}
    text = f"{columns} columns" if details["terminal"] else "none: progress is printed as lines"
    return Finding("ok", text, details=details)


def gpus() -> list[dict[str, Any]]:
    """The NVIDIA GPUs that the driver knows, whatever torch sees: name, driver, memory in bytes."""
    query = "--query-gpu=name,driver_version,memory.total,memory.free"
    found = []
    for line in _output(["nvidia-smi", query, "--format=csv,noheader,nounits"]).splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4:
            sizes = [int(part) * 2**20 if part.isdecimal() else None for part in parts[2:]]
            found.append(dict(zip(("name", "driver", "memory_bytes", "free_bytes"), (*parts[:2], *sizes))))
    return found


def _output(command: list[str]) -> str:
    """What a program prints; "" if there is none or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []
