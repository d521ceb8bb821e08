"""The viewer's page in headless Chromium: every control does its thing, on a desktop and on a phone."""

from __future__ import annotations

import base64
import html
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, find_chromium
from mannequins import mannequin
from PIL import Image

import specularip
from specularip.avatar import Avatar
from specularip.viewer.html import page_html, write_html
from specularip.viewer.server import ViewServer
from specularip.viewing.clips import clips_for
from specularip.viewing.shown import Shown

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")

READY = "document.documentElement.dataset.ready !== undefined"
PHONE, DESKTOP = (360, 640), (960, 640)
MIDDLE = (400, 300)
"""A place on the canvas of a desktop's page, left of its panel."""


class Growing(Shown):
    """An exhibit whose state a test sets."""

    run: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        return {**super().state(), "run": self.run}


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return mannequin()


@pytest.fixture(scope="module")
def packed(avatar: Avatar) -> bytes:
    return avatar.packed(clips=clips_for(avatar.binding))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(*DESKTOP) as running:
        running.command("Page.addScriptToEvaluateOnNewDocument", source=CATCH_DOWNLOADS)
        yield running


CATCH_DOWNLOADS = """
globalThis.saved = [];
globalThis.blobs = {};
HTMLAnchorElement.prototype.click = function () {
  saved.push({ name: this.download, href: this.href });
};
const make = URL.createObjectURL;
URL.createObjectURL = (blob) => {
  const url = make.call(URL, blob);
  blobs[url] = blob;
  return url;
};
"""
"""Chromium without windows has nobody to ask where to save: what the page would save is kept instead."""


