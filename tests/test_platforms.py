"""The package imports without the standard library's Unix modules and without GPU libraries."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys

# Torch, SciPy and the like first: only the package's own imports are in question.
import diffusers, numba, scipy.ndimage, skimage.transform, torch, transformers

for name in {absent}:
    sys.modules[name] = None  # `import name` raises ModuleNotFoundError

import specularip

for module in pkgutil.walk_packages(specularip.__path__, "specularip."):
    if module.name == "specularip.__main__":
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name not in ("triton", "triton.language"):  # the kernels themselves need it
            raise
    else:
        print(module.name)
"""
UNIX_ONLY = ("resource", "fcntl", "termios", "pwd", "grp", "syslog")
GPU_ONLY = ("triton", "gsplat")


def test_imports_on_windows_and_macos_and_without_a_gpu() -> None:
    code = CODE.format(absent=(*UNIX_ONLY, *GPU_ONLY))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    imported = result.stdout.split()
    assert {"specularip.pipeline", "specularip.cli", "specularip.fitting.fit", "specularip.raster"} <= set(
        imported
    )
