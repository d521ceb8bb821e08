"""The summary of a batch: index.html, a contact sheet of its avatars, and summary.csv, the same as a table.

    DIR/index.html  DIR/summary.csv  DIR/summary/  (thumbnails of the photos)

Both refer to the files in the jobs' folders by relative paths: the batch's folder can be moved, packed or
served. The page is one file of HTML, style and script, and needs no network. Its cards are plain HTML, which
the script only orders and hides.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from statistics import median
from string import Template
from urllib.parse import quote

from specularip.batch.figures import (
    FIGURES,
    Report,
    duration,
    notes_of,
    read_report,
    stage_seconds,
    text_of,
)
from specularip.batch.states import JobState
from specularip.batch.thumbnails import write_thumbnails
from specularip.errors import escaped
from specularip.files import write_bytes
from specularip.run_folder import AVATAR, REPORT
from specularip.run_folder import PAGE as AVATAR_PAGE
from specularip.viewer.html import policy_hash

PAGE, TABLE, THUMBNAILS = "index.html", "summary.csv", "summary"
STATES = ("done", "failed", "stopped", "waiting")
PREVIEW, TURNTABLE = "preview.png", "turntable.mp4"
DOWNLOADS = (AVATAR, "avatar.ply", TURNTABLE, REPORT)
MAX_FACES = 3
"""Photos shown on a card."""
COLUMNS = (
    "name", "state", "attempts", "reason", "text", "images", "preset", "seed",
    *(figure.column for figure in FIGURES),
    "perceptual_loss", "text_read", "notes", "worker", "source",
)  # fmt: skip
"""Of summary.csv."""
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""What neither HTML nor a table can hold. Marks of the writing direction stay: some languages need them."""
_FORMULA = re.compile(r"[\s']*[=+\-@＝＋－＠]")


@dataclass(frozen=True)
class _Result:
    """A job, and what its folder holds. figures: in the order of FIGURES, None where there is none."""

    state: JobState
    files: frozenset[str]
    figures: tuple[float | None, ...]
    notes: tuple[str, ...]
    stages: dict[str, float]
    text_read: str
    perceptual_loss: str


def write_summary(out: Path, states: Sequence[JobState]) -> Path:
    """Write index.html, summary.csv and the thumbnails of photos into `out`, the folder of the batch, each
    file atomically. Returns the path of index.html.

    The order of `states` is that of the cards and rows. Figures are those of the finished runs' report.json;
    a report that is missing or damaged costs the figures, a photo that cannot be read its thumbnail. Raises
    UserError if a file cannot be written.
    """
    photos = (photo for state in states for photo in state.job.images[:MAX_FACES])
    thumbnails = write_thumbnails(out / THUMBNAILS, photos)
    table = io.StringIO(newline="")
    rows = csv.writer(table)  # RFC 4180: commas, CRLF, doubled quotes
    rows.writerow(COLUMNS)
    cards: list[bytes] = []
    found: list[list[float]] = [[] for _ in FIGURES]
    for state in states:
        result = _read(out, state)
        rows.writerow(_row(result))
        cards.append(_card(result, thumbnails).encode())
        for values, value in zip(found, result.figures):
            if value is not None:
                values.append(value)
    write_bytes(out / TABLE, table.getvalue().encode())
    before, after = _page(out.absolute().name, states, found)
    return write_bytes(out / PAGE, b"".join([before.encode(), *cards, after.encode()]))


def _read(out: Path, state: JobState) -> _Result:
    """The job's folder, one report at a time: thousands of them do not fit in little memory."""
    try:
        with os.scandir(out / state.job.name) as entries:
            found = frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        found = frozenset()
    report: Report = {}
    notes: tuple[str, ...] = ()
    if state.state == "done":
        read = read_report(out / state.job.name / REPORT) if REPORT in found else None
        report = read or {}
        notes = (f"{REPORT} is missing or damaged: no figures",) if read is None else tuple(notes_of(read))
    text_read = text_of(report, "text_read")
    return _Result(
        state,
        found,
        tuple(figure.read(report) for figure in FIGURES),
        notes,
        stage_seconds(report),
        text_read if text_read != state.job.text else "",
        text_of(report, "perceptual_loss"),
    )


