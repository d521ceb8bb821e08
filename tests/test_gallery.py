"""examples/gallery: prompts that the compact prior understands, faces that are found; the gallery's sheet."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from specularip.batch.read_jobs import pair_jobs
from specularip.body import phenotype_from_text
from specularip.faces.photo import Photo, read_photo
from specularip.pipeline import readable
from specularip.presets import preset_config
from specularip.run_networks import load_prior

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gallery  # noqa: E402

GALLERY = ROOT / "examples" / "gallery"
TEXTS, IMAGES = GALLERY / "gallery_text_prompts.txt", GALLERY / "gallery_image_prompts.txt"
CLOTHS = ("cotton", "denim", "leather", "linen", "metallic", "satin", "silk", "wool")
METALS = ("gold necklace", "silver necklace", "silver belt")
AGES = {
    "child": (0.0, 0.45),
    "teenager": (0.45, 0.6),
    "adult": (0.6, 0.78),
    "middle-aged": (0.78, 0.9),
    "old": (0.9, 1.0),
}
BUILDS = {"slim", "slender", "plump", "heavy", "muscular", "tall", "short"}


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def photos() -> list[Path]:
    return sorted({(GALLERY / line).resolve() for line in lines(IMAGES)})


@cache
def photo(path: Path) -> Photo:
    return read_photo(path)


def test_texts_and_images_are_a_batch_of_24() -> None:
    jobs = pair_jobs(TEXTS, IMAGES, "zip")
    assert [job.text for job in jobs] == lines(TEXTS) and len(set(lines(TEXTS))) == 24
    found = [[path.resolve() for path in job.images] for job in jobs]
    assert found == [[(GALLERY / line).resolve()] for line in lines(IMAGES)]
    assert all(path.is_file() for paths in found for path in paths)


def test_the_compact_prior_understands_every_word() -> None:
    prior = load_prior(preset_config("compact").prior)
    for text in lines(TEXTS):
        notes: list[str] = []
        assert readable(prior, text, notes.append) == text and not notes


def test_people_and_clothes_vary() -> None:
    texts = lines(TEXTS)
    for word in (*CLOTHS, *METALS):
        assert any(word in text for text in texts), word
    bodies = [phenotype_from_text(text) for text in texts]
    for age, (low, high) in AGES.items():
        assert sum(low <= body.age <= high for body in bodies) >= 1, age
    women = sum(body.gender > 0.5 for body in bodies)
    assert 10 <= women <= 14
    assert BUILDS == BUILDS & {word for body in bodies for word in body.matched}


@pytest.mark.parametrize("path", photos(), ids=lambda path: path.stem)
def test_a_face_is_found_without_complaint(path: Path) -> None:
    found = photo(path)
    assert found.face is not None and found.face.side > 100 and found.notes == ()
    assert path.parent.name != "faces" or path.stat().st_size <= 60_000


def test_skins_vary() -> None:
    tones = []
    for path in photos():
        landmarks = photo(path).landmarks
        assert landmarks is not None
        x, y = landmarks.points[[50, 101, 280, 330], :2].astype(int).T  # cheeks
        tones.append(float(np.median(photo(path).pixels[y, x] @ (0.2126, 0.7152, 0.0722))) / 255)
    assert len(tones) >= 12 and min(tones) < 0.35 and max(tones) > 0.65


def test_the_licence_lists_every_face() -> None:
    files = {f"faces/{path.name}" for path in (GALLERY / "faces").iterdir()}
    named = {
        line.split("|")[1].strip() for line in lines(GALLERY / "LICENSE.md") if line.startswith("| faces/")
    }
    assert named == files
    assert {path for path in photos() if path.parent.name == "faces"} == {GALLERY / name for name in files}
    assert "../eileen_collins.jpg" in (GALLERY / "LICENSE.md").read_text(encoding="utf-8")


def test_a_sheet_of_the_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0))
    preview = np.concatenate([np.full((32, 32, 3), color, np.uint8) for color in views], 1)
    runs = tmp_path / "runs"
    for number in (3, 20):
        folder = runs / f"job-{number}"
        folder.mkdir(parents=True)
        Image.fromarray(preview).save(folder / "preview.png")
        report = {
            "text": lines(TEXTS)[number],
            "image": f"elsewhere/{Path(lines(IMAGES)[number]).name}",
            "device": "cpu",
        }
        (folder / "report.json").write_text(json.dumps(report))
    docs = tmp_path / "docs"
    (docs / "gallery").mkdir(parents=True)
    (docs / "gallery" / "old.png").touch()
    monkeypatch.setattr(sys, "argv", ["gallery.py", str(runs), "--docs", str(docs)])
    gallery.main()
    assert capsys.readouterr().err.count("no finished run of") == 22
    assert sorted(path.name for path in (docs / "gallery").iterdir()) == ["04.png", "21.png"]
    text = (docs / "gallery.md").read_text(encoding="utf-8")
    assert lines(TEXTS)[3] in text and lines(TEXTS)[0] not in text and "on a CPU" in text
    strip = np.asarray(Image.open(docs / "gallery" / "21.png").convert("RGB")).astype(int)
    assert strip.shape[0] == gallery.HEIGHT
    figure = round(gallery.FIGURE * gallery.HEIGHT)
    for view, color in enumerate(views):
        at = gallery.HEIGHT + view * figure + figure // 2
        assert np.abs(strip[gallery.HEIGHT // 2, at] - color).max() < 12
    assert Image.open(docs / "gallery.png").height == gallery.SMALL


def test_without_a_finished_run_there_is_no_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery.py", str(tmp_path), "--docs", str(tmp_path / "docs")])
    with pytest.raises(SystemExit, match="no finished run"):
        gallery.main()
    assert not (tmp_path / "docs").exists()
