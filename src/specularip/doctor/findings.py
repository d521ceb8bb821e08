"""What a check found, and checks that never raise."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from specularip.errors import UserError, first_line

State = Literal["ok", "missing", "slow", "problem"]
"""missing: not there, and some feature needs it. slow: works, with less speed. problem: does not work."""
REINSTALL = "pip install --force-reinstall specularip"
"""With all that it requires."""


@dataclass(frozen=True)
class Finding:
    """text: what was found, in a few words. advice: what to do about it, a line; command: what to type for
    that, exactly. details: JSON values for programs."""

    state: State
    text: str
    advice: str = ""
    command: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """key: its name for programs, which stays. title: for people. needed: by `generate` with its default
    settings."""

    key: str
    title: str
    run: Callable[[], Finding]
    needed: bool = False


def found(run: Callable[[], Finding]) -> Finding:
    """What a check finds. An error of any kind is a finding: an installation may be damaged anywhere. What
    libraries print goes to stderr."""
    try:
        with redirect_stdout(sys.stderr):
            return run()
    except UserError as error:
        return Finding("problem", str(error))
    except Exception as error:
        text = f"{type(error).__name__}: {first_line(error)}"[:300]
        return Finding("problem", text, "install again; if that does not help, report this", REINSTALL)


def without_home(text: str) -> str:
    """A text, such as a path or an error, with the home folder as ~: its name is often the user's."""
    homes = {os.path.expanduser("~"), os.path.realpath(os.path.expanduser("~"))}
    for home in sorted(homes, key=len, reverse=True):
        if home not in ("~", os.path.abspath(os.sep)):
            text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    return text


def shown(path: str | Path) -> str:
    """A path as people see it."""
    return without_home(os.path.abspath(path))