# The table.


def _row(result: _Result) -> list[str | int | float | None]:
    """Cells in the order of COLUMNS: numbers as they are, missing ones empty."""
    state, job = result.state, result.state.job
    return [
        _cell(job.name), state.state, state.attempts, _cell(state.reason), _cell(job.text),
        _cell("\n".join(str(path) for path in job.images)), _cell(job.preset), job.seed,
        *result.figures,
        _cell(result.perceptual_loss), _cell(result.text_read), _cell("\n".join(result.notes)),
        _cell(state.worker), _cell(job.source),
    ]  # fmt: skip


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: an apostrophe is put before one that begins like one,
    after spaces and apostrophes if any. It can be undone: where the rest begins so, it was put there.
    See OWASP, "CSV Injection"."""
    text = _printable(text)
    return f"'{text}" if _FORMULA.match(text) else text


def _printable(text: str) -> str:
    return _UNPRINTABLE.sub(lambda found: escaped(found[0]), text)


# The page.


def _page(name: str, states: Sequence[JobState], found: Sequence[list[float]]) -> tuple[str, str]:
    """The page before its cards, and after them. found: the values that there are of each of FIGURES."""
    assets = files("specularip") / "assets" / "summary"
    style, script = ((assets / file).read_text("utf-8") for file in ("style.css", "page.js"))
    policy = (
        f"default-src 'none'; script-src '{policy_hash(script)}'; style-src '{policy_hash(style)}'; "
        "img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    counts = Counter[str](state.state for state in states)
    told = [f"{len(states):,} {'job' if len(states) == 1 else 'jobs'}"]
    told += [f"{counts[state]:,} {state}" for state in STATES if counts[state]]
    if times := found[0]:
        told.append(f"{duration(sum(times))} in all, {duration(median(times))} an avatar")
    known = [(n, figure) for n, figure in enumerate(FIGURES) if found[n]]
    meanings = "".join(f"<dt>{figure.label}</dt><dd>{escape(figure.meaning)}</dd>" for _, figure in known)
    legend = f"<details><summary>What the figures mean</summary><dl>{meanings}</dl></details>"
    chips = [_chip("", "All", len(states))]
    chips += [_chip(state, state.capitalize(), counts[state]) for state in STATES if counts[state]]
    now = datetime.now().astimezone()
    page = Template((assets / "page.html").read_text("utf-8")).substitute(
        policy=policy,
        style=style,
        script=script,
        name=_html(name),
        counts=" · ".join(told),
        time=now.isoformat(timespec="seconds"),
        written=now.strftime("%Y-%m-%d %H:%M %Z"),
        table=TABLE,
        legend=legend if known else "",
        chips="".join(chips),
        orders="".join(
            f'<option value="{figure.column}" data-figure="{n}">{figure.label}</option>'
            for n, figure in known
        ),
        cards="\0",  # the page holds no other one
    )
    before, _, after = page.partition("\0")
    return before, after


def _chip(state: str, label: str, count: int) -> str:
    pressed = "false" if state else "true"
    return (
        f'<button type="button" data-state="{state}" aria-pressed="{pressed}">'
        f"{label} <b>{count:,}</b></button>"
    )


def _card(result: _Result, thumbnails: dict[Path, str]) -> str:
    return "".join(_card_parts(result, thumbnails))


def _card_parts(result: _Result, thumbnails: dict[Path, str]) -> Iterator[str]:
    """The card of a job. Texts are blocks or isolated, so that a mark of the writing direction in one ends
    with it."""
    state, job = result.state, result.state.job
    name, folder = _html(job.name), quote(os.fsencode(job.name), safe="")
    numbers = ",".join("" if figure is None else f"{figure:.6g}" for figure in result.figures)
    turntable = f' data-turntable="{folder}/{TURNTABLE}"' if TURNTABLE in result.files else ""
    yield f'<article class="card" data-state="{state.state}" data-figures="{numbers}"{turntable}>\n'
    page = f'href="{folder}/{AVATAR_PAGE}"' if AVATAR_PAGE in result.files else ""
    # The name is the same link, for the keyboard.
    view = "view" if PREVIEW in result.files else "view empty"
    yield f'<a class="{view}" tabindex="-1" {page}>' if page else f'<div class="{view}">'
    if PREVIEW in result.files:
        # From left to right: front, three-quarter, back, face.
        yield (
            f'<img class="render" src="{folder}/{PREVIEW}" alt="Rendering of {name}" '
            'width="1536" height="384" loading="lazy" decoding="async">'
        )
    if state.state != "done":
        yield f'<b class="badge">{state.state.capitalize()}</b>'
    yield from _faces(job.images, thumbnails)
    yield "</a>\n" if page else "</div>\n"
    title = f"<a {page}>{name}</a>" if page else name
    yield f'<h2 dir="auto">{title}</h2>\n<p class="text" dir="auto">{_html(job.text)}</p>\n'
    if state.state == "failed":
        after = f"After {state.attempts} attempts: " if state.attempts > 1 else ""
        yield f'<p class="reason">{after}<bdi>{_html(state.reason or "no reason is known")}</bdi></p>\n'
    yield from _figures(result)
    yield from _details(result, folder)
    yield "</article>\n"


def _faces(images: Sequence[Path], thumbnails: dict[Path, str]) -> Iterator[str]:
    shown = [image for image in images[:MAX_FACES] if image in thumbnails]
    if not shown:
        return
    yield '<span class="faces">'
    for image in shown:
        yield (
            f'<img src="{THUMBNAILS}/{thumbnails[image]}" alt="Photo {_html(image.name)}" loading="lazy" '
            'decoding="async">'
        )
    if len(images) > len(shown):
        yield f"<i>+{len(images) - len(shown)}</i>"
    yield "</span>"


def _figures(result: _Result) -> Iterator[str]:
    found = [(figure, value) for figure, value in zip(FIGURES, result.figures) if value is not None]
    if not found:
        return
    yield '<dl class="figures">'
    for figure, value in found:
        yield f"<div><dt>{figure.label}</dt><dd>{figure.shown(value)}</dd></div>"
    yield "</dl>\n"


def _details(result: _Result, folder: str) -> Iterator[str]:
    """Folded: notes, how the run was made, its files."""
    state, job = result.state, result.state.job
    count = len(result.notes)
    noted = f' <b class="noted">{count} {"note" if count == 1 else "notes"}</b>' if count else ""
    yield f"<details><summary><bdi>{_html(job.preset)}</bdi> · seed {job.seed}{noted}</summary>\n"
    if result.notes:
        yield '<ul class="notes">'
        yield from (f'<li dir="auto">{_html(note)}</li>' for note in result.notes)
        yield "</ul>\n"
    lines = [
        ("Read as", result.text_read),
        ("Settings", ", ".join(job.settings)),
        ("Stages", ", ".join(f"{stage} {duration(value)}" for stage, value in result.stages.items())),
        ("Attempts", str(state.attempts) if state.attempts > 1 and state.state != "failed" else ""),
        ("Worker", state.worker),
        ("From", job.source),
    ]
    if any(value for _, value in lines):
        yield '<dl class="made">'
        yield from (f'<dt>{label}</dt><dd dir="auto">{_html(value)}</dd>' for label, value in lines if value)
        yield "</dl>\n"
    links = [f'<a href="{folder}/{file}">{file}</a>' for file in DOWNLOADS if file in result.files]
    if links:
        yield f'<p class="files">{" ".join(links)}</p>\n'
    yield "</details>\n"


def _html(text: str) -> str:
    return escape(_printable(text))
