"""The summary of a batch: the table, the contact sheet as HTML, and what the page does in a browser."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser, find_chromium
from PIL import Image

from specularip.batch import summary
from specularip.batch.figures import MAX_BYTES, duration, number
from specularip.batch.jobs import Job
from specularip.batch.states import JobState
from specularip.batch.summary import COLUMNS, write_summary
from specularip.errors import UserError, escaped
from specularip.export.video import write_video

RED = "A woman in a red satin dress"
REPORT: dict[str, Any] = {
    "text": RED,
    "text_read": f"{RED}, with short blonde hair",
    "head": {"shape": [0.5], "landmark errors": [0.01, 0.02157]},
    "perceptual_loss": "encoder-features",
    "init": None,
    "gaussians": 51213,
    "last_metrics": {"seid": {"loss": 0.1}, "fit": {"loss": 0.014, "l1": 0.000947, "perceptual": 0.00461}},
    "notes": ["the text names no hair; as in the photo: short blonde hair"],
    "seconds": {"load": 17.5, "seid": 157.75, "fit": 65.5},
    "peak_memory_gib": 1.827,
    "peak_gpu_gib": None,
}
NASTY = "</script><script>alert(1)</script>\u202e\"quoted\" & <b onmouseover=x()>'it'</b>\0\ud800"


def made(out: Path, name: str, report: object = REPORT, **more: Any) -> JobState:
    """A finished run. report: bytes, or a value that becomes JSON; None: there is no file."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    if report is not None:
        data = report if isinstance(report, bytes) else json.dumps(report).encode()
        (folder / "report.json").write_bytes(data)
    job = Job(name, more.pop("text", RED), more.pop("images", ()), **more)
    return JobState(job, "done", attempts=1)


