"""What is installed: libraries, optional packages, models, ffmpeg. Free of torch."""

from __future__ import annotations

import re
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from specularip.doctor.findings import Finding, shown, without_home

OPTIONAL = {
    "ray": ("ray", "ray", "batches over several processes or machines", "'specularip[ray]'"),
    "tensorboard": ("tensorboard", "tensorboard", "--tensorboard", "'specularip[tensorboard]'"),
    "rembg": ("rembg", "rembg", "`specularip masks`", "'specularip[background]'"),
    "onnxruntime": ("onnxruntime", "onnxruntime", "likeness with --preset sd15", "'specularip[faces]'"),
    "smplx": ("smplx", "smplx", "SMPL-X bodies", "'specularip[smplx]'"),
    "anny": ("anny", "anny", "remaking the body's file, developers only", "'specularip[anny]'"),
    "pillow_heif": ("pillow_heif", "pillow-heif", "photos in HEIC, as iPhones take them", "pillow-heif"),
}
"""By key: module, distribution, what for, and what pip installs."""


def libraries() -> Finding:
    """The packages that specularip requires, by its own metadata."""
    try:
        required = metadata.requires("specularip") or []
    except metadata.PackageNotFoundError:
        return Finding("ok", "not checked: specularip is on the path, but not installed")
    versions: dict[str, str | None] = {}
    wrong = []
    for line in required:
        if "extra ==" in line:
            continue
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
        if versions[name] is None:
            wrong.append(f"{name} is not installed")
        elif not _satisfied(line, versions[name] or ""):
            wrong.append(f"{name} {versions[name]} is too old or too new")
    if wrong:
        command = "pip install --upgrade specularip"
        return Finding("problem", ", ".join(wrong), "install what is missing", command, versions)
    return Finding("ok", f"all {len(versions)} required packages", details=versions)


def _satisfied(requirement: str, version: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # a package of most installations, but not required
        return True
    return Requirement(requirement).specifier.contains(version, prereleases=True)


def optional_package(key: str) -> Finding:
    """Whether one of OPTIONAL is installed. It is not loaded."""
    module, distribution, purpose, name = OPTIONAL[key]
    details = {"version": None, "install": f"pip install {name}"}
    if find_spec(module) is None:
        return Finding("missing", f"for {purpose}", "", f"pip install {name}", details)
    try:
        details["version"] = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Finding("ok", "installed", details=details)
    return Finding("ok", str(details["version"]), details=details)


def compact_models() -> Finding:
    """All files of the compact preset, without checksums."""
    from specularip.models.check import ASSETS, inspect_file, preset_models
    from specularip.presets import preset_config

    files = [
        file for model in preset_models(preset_config("compact"), checksums=False) for file in model.files
    ]
    files += [inspect_file(ASSETS / name) for name in ("head.safetensors", "rig.safetensors")]
    broken = {file.path.relative_to(ASSETS).as_posix(): file.problem for file in files if file.problem}
    if broken:
        text = ", ".join(f"{name}: {problem}" for name, problem in broken.items())[:300]
        advice = "files of the package are damaged: install it again"
        return Finding(
            "problem", text, advice, "pip install --force-reinstall --no-deps specularip", {"broken": broken}
        )
    return Finding("ok", f"complete, {len(files)} files", details={"broken": {}})


def sd15_models() -> Finding:
    """The files of --preset sd15, without checksums."""
    from specularip.models.check import preset_models
    from specularip.presets import preset_config

    models = [
        m for m in preset_models(preset_config("sd15"), checksums=False) if not m.name.startswith("LPIPS")
    ]
    missing = [model.name for model in models if not model.complete]
    details = {"missing": missing, "complete": [model.name for model in models if model.complete]}
    if not missing:
        return Finding("ok", "complete", details=details)
    damaged = any(f.problem.startswith("damaged") for model in models for f in model.files)
    text = f"{len(missing)} of {len(models)} not complete; only --preset sd15 needs them"
    command = "specularip models fetch --preset sd15"
    return Finding("problem" if damaged else "missing", text, "", command, details)


def lpips_weights() -> Finding:
    """The weights of the metric LPIPS, and of the perceptual loss of --preset sd15."""
    from specularip.lpips import LPIPS_VARIABLE, lpips_folder
    from specularip.models.check import preset_models
    from specularip.presets import preset_config

    [model] = [m for m in preset_models(preset_config("sd15"), checksums=False) if m.name.startswith("LPIPS")]
    problems = {file.path.name: file.problem for file in model.files if file.problem}
    details = {"folder": shown(lpips_folder()), "broken": problems, "variable": LPIPS_VARIABLE}
    if not problems:
        return Finding("ok", f"in {shown(lpips_folder())}", details=details)
    damaged = any(problem != "missing" for problem in problems.values())
    text = (
        ", ".join(f"{name}: {problem}" for name, problem in problems.items())
        if damaged
        else "for LPIPS in `eval` and `fit`"
    )
    command = "specularip models fetch --preset sd15"
    return Finding("problem" if damaged else "missing", text, "", command, details)


def ffmpeg() -> Finding:
    """A program that has just encoded a frame."""
    from specularip.errors import UserError
    from specularip.ffmpeg import REMEDY, find_ffmpeg

    try:
        program = find_ffmpeg()
    except UserError as error:
        command = "pip install --force-reinstall imageio-ffmpeg"
        return Finding("problem", str(error).removesuffix(f": {REMEDY}"), REMEDY, command)
    said = subprocess.run([program, "-version"], capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    words = said.stdout.decode(errors="replace").split()
    version = words[2] if words[:2] == ["ffmpeg", "version"] else "of unknown version"
    details = {"version": version, "program": without_home(str(Path(program)))}
    return Finding("ok", f"{version}, encodes H.264", details=details)
