"""`specularip doctor`: all checks in their order, and their findings as text and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from specularip.doctor import installed, system
from specularip.doctor.findings import Check, Finding, found, without_home
from specularip.doctor.processes import try_all
from specularip.errors import escaped, one_line
from specularip.version import __version__

FORMAT = 1
"""Of the JSON: rises when a key changes its meaning or goes."""
WIDTH, TITLE = 80, 19
INDENT = 11
"""Columns of a line, of the titles within it, and before those."""
SELF_TESTS = "Self-tests (half a minute)"

SECTIONS: dict[str, tuple[Check, ...]] = {
    "Machine": (
        Check("python", "specularip", system.python, needed=True),
        Check("processor", "processor", system.processor),
        Check("threads", "threads", system.threads, needed=True),
        Check("memory", "memory", system.memory, needed=True),
        Check("disk.current", "disk: this folder", system.current_folder),
        Check("disk.temporary", "disk: temporary", system.temporary_folder, needed=True),
        Check("disk.models", "disk: models", system.models_folder),
        Check("encoding", "text encoding", system.text_encoding),
        Check("terminal", "terminal", system.terminal),
    ),
    "Installed": (
        Check("libraries", "libraries", installed.libraries, needed=True),
        Check("ffmpeg", "ffmpeg", installed.ffmpeg, needed=True),
        Check("models.compact", "models: compact", installed.compact_models, needed=True),
        Check("models.sd15", "models: sd15", installed.sd15_models),
        Check("models.lpips", "models: LPIPS", installed.lpips_weights),
        *(
            Check(f"package.{key}", package[1], partial(installed.optional_package, key))
            for key, package in installed.OPTIONAL.items()
        ),
    ),
}
TRIED: dict[str, tuple[str, bool]] = {
    "torch": ("torch", True),
    "numba": ("numba", True),
    "gpu": ("GPU", False),
    "gsplat": ("gsplat", False),
    "triton": ("Triton", False),
    "render": ("render", True),
    "gpu_render": ("render on the GPU", False),
    "distil": ("distillation", True),
}
"""Titles of the trials, and whether `generate` with its default settings needs them."""


@dataclass(frozen=True)
class Line:
    """A finding in its section. needed: see `Check`."""

    section: str
    key: str
    title: str
    needed: bool
    finding: Finding

    @property
    def fails(self) -> bool:
        """Whether `generate` with its default settings will not work because of this."""
        return self.needed and self.finding.state in ("missing", "problem")


def examine() -> Iterator[Line]:
    """The findings, one by one; those of the self-tests take some seconds each."""
    for section, checks in SECTIONS.items():
        for check in checks:
            yield Line(section, check.key, check.title, check.needed, found(check.run))
    for name, finding in try_all():
        title, needed = TRIED[name]
        yield Line(SELF_TESTS, name, title, needed, finding)


def as_text(line: Line) -> str:
    """A finding in lines of at most WIDTH columns; commands are not broken."""
    finding = line.finding
    head = f"  {finding.state:<{INDENT - 4}}  "
    title = f"{line.title:<{TITLE}}"
    body = _clean(finding.text)
    rows = textwrap.wrap(
        body, WIDTH, initial_indent=head + title, subsequent_indent=" " * (INDENT + TITLE), **_WORDS
    )
    if finding.state != "ok" and finding.advice:
        margin = " " * INDENT
        rows += textwrap.wrap(
            _clean(finding.advice), WIDTH, initial_indent=margin, subsequent_indent=margin, **_WORDS
        )
    if finding.state != "ok" and finding.command:
        rows.append(f"{' ' * INDENT}$ {_clean(finding.command)}")
    return "\n".join(rows)


_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}


def verdict(lines: list[Line]) -> str:
    """The last line of the text."""
    failing = [line.title for line in lines if line.fails]
    if failing:
        return f"`specularip generate` will not work: see {', '.join(failing)}"
    return "`specularip generate` works with its default settings"


def as_json(lines: list[Line]) -> str:
    """All findings, by stable keys."""
    findings = {
        line.key: {
            "section": line.section,
            "title": line.title,
            "needed": line.needed,
            **asdict(line.finding),
        }
        for line in lines
    }
    whole = {
        "format": FORMAT,
        "specularip": __version__,
        "works": not any(line.fails for line in lines),
        "findings": findings,
    }
    return json.dumps(_json_value(whole), indent=2, allow_nan=False)


def _json_value(value: Any) -> Any:
    """Without the home folder, and None for numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    return escaped(without_home(one_line(text)))
