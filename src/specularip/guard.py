"""The edge of the command: whatever ends it becomes one line on stderr and an exit code, never a traceback.

With `--debug`, or SPECULARIP_DEBUG=1 in the environment, the traceback comes before the line.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from specularip.errors import ADVICE, UserError, first_line, one_line, reason
from specularip.streams import output_error

USER_ERROR, FAULT, STOPPED = 2, 70, 130
"""Exit codes: an error that the user can fix; a fault of this package (EX_SOFTWARE of sysexits.h); stopped by
Ctrl-C, SIGTERM or SIGHUP."""
DEBUG_VARIABLE = "SPECULARIP_DEBUG"


def wants_debug(arguments: list[str]) -> bool:
    """Whether tracebacks are to be shown. Takes `--debug`, which may stand anywhere, out of the arguments."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given = "--debug" in arguments[:end]
    arguments[:end] = [argument for argument in arguments[:end] if argument != "--debug"]
    return given or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@contextmanager
def guard(debug: bool = False) -> Iterator[None]:
    """End the process as the exception of the block demands; go on if there is none."""
    # Python prints tracebacks of errors that end nothing but a thread or a clean-up. Hooks of others stay.
    if not debug and threading.excepthook is threading.__excepthook__:
        threading.excepthook = _report_thread
    if not debug and sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _report_unraisable
    try:
        try:
            yield
        except SystemExit as end:
            if not end.code:
                _check_output()
            raise
        _check_output()
    except KeyboardInterrupt:
        _end(STOPPED, "stopped", debug)
    except Exception as error:
        code, text = explain(error)
        _end(code, f"specularip: error: {text}", debug)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code for an error, and the line that says what is wrong and what to do."""
    if isinstance(error, UserError):
        return USER_ERROR, one_line(_with_advice(str(error), error.__context__))
    if _is_out_of_memory(error):
        return USER_ERROR, (
            "memory ran out: end other programs, or ask for less (a smaller --size, fewer --points, fewer or "
            f"smaller images) ({one_line(first_line(error), 120)})"
        )
    if isinstance(error, RecursionError):
        return FAULT, f"an input is nested too deeply to be read: check it, or {_report(error)}"
    if isinstance(error, OSError) and error.errno is not None:
        return USER_ERROR, _explain_os_error(error)
    ours = isinstance(error, ImportError) and (error.name or "").startswith("specularip")
    if isinstance(error, ImportError | OSError) and not ours:  # llvmlite raises OSError for a library
        return USER_ERROR, (
            "a library cannot be loaded: end other programs if memory is short, else install specularip "
            f"again ({one_line(first_line(error), 200)})"
        )
    return FAULT, f"this is a fault of specularip: {_report(error)}"


def _with_advice(text: str, cause: BaseException | None) -> str:
    """A message, and what to do where the process has no file handles left, whichever file it was."""
    if isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE):
        advice = ADVICE[cause.errno]
        return text if advice in text else f"{text}: {advice}"
    return text


def _check_output() -> None:
    if (error := output_error()) is not None:
        raise UserError(f"the work is done, but not all output could be written: {error.strerror}")


def _explain_os_error(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the current folder does not exist any more: change to another with cd"
    name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return one_line(f"{name}{reason(error)}")


def _is_out_of_memory(error: Exception) -> bool:
    """Also torch's errors: OutOfMemoryError on a GPU; on the CPU a RuntimeError that only its text tells."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _report(error: BaseException) -> str:
    """What to report, and how."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next(
        (frame for frame in reversed(frames) if f"{os.sep}specularip{os.sep}" in frame.filename), None
    )
    where = "" if frame is None else f" in {Path(frame.filename).name}, line {frame.lineno}"
    name, text = type(error).__name__, str(error).strip()
    what = f"{name}: {one_line(text, 200)}" if text else name
    return f"report it with the whole command and what it prints with --debug ({what}{where})"


def _end(code: int, line: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def _report_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        print(f"specularip: a thread failed: {_report(args.exc_value)}", file=sys.stderr)


def _report_unraisable(args: sys.UnraisableHookArgs) -> None:
    """Errors of clean-ups. Another Ctrl-C while the process ends is none."""
    if args.exc_value is not None and not isinstance(args.exc_value, KeyboardInterrupt):
        print(f"specularip: warning: {one_line(repr(args.exc_value))}", file=sys.stderr)