def table(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


class Page(HTMLParser):
    """What a parser of HTML finds: elements with their attributes, and the text within each card."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cards: list[str] = []
        self.heading = ""
        self._inside: list[str] = []
        self.feed(path.read_text("utf-8"))
        assert not self._inside, f"not closed: {self._inside}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input"):
            self._inside.append(tag)
        if tag == "article":
            self.cards.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" in self._inside:
            self.cards[-1] += data
        elif "header" in self._inside:
            self.heading += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# The table.


def test_the_table_has_a_row_for_each_job_in_the_order_given(tmp_path: Path) -> None:
    photos = (tmp_path / "a.png", tmp_path / "b.png")
    done = made(tmp_path, "red", seed=7, images=photos, source="jobs.csv, line 2")
    failed = JobState(Job("blue", "A man, in a blue coat", ()), "failed", "no face is found", 3, "node-2")
    waiting = JobState(Job("later", "A man", ()), "waiting")
    write_summary(tmp_path, [failed, replace(done, worker="node-1, process 5"), waiting])
    rows = table(tmp_path)
    assert [row["name"] for row in rows] == ["blue", "red", "later"]
    assert rows[1] == {
        "name": "red", "state": "done", "attempts": "1", "reason": "", "text": RED,
        "images": "\n".join(map(str, photos)), "preset": "compact", "seed": "7", "seconds": "240.75",
        "peak_memory_gib": "1.827", "peak_gpu_gib": "", "gaussians": "51213.0", "landmark_error": "0.02157",
        "fit_l1": "0.000947", "fit_perceptual": "0.00461", "silhouette_iou": "",
        "perceptual_loss": "encoder-features", "text_read": f"{RED}, with short blonde hair",
        "notes": REPORT["notes"][0], "worker": "node-1, process 5", "source": "jobs.csv, line 2",
    }  # fmt: skip
    assert rows[0]["reason"] == "no face is found" and rows[0]["attempts"] == "3"
    assert rows[0]["text"] == "A man, in a blue coat" and rows[0]["seconds"] == ""


def test_the_table_is_as_rfc_4180_has_it(tmp_path: Path) -> None:
    write_summary(tmp_path, [JobState(Job("a", 'says "hi",\nand é', ()), "waiting")])
    data = (tmp_path / "summary.csv").read_bytes()
    assert data.startswith(",".join(COLUMNS).encode() + b"\r\n") and data.endswith(b"\r\n")
    assert '"says ""hi"",\nand é"'.encode() in data


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1", "\n=1", "'=1", "''=1", "＝1", "'tis", "a=1", "", "' x"],
)
def test_no_cell_is_a_formula_and_each_can_be_restored(tmp_path: Path, text: str) -> None:
    write_summary(tmp_path, [JobState(Job("a", text, (), preset=text), "failed", text, worker=text)])
    [row] = table(tmp_path)
    for column in ("text", "preset", "reason", "worker"):
        cell = row[column]
        assert cell.lstrip()[:1] not in ("=", "+", "-", "@", "＝")
        begins_like_one = cell.lstrip("' \t\n")[:1] in set("=+-@＝")
        assert (cell[1:] if begins_like_one else cell) == text


# Damaged reports.

DAMAGED: dict[str, object] = {
    "missing": None,
    "empty": b"",
    "cut": json.dumps(REPORT).encode()[:200],
    "not UTF-8": b"\xff\xfe\x00{",
    "nested": b"[" * 200_000,
    "half a character": b'{"text_read": "\\ud800"}',
    "too long": b'{"notes": ["' + b"x" * MAX_BYTES + b'"]}',
    "a list": [1, 2],
    "null": b"null",
}
FOREIGN: dict[str, Mapping[str, Any]] = {
    "nothing": {},
    "texts": dict.fromkeys(REPORT, "text"),
    "lists": {key: [["x"], None] for key in REPORT},
    "objects": {key: {"fit": {"l1": {}}, "silhouette_iou": [], "x": None} for key in REPORT},
    "numbers": dict.fromkeys(REPORT, -1),
    "infinite": {**dict.fromkeys(REPORT, float("inf")), "seconds": {"fit": float("nan"), "seid": 1e300}},
    "huge": {"gaussians": 10**400, "peak_memory_gib": True, "seconds": {"x" * 9999: 10**30}},
    "control characters": {"notes": ["\0\x1b[31m"], "text_read": "\0", "perceptual_loss": "\x1b"},
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_report_costs_the_figures_and_is_said(tmp_path: Path, kind: str) -> None:
    write_summary(tmp_path, [made(tmp_path, "a", DAMAGED[kind])])
    [row], page = table(tmp_path), Page(tmp_path / "index.html")
    assert row["notes"] == "report.json is missing or damaged: no figures" and row["state"] == "done"
    assert row["seconds"] == row["gaussians"] == "" and row["notes"] in page.cards[0]


@pytest.mark.parametrize("kind", FOREIGN)
def test_entries_of_wrong_types_are_missing_figures(tmp_path: Path, kind: str) -> None:
    write_summary(tmp_path, [made(tmp_path, "a", FOREIGN[kind]), made(tmp_path, "b")])
    rows, page = table(tmp_path), Page(tmp_path / "index.html")
    assert all(rows[0][figure.column] == "" for figure in summary.FIGURES)
    assert rows[1]["seconds"] == "240.75" and len(page.cards) == 2


def test_a_report_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    state = made(tmp_path, "a", None)
    os.mkfifo(tmp_path / "a" / "report.json")
    write_summary(tmp_path, [state])
    assert "missing or damaged" in table(tmp_path)[0]["notes"]


def test_numbers_and_durations() -> None:
    assert [number(value) for value in (0, 2.5, True, "1", None, -1, float("nan"), 10**400)] == [
        0.0, 2.5, None, None, None, None, None, None
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0.4, 59.6, 814, 3599.7, 9660)] == [
        "0 s", "1 min 0 s", "13 min 34 s", "1 h 0 min", "2 h 41 min"
    ]  # fmt: skip


# The page.


def test_the_page_shows_each_job_with_its_files(tmp_path: Path) -> None:
    out = tmp_path / "gallery"
    state = made(out, "a b#1?%", seed=3)
    for name in ("preview.png", "turntable.mp4", "avatar.html", "avatar.safetensors"):
        (out / "a b#1?%" / name).write_bytes(b"x")
    failed = JobState(Job("blue", "A man", ()), "failed", "no face is found", 3)
    assert write_summary(out, [state, failed]) == out / "index.html"
    page = Page(out / "index.html")
    assert "2 jobs · 1 done · 1 failed · 4 min 1 s in all" in page.heading and "gallery" in page.heading
    card = page.cards[0]
    for shown in (RED, "4 min 1 s", "1.83 GiB", "51,213", "2.2 %", "0.00095", "compact · seed 3", "1 note"):
        assert shown in card
    assert "with short blonde hair" in card and "seid 2 min 38 s" in card
    assert "After 3 attempts: no face is found" in page.cards[1]
    links = [a["href"] for a in page.all("a") if a.get("href")]
    targets = [out / unquote(str(link)) for link in links]
    assert all(target.is_file() for target in targets)
    assert {target.name for target in targets} == {
        "summary.csv", "avatar.html", "avatar.safetensors", "turntable.mp4", "report.json"
    }  # fmt: skip
    [image] = page.all("img")
    assert image["loading"] == "lazy" and image["alt"] == "Rendering of a b#1?%"
    assert unquote(str(page.all("article")[0]["data-turntable"])) == "a b#1?%/turntable.mp4"


def test_what_comes_from_files_and_users_is_text(tmp_path: Path) -> None:
    whole = NASTY.replace("\ud800", "")  # a report with half a character is damaged
    report = {
        **REPORT,
        "text_read": f"{whole}!",
        "notes": [whole],
        "seconds": {whole: 1.0},
        "perceptual_loss": whole,
    }
    state = made(tmp_path, "a", report, text=NASTY, preset=NASTY, settings=(NASTY,), source=NASTY)
    state = replace(state, worker=NASTY)
    failed = JobState(Job("b", NASTY, (Path("/" + NASTY.replace("\0", "")),)), "failed", NASTY)
    write_summary(tmp_path, [state, failed])
    page = Page(tmp_path / "index.html")
    assert len(page.all("script")) == 1 and not [b for b in page.all("b") if "onmouseover" in b]
    assert not [names for _, names in page.elements if any(name.startswith("on") for name in names)]
    shown = NASTY.replace("\0", "\\x00").replace("\ud800", "\\ud800")
    assert page.cards[0].count(shown) == 5  # text, preset, settings, worker, source
    assert page.cards[0].count(shown.replace("\\ud800", "!")) == 1  # as it was read
    assert page.cards[0].count(escaped(whole)) == 1  # the note
    assert page.cards[1].count(shown) == 2  # text, reason
    assert table(tmp_path)[1]["text"] == shown


def test_a_job_without_a_folder_and_no_jobs_at_all(tmp_path: Path) -> None:
    write_summary(tmp_path / "new", [])
    assert "0 jobs" in Page(tmp_path / "new" / "index.html").heading and table(tmp_path / "new") == []
    write_summary(tmp_path, [JobState(Job("a", "A man", ()), "stopped"), JobState(Job("b", "x", ()), "done")])
    page = Page(tmp_path / "index.html")
    assert "Stopped" in page.cards[0] and "missing or damaged" in page.cards[1]


# Thumbnails.


def photo(path: Path, grey: int = 90, size: tuple[int, int] = (300, 400)) -> Path:
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def thumbnails(out: Path) -> list[Path]:
    return sorted((out / "summary").iterdir())


def test_each_photo_has_one_thumbnail_which_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, face = tmp_path / "out", photo(tmp_path / "face.png")
    states = [JobState(Job(name, "A man", (face,)), "waiting") for name in "abc"]
    write_summary(out, states)
    [thumbnail] = thumbnails(out)
    assert Image.open(thumbnail).size == (192, 256)
    sources = [str(image["src"]) for image in Page(out / "index.html").all("img")]
    assert sources == [f"summary/{thumbnail.name}"] * 3
    before = thumbnail.stat()
    write_summary(out, states)
    assert thumbnail.stat().st_ino == before.st_ino
    # Another photo in its place, though it is older.
    photo(face, 200)
    os.utime(face, (1e9, 1e9))
    write_summary(out, states)
    assert np.asarray(Image.open(thumbnail)).mean() == pytest.approx(200, abs=3)
    # The photo is gone: its thumbnail still shows it. A batch without it does not keep it.
    face.unlink()
    write_summary(out, states)
    assert thumbnails(out) == [thumbnail]
    (out / "summary" / "of-another.jpg").write_bytes(b"x")
    write_summary(out, [])
    assert [path.name for path in thumbnails(out)] == ["of-another.jpg"]


def test_photos_that_cannot_be_read_have_none(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    photo(tmp_path / "cut.png", size=(800, 800))
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    names = ("text.jpg", "cut.png", "missing.jpg", ".")
    images = (*(tmp_path / name for name in names), Path("/dev/zero"))
    states = [JobState(Job("a", "A man", (image,)), "waiting") for image in images]
    write_summary(tmp_path / "out", states)
    assert not Page(tmp_path / "out" / "index.html").all("img")


def test_of_many_photos_the_first_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    faces = tuple(photo(tmp_path / f"{n}.png") for n in range(5))
    write_summary(tmp_path / "out", [JobState(Job("a", "A man", faces), "waiting")])
    page = Page(tmp_path / "out" / "index.html")
    assert [image["alt"] for image in page.all("img")] == [f"Photo {n}.png" for n in range(3)]
    assert "+2" in page.cards[0]


# Writing.


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    write_summary(tmp_path, [JobState(Job("a", "A man", ()), "waiting")])
    before = (tmp_path / "index.html").read_bytes()
    (tmp_path / "summary.csv").unlink()
    (tmp_path / "summary.csv").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*summary\.csv"):
        write_summary(tmp_path, [])
    assert (tmp_path / "index.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "summary.csv"}


MEASURE = """
import resource, sys, time
from pathlib import Path
from specularip.batch.jobs import Job
from specularip.batch.states import JobState
from specularip.batch.summary import write_summary

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)