@pytest.fixture(scope="module")
def file(packed: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(tmp_path_factory.mktemp("page") / "a mannequin.html", packed, "A mannequin")


@pytest.fixture
def page(browser: Browser, file: Path) -> Iterator[Browser]:
    """The self-contained page, from disk, as it opens on a desktop."""
    browser.resize(*DESKTOP)
    yield from opened(browser, file)


@pytest.fixture
def phone(browser: Browser, file: Path) -> Iterator[Browser]:
    browser.resize(*PHONE, mobile=True)
    yield from opened(browser, file)


def opened(browser: Browser, address: str | Path) -> Iterator[Browser]:
    browser.errors.clear()
    browser.requests.clear()
    browser.goto(address)
    browser.wait_for(READY)
    yield browser
    assert browser.errors == []  # violations of the content-security policy are errors, too
    assert browser.outside_requests() == []


def camera(page: Browser) -> dict[str, Any]:
    settle(page)
    return page.evaluate(
        "(({azimuth, elevation, distance, target}) => ({azimuth, elevation, distance, target}))"
        "(specularip.page.camera)"
    )


def settle(page: Browser) -> None:
    """Wait until nothing is drawn any more."""
    page.wait_for("!specularip.page.scheduled")


def pixels(page: Browser) -> np.ndarray:
    """The canvas as it is drawn now, [H,W,4] in 0..1, not premultiplied."""
    data = page.evaluate("(specularip.page.draw(), specularip.page.canvas.toDataURL('image/png'))")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGBA")) / 255


def changed(before: np.ndarray, after: np.ndarray) -> float:
    """The share of pixels that differ visibly."""
    return float((np.abs(before - after).max(-1) > 0.03).mean())


def click(page: Browser, selector: str) -> None:
    """A real click on the element's middle, after scrolling to it."""
    page.evaluate("(s) => document.querySelector(s).scrollIntoView({block: 'center'})", selector)
    box = page.evaluate("(s) => document.querySelector(s).getBoundingClientRect().toJSON()", selector)
    page.click((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))


def set_value(page: Browser, selector: str, value: object, event: str = "input") -> None:
    page.evaluate(
        """(selector, value, event) => {
          const input = document.querySelector(selector);
          input.value = value;
          input.dispatchEvent(new Event(event, { bubbles: true }));
        }""",
        selector, value, event,
    )  # fmt: skip


def saved(page: Browser) -> tuple[str, bytes]:
    """Name and content of the file that the page has just saved."""
    page.wait_for("saved.length > 0")
    name, data = page.evaluate(
        """(async () => {
          const { name, href } = saved.pop();
          const bytes = new Uint8Array(await blobs[href].arrayBuffer());
          let text = "";
          for (let k = 0; k < bytes.length; k += 30000) {
            text += String.fromCharCode(...bytes.subarray(k, k + 30000));
          }
          return [name, btoa(text)];
        })()"""
    )
    return name, base64.b64decode(data)


def test_it_shows_the_avatar_and_tells_what_it_is(page: Browser, avatar: Avatar) -> None:
    assert page.evaluate("document.title") == "A mannequin – SpecularIP"
    assert page.evaluate("document.getElementById('title').textContent") == "A mannequin"
    facts = page.evaluate("document.getElementById('facts').textContent")
    assert f"{len(avatar.gaussians):,}" in facts and "spherical harmonics" in facts
    picture = pixels(page)
    background = picture[2, 2]
    drawn = np.abs(picture - background).max(-1) > 0.03
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    height = picture.shape[0]
    bottom = page.evaluate("document.getElementById('timeline').getBoundingClientRect().top")
    right = page.evaluate("document.getElementById('panel').getBoundingClientRect().left")
    assert rows[0] > 0.02 * height and rows[-1] < bottom and columns[-1] < right  # nothing hides it
    assert rows[-1] - rows[0] > 0.6 * bottom  # and it fills what is free


def test_dragging_turns_moves_and_zooms(page: Browser) -> None:
    start, picture = camera(page), pixels(page)
    page.drag(MIDDLE, (MIDDLE[0] + 100, MIDDLE[1] + 30))
    turned = camera(page)
    assert turned["azimuth"] == pytest.approx(start["azimuth"] - 40, abs=0.5)
    assert turned["elevation"] == pytest.approx(start["elevation"] + 12, abs=0.5)
    assert turned["target"] == start["target"] and changed(picture, pixels(page)) > 0.02
    page.drag(MIDDLE, (MIDDLE[0] + 60, MIDDLE[1] - 40), button="right")
    moved = camera(page)
    assert moved["azimuth"] == turned["azimuth"]
    assert moved["target"][2] < turned["target"][2] - 0.02  # what is under the pointer follows it: up
    page.drag(MIDDLE, (MIDDLE[0] - 60, MIDDLE[1] + 40), modifiers=8)
    assert camera(page)["target"] == pytest.approx(turned["target"], abs=1e-6)
    page.wheel(MIDDLE, -200)
    closer = camera(page)["distance"]
    assert closer < 0.85 * turned["distance"]
    page.wheel(MIDDLE, 200)
    assert camera(page)["distance"] == pytest.approx(turned["distance"], rel=1e-6)
    page.evaluate("specularip.page.camera.distance = 0.075")
    for _ in range(3):
        page.wheel(MIDDLE, -240)
    assert 0.05 < camera(page)["distance"] < 0.075  # never through the middle of what it looks at


def test_a_double_click_looks_at_the_place(page: Browser) -> None:
    start = camera(page)
    head = page.evaluate(
        """(() => {
          const page = specularip.page, { clientWidth: w, clientHeight: h } = page.canvas;
          const { viewmat: m, fx, fy, cx, cy } = page.view(w, h), p = [...page.subjects.face.centre, 1];
          const [x, y, z] = [0, 4, 8].map((row) => p.reduce((sum, value, k) => sum + m[row + k] * value, 0));
          return [fx * x / z + cx, fy * y / z + cy, p[0], p[1], p[2]];
        })()"""
    )
    page.click((head[0], head[1]), times=2)
    page.wait_for("specularip.page.glide === null")
    after = camera(page)
    assert after["distance"] < 0.7 * start["distance"]
    assert np.linalg.norm(np.subtract(after["target"], head[2:])) < 0.15  # its surface is half a head away
    page.click((20, 300), times=2)  # nothing is there
    assert camera(page) == after


def test_highlights_layers_size_and_backgrounds(page: Browser) -> None:
    picture = pixels(page)
    click(page, "#specular-on")
    without = pixels(page)
    assert changed(picture, without) > 0.01
    assert page.evaluate("document.getElementById('specular').disabled")
    click(page, "[value=diffuse]")
    assert changed(without, pixels(page)) == 0  # highlights off is the diffuse colour
    click(page, "#specular-on")
    seen = [pixels(page)]
    for layer in ("specular", "normal", "alpha", "depth", "final"):
        click(page, f"[value={layer}]")
        assert page.evaluate("specularip.page.settings.layer") == layer
        seen.append(pixels(page))
        assert changed(seen[-2], seen[-1]) > 0.02, layer
    assert changed(picture, seen[-1]) == 0
    set_value(page, "#specular", 2)
    assert changed(picture, pixels(page)) > 0.01
    set_value(page, "#specular", 1)
    set_value(page, "#size", 0.1)
    assert changed(picture, pixels(page)) > 0.05
    set_value(page, "#size", 1)
    colours = []
    for index in range(1, 6):
        click(page, f"#backgrounds label:nth-child({index})")
        colours.append(tuple(np.round(pixels(page)[2, 2], 2)))
    assert len(set(colours)) == 5 and colours[3][:3] == (1, 1, 1) and colours[4][3] == 0
    set_value(page, "#other-colour", "#ff0000")
    assert tuple(pixels(page)[2, 2]) == (1, 0, 0, 1)


def test_turntable_whole_body_and_face(page: Browser) -> None:
    start = camera(page)
    click(page, "#turntable")
    page.wait_for(f"Math.abs(specularip.page.camera.azimuth - {start['azimuth']}) > 3")
    click(page, "#turntable")
    turned = camera(page)
    time.sleep(0.2)
    assert camera(page) == turned
    click(page, "#face")
    page.wait_for("specularip.page.glide === null")
    close = camera(page)
    assert close["distance"] < 0.35 * start["distance"] and close["target"][2] > 0.5
    click(page, "#reset")
    page.wait_for("specularip.page.glide === null")
    assert camera(page)["distance"] == pytest.approx(start["distance"], rel=0.01)


def test_motion_plays_stops_scrubs_and_repeats(page: Browser) -> None:
    picture = pixels(page)
    names = page.evaluate("[...document.getElementById('clip').options].map((o) => o.textContent)")
    assert names[0] == "Rest pose" and {"walk", "wave", "idle"} <= set(names)
    set_value(page, "#clip", names.index("wave") - 1, "change")
    page.wait_for("specularip.page.player.time > 0.2")
    click(page, "#play")
    at = page.evaluate("specularip.page.player.time")
    time.sleep(0.2)
    assert page.evaluate("specularip.page.player.time") == at
    set_value(page, "#scrub", 1.5)
    assert page.evaluate("document.getElementById('time').textContent") == "1.5 s"
    waving = pixels(page)
    assert changed(picture, waving) > 0.01
    page.key(".")
    assert page.evaluate("specularip.page.player.time") == pytest.approx(1.5 + 1 / 30, abs=1e-3)
    set_value(page, "#speed", 2, "change")
    assert page.evaluate("specularip.page.player.speed") == 2
    click(page, "#loop")
    duration = page.evaluate("specularip.page.player.duration")
    set_value(page, "#scrub", duration - 0.05)
    click(page, "#play")
    page.wait_for("!specularip.page.player.playing")
    assert page.evaluate("specularip.page.player.time") == pytest.approx(duration)
    set_value(page, "#clip", -1, "change")
    assert changed(picture, pixels(page)) == 0  # the rest pose comes back


def test_expressions_and_eyes(page: Browser, avatar: Avatar) -> None:
    assert avatar.expressions is not None
    page.evaluate("specularip.page.frame('face', false)")
    picture = pixels(page)
    sliders = page.evaluate("[...document.querySelectorAll('#expressions span')].map((s) => s.textContent)")
    assert "mouth smile" in sliders and {"jaw left", "jaw right"} <= set(sliders)
    assert len(sliders) < len(avatar.expressions.names)
    set_value(page, f"#expressions label:nth-child({sliders.index('jaw open') + 1}) input", 1)
    assert changed(picture, pixels(page)) > 0.005
    click(page, "#neutral")
    assert changed(picture, pixels(page)) == 0

    def eye() -> list[float]:
        pixels(page)
        return page.evaluate(
            """(() => {
              const { player } = specularip.page, pose = player.pose();
              const at = 4 * player.binding.names.indexOf("eye.L");
              return pose ? Array.from(pose.rotations.subarray(at, at + 4)) : [1, 0, 0, 0];
            })()"""
        )

    assert eye() == [1, 0, 0, 0]
    set_value(page, "#gaze", "camera")
    page.evaluate("(specularip.page.camera.azimuth = 20, specularip.page.camera.elevation = 0)")
    w, _, _, z = eye()
    assert z > 0.1 and w > 0.9  # to its left, where the camera is
    set_value(page, "#gaze", "pointer")
    page.evaluate("specularip.page.camera.azimuth = 0")
    page.mouse("mouseMoved", (40, 300))
    right = eye()[3]
    page.mouse("mouseMoved", (600, 300))
    assert eye()[3] > right + 0.05


def test_keys(page: Browser) -> None:
    start = camera(page)
    page.click((20, 20))  # anywhere but in a control
    page.key("ArrowRight")
    assert camera(page)["azimuth"] == pytest.approx(start["azimuth"] + 5)
    page.key("+")
    assert camera(page)["distance"] < start["distance"]
    page.key("h")
    assert page.evaluate("specularip.page.settings.specular") == 0
    page.key("4")
    assert page.evaluate("specularip.page.settings.layer") == "normal"
    background = page.evaluate("specularip.page.settings.background")
    page.key("b")
    assert page.evaluate("specularip.page.settings.background") != background
    page.key("c")
    assert page.evaluate("document.getElementById('panel').hidden")
    page.key(" ")
    assert page.evaluate("specularip.page.player.playing")
    page.key(" ")
    page.key("?")
    assert page.evaluate("document.getElementById('keys').open")
    page.key("h")  # keys belong to the dialog while it is open
    assert page.evaluate("specularip.page.settings.specular") == 0
    page.key("Escape")
    assert not page.evaluate("document.getElementById('keys').open")


def test_pictures_are_saved_with_transparency(page: Browser) -> None:
    click(page, "#backgrounds label:nth-child(5)")
    click(page, "#screenshot")
    name, data = saved(page)
    image = np.asarray(Image.open(BytesIO(data)))
    assert name == "a-mannequin.png" and image.shape == (DESKTOP[1], DESKTOP[0], 4)
    assert image[2, 2, 3] == 0 and image[..., 3].max() > 250
    solid = np.flatnonzero((image[..., 3] > 128).any(0))
    assert abs((solid[0] + solid[-1]) / 2 - DESKTOP[0] / 2) < 0.06 * DESKTOP[0]  # in the middle


def test_full_screen(page: Browser) -> None:
    click(page, "#full-screen")
    page.wait_for("document.fullscreenElement !== null")
    page.wait_for("document.getElementById('full-screen').getAttribute('aria-pressed') === 'true'")
    click(page, "#full-screen")
    page.wait_for("document.fullscreenElement === null")


def test_a_page_saves_itself_and_opens_what_it_saved(page: Browser, file: Path, tmp_path: Path) -> None:
    click(page, "#specular-on")  # what the user has set is no part of the file
    click(page, "#share")
    name, data = saved(page)
    assert name == "a-mannequin.html"
    copy = tmp_path / "copy.html"
    copy.write_bytes(data)
    before = camera(page)
    [_] = opened(page, copy)
    assert page.evaluate("document.getElementById('specular-on').checked") and camera(page) == before
    click(page, "#share")
    assert saved(page)[1] == data


def drop(page: Browser, name: str, content: bytes) -> None:
    page.evaluate(
        """(name, content) => {
          const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], name));
          const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event);
        }""",
        name, base64.b64encode(content).decode(),
    )  # fmt: skip


def test_another_avatar_opens_by_drop(page: Browser, avatar: Avatar) -> None:
    other = replace(avatar, provenance={"text": "<b>Another</b>"}, head=None, expressions=None, binding=None)
    drop(page, "other.html", page_html(other.packed(), "other").encode())
    page.wait_for("document.getElementById('title').textContent === '<b>Another</b>'")
    assert page.evaluate("document.getElementById('highlight-controls').hidden")  # it has none
    assert page.evaluate("document.getElementById('timeline').hidden")
    click(page, "#share")
    assert saved(page)[0] == "b-another-b.html"
    for name, content, words in (
        ("avatar.ply", b"ply", "specularip view avatar.ply"),
        ("letter.html", b"<p>Dear</p>", "not a page that was saved"),
        ("bad.html", b"<script id='avatar-data'>AAAA</script>", "cannot be read"),
    ):
        drop(page, name, content)
        page.wait_for(f"document.getElementById('message').textContent.includes({json.dumps(words)})")
    assert page.evaluate("document.getElementById('title').textContent") == "<b>Another</b>"


def test_on_a_phone_everything_fits_and_is_as_large_as_a_thumb(phone: Browser) -> None:
    def check(where: str) -> None:
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE[0], where
        small = phone.evaluate(
            """[...document.querySelectorAll("button, select, input, summary")].filter((e) => {
              let at = e.closest("label") ?? e;
              const { width, height, left, right } = at.getBoundingClientRect();
              const fits = width >= 40 && height >= 40 && left >= 0 && right <= innerWidth;
              return width > 0 && e.checkVisibility() && !fits;
            }).map((e) => e.id || e.outerHTML.slice(0, 80))"""
        )
        assert small == [], where

    check("closed")
    assert phone.evaluate("document.getElementById('panel').hidden")
    start = camera(phone)
    click(phone, "#open-panel")
    check("open")
    panel = phone.evaluate("document.getElementById('panel').getBoundingClientRect().toJSON()")
    assert panel["left"] == 0 and panel["bottom"] <= PHONE[1] and panel["top"] > 0.4 * PHONE[1]
    sides = ("scrollHeight", "clientHeight", "scrollWidth", "clientWidth")
    content, height, wide, width = (
        phone.evaluate(f"document.getElementById('panel').{side}") for side in sides
    )
    assert content > height and wide <= width
    settle(phone)
    picture = pixels(phone)
    drawn = np.abs(picture - picture[2, 2]).max(-1) > 0.03
    assert np.flatnonzero(drawn.any(1))[-1] < panel["top"] + 2  # the avatar moved above the sheet
    click(phone, "#open-panel")
    assert camera(phone) == start


def test_fingers_turn_move_zoom_and_focus(phone: Browser) -> None:
    start = camera(phone)
    phone.touch([(180 + 10 * k, 300) for k in range(6)])
    turned = camera(phone)
    assert turned["azimuth"] == pytest.approx(
        start["azimuth"] - 20, abs=4.1
    )  # the first move may be held back
    assert turned["distance"] == start["distance"]
    phone.touch([(150 - 5 * k, 300) for k in range(6)], [(210 + 5 * k, 300) for k in range(6)])
    pinched = camera(phone)
    assert pinched["distance"] < 0.75 * turned["distance"] and pinched["azimuth"] == turned["azimuth"]
    phone.touch([(150, 300 + 8 * k) for k in range(6)], [(210, 300 + 8 * k) for k in range(6)])
    moved = camera(phone)
    assert moved["target"][2] > pinched["target"][2] and moved["azimuth"] == turned["azimuth"]
    click(phone, "#open-panel")
    click(phone, "#reset")
    click(phone, "#open-panel")
    phone.wait_for("specularip.page.glide === null")
    before = camera(phone)
    began = time.time()
    for kind, after in (("touchStart", 0.0), ("touchEnd", 0.05), ("touchStart", 0.15), ("touchEnd", 0.2)):
        fingers = [{"x": 180, "y": 250}] if kind == "touchStart" else []
        phone.command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers, timestamp=began + after)
    phone.wait_for("specularip.page.glide === null")
    assert camera(phone)["distance"] == pytest.approx(before["distance"] / 2)