out = Path(sys.argv[1])
states = [JobState(Job(path.name, "A woman in red", ()), "done", "", 1) for path in sorted(out.iterdir())]
write_summary(out, states[:10])
memory, began = peak(), time.process_time()
write_summary(out, states)
print(time.process_time() - began, peak() - memory)
"""


def test_thousands_of_finished_jobs_take_little_time_and_memory(tmp_path: Path) -> None:
    jobs = 1000  # a tenth of 10,000, with a tenth of the 5 s and 150 MB allowed for those
    report = json.dumps({**REPORT, "settings": {"rates": [0.125] * 900}})  # 7 KB, as real ones
    for n in range(jobs):
        (tmp_path / f"{n:05d}").mkdir()
        (tmp_path / f"{n:05d}" / "report.json").write_text(report)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, timeout=120
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 0.5 and megabytes < 15, done.stdout
    assert len(table(tmp_path)) == jobs == len(Page(tmp_path / "index.html").cards)
    assert (tmp_path / "index.html").stat().st_size < 2000 * jobs


def test_the_page_is_part_of_the_package() -> None:
    # As pyproject.toml has it, the wheel holds all of the package but what git ignores.
    root = Path(summary.__file__).parents[3]
    names = [f"src/specularip/assets/summary/{name}" for name in ("page.html", "style.css", "page.js")]
    assert all((root / name).is_file() for name in names)
    if (root / ".git").exists():
        listed = subprocess.run(["git", "check-ignore", *names], cwd=root, capture_output=True, text=True)
        assert listed.stdout == ""


# In a browser.


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five jobs, two of which have renderings and turntables."""
    base = tmp_path_factory.mktemp("batch")
    out, face = base / "gallery", photo(base / "face.png")
    states = []
    for name, seconds in (("robe-10", 50.0), ("robe-9", 700.0)):
        report = {**REPORT, "seconds": {"fit": seconds}}
        states.append(made(out, name, report, text=f"{RED} of {name}", images=(face,)))
        preview = np.full((32, 128, 3), 150, np.uint8)
        preview[:, :32] = (255, 0, 0)
        preview[:, 96:] = (0, 0, 255)
        Image.fromarray(preview).save(out / name / "preview.png")
        (out / name / "avatar.html").write_text("<title>the avatar</title>")
        write_video([np.full((64, 64, 3), 20 * k, np.uint8) for k in range(10)], out / name / "turntable.mp4")
    states.append(JobState(Job("coat", "Ein Mann im Mantel, grün", ()), "failed", "no face is found", 2))
    states.append(JobState(Job("later", NASTY, ()), "waiting"))
    states.append(JobState(Job("Hat", "A man with a hat", ()), "stopped"))
    write_summary(out, states)
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    with Browser(1280, 900) as running:
        yield running