def test_the_served_page_swaps_avatars_and_follows_a_run(
    browser: Browser, packed: bytes, avatar: Avatar
) -> None:
    browser.resize(*DESKTOP)
    shown = Growing("A mannequin")
    with ViewServer(shown) as server:
        browser.errors.clear()
        browser.goto(server.url)
        shown.run = {
            "status": "running", "stage": "SEID", "step": 120, "steps": 360, "remaining_seconds": 95.0,
            "text": "A woman in a <b>red</b> dress", "photo": False,
            "losses": [{"stage": "start", "values": [3.0, 2.0]}, {"stage": "seid", "values": [0.5, 0.2]}],
        }  # fmt: skip
        browser.wait_for("document.getElementById('run-eta').textContent === '120/360 · 1:35 left'")
        assert browser.evaluate("document.getElementById('run-prompt').textContent") == shown.run["text"]
        assert browser.evaluate("document.querySelectorAll('#loss path').length") == 2
        assert browser.evaluate("document.getElementById('loss-value').textContent") == "0.2000"
        shown.put(avatar.packed("growing"), "approximate")
        began = time.monotonic()
        browser.wait_for(READY)
        assert time.monotonic() - began < 5
        browser.wait_for("document.getElementById('note').textContent === 'approximate'")
        browser.evaluate(
            "(specularip.page.camera.azimuth = 77, document.getElementById('specular-on').click())"
        )
        shown.run = {**shown.run, "status": "finished"}
        shown.put(packed)
        browser.wait_for("document.getElementById('timeline').hidden === false")  # this one has clips
        browser.wait_for("document.getElementById('run-stage').textContent === 'Finished'")
        # The user's view stays.
        assert camera(browser)["azimuth"] == 77 and browser.evaluate("specularip.page.settings.specular") == 0
        click(browser, "#share")
        name, data = saved(browser)
        assert name == "a-mannequin.html" and data.decode() == page_html(packed, "A mannequin")
        assert browser.errors == [] and browser.outside_requests() == []
        assert all(url.startswith(server.url) for url in browser.requests[-3:])
    browser.wait_for("document.getElementById('note').textContent.includes('has ended')", 20)
    assert "--resume" in browser.evaluate("document.getElementById('note').textContent")