@pytest.fixture
def page(browser: Browser, gallery: Path) -> Browser:
    browser.resize(1280, 900)
    browser.mouse("mouseMoved", (5, 5))
    browser.goto("about:blank")
    browser.goto(gallery / "index.html")
    return browser


SHOWN = "[...document.querySelectorAll('.card:not([hidden]) h2')].map((title) => title.textContent)"
ALL = ["robe-10", "robe-9", "coat", "later", "Hat"]


def choose(page: Browser, name: str, value: str) -> None:
    page.evaluate(
        "(id, value) => { const it = document.getElementById(id); it.value = value; "
        "it.dispatchEvent(new Event(it.type === 'search' ? 'input' : 'change')); }",
        name, value,
    )  # fmt: skip


def test_the_page_opens_from_disk_without_a_network(page: Browser, gallery: Path) -> None:
    page.wait_for("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert page.evaluate(SHOWN) == ALL and not page.errors and not page.outside_requests()
    assert all(url.startswith(gallery.as_uri()) for url in page.requests if "gallery" in url)


def test_cards_are_put_in_order(page: Browser) -> None:
    choose(page, "order", "name")
    assert page.evaluate(SHOWN) == ["coat", "Hat", "later", "robe-9", "robe-10"]
    choose(page, "order", "seconds")  # by time; jobs without one are last, in both directions
    assert page.evaluate(SHOWN) == ALL
    page.evaluate("document.getElementById('reverse').click()")
    assert page.evaluate(SHOWN) == ["robe-9", "robe-10", "coat", "later", "Hat"]
    choose(page, "order", "")
    assert page.evaluate(SHOWN) == ALL[::-1]


def test_cards_are_filtered_by_words_and_state_and_a_reload_keeps_it(page: Browser) -> None:
    choose(page, "find", "GRUN mantel")
    page.wait_for(f"{SHOWN}.join() === 'coat'")
    choose(page, "find", "face found")
    page.wait_for("document.getElementById('shown').textContent === '1 of 5'")
    choose(page, "find", "")
    page.wait_for(f"{SHOWN}.length === 5")
    page.evaluate("document.querySelector('[data-state=done]').click()")
    assert page.evaluate(SHOWN) == ["robe-10", "robe-9"]
    choose(page, "order", "name")
    choose(page, "view", "face")
    page.goto("about:blank")
    page.back()
    page.wait_for(f"document.title === 'gallery' && {SHOWN}.join() === 'robe-9,robe-10'")
    assert page.evaluate("document.getElementById('cards').dataset.view") == "face"


def pixel(page: Browser, x: float, y: float) -> tuple[int, ...]:
    from io import BytesIO

    return Image.open(BytesIO(page.screenshot())).convert("RGB").getpixel((x, y))  # type: ignore[return-value]


def middle(page: Browser, selector: str) -> tuple[float, float]:
    x, y = page.evaluate(
        "(selector) => { const box = document.querySelector(selector).getBoundingClientRect(); "
        "return [box.x + box.width / 2, box.y + box.height / 2]; }",
        selector,
    )
    return x, y


def test_the_view_selects_a_part_of_the_preview(page: Browser) -> None:
    page.wait_for("[...document.images].every((image) => image.complete)")
    at = middle(page, ".view")
    red = pixel(page, *at)
    choose(page, "view", "face")
    blue = pixel(page, *at)
    assert red[0] > 240 > 20 > red[2] and blue[2] > 240 > 20 > blue[0]


def test_the_turntable_plays_under_the_pointer_and_with_the_focus(page: Browser) -> None:
    videos = "[...document.querySelectorAll('video')].map((video) => video.getAttribute('src'))"
    assert page.evaluate(videos) == []  # nothing is loaded before
    page.mouse("mouseMoved", middle(page, ".view"))
    page.wait_for("document.querySelector('video.playing')?.currentTime > 0")
    state = page.evaluate(
        "(({ muted, loop, preload }) => [muted, loop, preload])(document.querySelector('video'))"
    )
    assert page.evaluate(videos) == ["robe-10/turntable.mp4"] and state == [True, True, "none"]
    page.mouse("mouseMoved", (5, 5))
    page.wait_for("!document.querySelector('video')")
    page.evaluate("document.getElementById('view').focus()")
    page.command("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9)
    page.wait_for("document.querySelector('video.playing') !== null")
    assert page.evaluate("document.activeElement.textContent") == "robe-10"


def test_who_wants_less_motion_gets_none_under_the_pointer(page: Browser) -> None:
    page.command(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}]
    )
    try:
        page.mouse("mouseMoved", middle(page, ".view"))
        time.sleep(0.2)
        assert not page.evaluate("document.querySelectorAll('video').length")
    finally:
        page.command("Emulation.setEmulatedMedia", features=[])


def test_on_a_phone_the_page_fits_and_a_touch_plays(page: Browser) -> None:
    page.resize(360, 640, mobile=True)
    page.goto("about:blank")
    page.back()
    page.wait_for("document.querySelector('.card') !== null")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("document.querySelector('.view').scrollIntoView()")
    page.touch([middle(page, ".view")])
    page.wait_for("document.querySelector('video.playing') !== null")
    assert page.evaluate("document.title") == "gallery"
    page.touch([middle(page, "h2 a")])
    page.wait_for("document.title === 'the avatar'")


def test_unfolding_shows_all_of_a_prompt(page: Browser) -> None:
    page.evaluate("document.querySelector('.card summary').click()")
    page.wait_for("document.querySelector('.card.open') !== null")
    page.evaluate("document.querySelector('.card summary').click()")
    page.wait_for("!document.querySelector('.card.open')")