def test_without_webgl_it_says_so(browser: Browser, file: Path) -> None:
    with Browser(400, 300, arguments=("--disable-3d-apis",)) as other:
        other.goto(file)
        other.wait_for("document.getElementById('loading').classList.contains('failed')")
        assert "WebGL" in other.evaluate("document.getElementById('loading-text').textContent")


def test_a_notebook_shows_it_in_a_frame(browser: Browser, avatar: Avatar, tmp_path: Path) -> None:
    framed = specularip.view(avatar, height=300)
    cell = framed._repr_html_()
    assert 'sandbox="allow-scripts allow-downloads"' in cell and "height: 300px" in cell
    inner = html.unescape(re.search('srcdoc="([^"]*)"', cell)[1])  # type: ignore[index]
    assert inner == page_html(framed.packed, "A mannequin")
    assert 'title="A mannequin"' in avatar._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<body style='background: white'>{cell}")
    browser.resize(500, 320)
    browser.errors.clear()
    browser.goto(tmp_path / "notebook.html")

    def drawn() -> bool:
        picture = np.asarray(Image.open(BytesIO(browser.screenshot())).convert("RGB")).astype(int)
        return bool((picture[60:260, 150:350].max(-1) - picture[60:260, 150:350].min(-1) > 60).mean() > 0.02)

    end = time.monotonic() + 30
    while not drawn():
        assert time.monotonic() < end, browser.errors
        time.sleep(0.2)
    assert browser.errors == [] and browser.outside_requests() == []
