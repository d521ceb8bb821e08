"""`--init`: people in files of other programs, turned upright, registered to the body, and started from."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from portraits import portrait
from posed_people import Person, person
from posed_people import views_of as mesh_views
from scipy.interpolate import RBFInterpolator
from tiny_prior import compact_prior
from tiny_runs import FACE, TEXT, TINY
from torch import Tensor
from torch.nn import functional as F

from specularip import pipeline
from specularip.avatar import Avatar
from specularip.body.head import HeadModel
from specularip.body.mesh import Body, interpolate
from specularip.body.regions import HEAD
from specularip.captures.views import PosedImages
from specularip.colors import HarmonicColors
from specularip.colors.harmonics import SH_0
from specularip.diffusion.loading.folder import save_prior
from specularip.errors import UserError
from specularip.faces.landmarks import find_faces
from specularip.fitting import fit as fitting
from specularip.fitting import given_points
from specularip.fitting.given_points import Given
from specularip.fitting.settings import FitConfig
from specularip.gaussians import Gaussians, turned_to
from specularip.motion.quaternions import from_rotation_vectors, matrices
from specularip.placement import Placement
from specularip.registration import splats as registration
from specularip.registration import upright as upright_module
from specularip.registration.fit_body import FittedBody
from specularip.registration.normals import surface_normals
from specularip.registration.splats import RegisteredSplats, register_splats
from specularip.registration.upright import moved, upright
from specularip.specular import shading_normals
from specularip.stages.settings import Config

COUNT = 12_000
STILL = Placement.identity()


@dataclass(frozen=True)
class Painted:
    """avatar: as a file of another program has it, in the pose of `who`, in the body's world. rest [N,3]:
    where its Gaussians are in the A-pose. normals [N,3]: of the skin."""

    who: Person
    avatar: Avatar
    rest: Tensor
    normals: Tensor


def painted(who: Person) -> Painted:
    """Gaussians on the skin in a grey suit, with the shipped portrait's face."""
    body, standing = who.body, who.standing
    samples = standing.sample_surface(COUNT, torch.Generator().manual_seed(0), {"head": 12.0})
    means, rest = (interpolate(one.vertices, samples, one.faces) for one in (standing, body))
    normals = F.normalize(interpolate(standing.vertex_normals, samples, body.faces), dim=-1)
    colors = 0.35 + 0.15 * torch.sin(20 * rest)
    head = samples.regions == HEAD
    colors[head] = _portrait_on(body, rest[head])
    generator = torch.Generator().manual_seed(1)
    cloud = Gaussians(
        means=means,
        quats=turned_to(normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.7, 0.7, 0.4])),
        opacity_logits=2 + 2 * torch.rand(COUNT, generator=generator),
        color_logits=torch.logit(colors.clamp(0.02, 0.98)),
        latents=torch.zeros(COUNT, 0),
        normal_residuals=torch.zeros(COUNT, 3),
        regions=torch.zeros(COUNT, dtype=torch.int64),
        bind_joints=torch.zeros(COUNT, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(COUNT, 1),
    )
    return Painted(who, Avatar(cloud), rest, normals)


def _portrait_on(body: Body, points: Tensor) -> Tensor:
    """Colours [n,3] of points on the head: the portrait, warped so that its landmarks lie on the body's, on
    the front; brown hair elsewhere."""
    pixels = np.asarray(portrait())
    (face,) = find_faces(pixels)
    landmarks = HeadModel.load().landmarks(body.vertices)
    warp = RBFInterpolator(landmarks[:, [0, 2]].numpy(), face.points[:, :2], neighbors=40, smoothing=1e-4)
    low, high = landmarks.amin(0), landmarks.amax(0)
    front = (points[:, 1] < high[1]) & (points[:, 2] > low[2]) & (points[:, 2] < high[2])
    at = warp(points[front][:, [0, 2]].numpy()).round().astype(int).clip(0, 511)
    colors = torch.tensor([0.25, 0.16, 0.1]).repeat(len(points), 1)
    colors[front] = torch.from_numpy(pixels[at[:, 1], at[:, 0]] / np.float32(255))
    return colors


def turn(*rotation_vector: float) -> Tensor:
    return matrices(from_rotation_vectors(torch.tensor(rotation_vector, dtype=torch.float64)))


@pytest.fixture(scope="module")
def raised() -> Painted:
    """With arms 75 degrees from the trunk."""
    return painted(person(6))


FILE = Placement(
    37.0, turn(math.pi / 2 + 0.03, 0.02, 0) @ turn(0, 0, 0.7), torch.tensor([400.0, -90.0, 55.0])
)
"""From z up to y down, turned about, in another unit, elsewhere."""


@pytest.fixture(scope="module")
def registered(raised: Painted) -> tuple[RegisteredSplats, list[str]]:
    notes: list[str] = []
    return register_splats(moved(raised.avatar, FILE), "given.ply", notes.append), notes


def closeness(rest: Tensor, body: Body, truth: Painted) -> Tensor:
    """Metres [N] between points and where they belong, which the true body tells, brought to this one's
    height."""
    size = body.height / truth.who.body.height
    return (rest - size * truth.rest).norm(dim=1)


@pytest.mark.parametrize(
    "stands",
    [turn(0, 0, 2.0), turn(math.pi / 2, 0, 0), turn(-math.pi / 2, 0, 0) @ turn(0, 0, 1.0), turn(0, -1.6, 0)],
    ids=["z up", "y down", "y up", "lying"],
)
def test_a_face_tells_which_way_is_up(raised: Painted, stands: Tensor) -> None:
    found, sure = upright(moved(raised.avatar, Placement(3.0, stands, torch.tensor([1.0, 2.0, 3.0]))))
    assert sure and torch.allclose(found @ found.T, torch.eye(3), atol=1e-6)
    assert float(torch.linalg.det(found)) == pytest.approx(1)
    assert float((found.double() @ stands)[2, 2]) > 0.99


def test_without_a_face_the_usual_axis_is_up_and_it_is_said(
    raised: Painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    who, faceless = raised.who, replace(raised.avatar.gaussians, color_logits=torch.zeros(COUNT, 3))
    monkeypatch.setattr(upright_module, "_face_score", lambda _: upright_module.SURE)
    found, sure = upright(Avatar(faceless))
    assert not sure and torch.equal(found, torch.eye(3))
    truth = FittedBody(who.body, who.stance, STILL, 0.9, None, 0)
    monkeypatch.setattr(registration, "fit_body", lambda views, report: truth)
    notes: list[str] = []
    register_splats(Avatar(faceless), "suit.ply", notes.append)
    assert "no face found in suit.ply" in notes[0] and all("\n" not in note for note in notes)
    badly = replace(truth, silhouette_iou=0.4)
    monkeypatch.setattr(registration, "fit_body", lambda views, report: badly)
    with pytest.raises(UserError, match=r"suit\.ply shows no person"):
        register_splats(Avatar(faceless), "suit.ply", notes.append)


def test_a_person_in_another_pose_unit_and_place_comes_to_the_a_pose(
    raised: Painted, registered: tuple[RegisteredSplats, list[str]]
) -> None:
    result, notes = registered
    cloud, body = result.avatar.gaussians, result.fitted.body
    assert result.fitted.silhouette_iou > 0.85 and result.fitted.faces
    off = closeness(cloud.means, body, raised)
    assert float(off.median()) < 0.04 and float(off.quantile(0.95)) < 0.12, (off.median(), off.quantile(0.95))
    assert "12,000 Gaussians" in notes[-1] and "overlap" in notes[-1]
    # Colours and opacities are the file's; the sizes are in metres.
    given = raised.avatar.gaussians
    assert torch.equal(cloud.color_logits, given.color_logits)
    assert torch.equal(cloud.opacity_logits, given.opacity_logits)
    ratio = (cloud.log_scales - given.log_scales).mean().exp()
    assert float(ratio) == pytest.approx(body.height / raised.who.body.height, rel=0.05)
    # The normals are those of the skin in this pose.
    samples = raised.who.standing.sample_surface(COUNT, torch.Generator().manual_seed(0), {"head": 12.0})
    skin = F.normalize(interpolate(raised.who.body.vertex_normals, samples, raised.who.body.faces), dim=-1)
    cosine = (shading_normals(cloud) * skin).sum(-1)
    assert float(cosine.median()) > 0.95 and float((cosine > 0).float().mean()) > 0.95
    # The head's Gaussians are bound to the head.
    assert float((cloud.regions == HEAD)[samples.regions == HEAD].float().mean()) > 0.9


def test_colours_that_depend_on_the_view_turn_with_the_person(
    raised: Painted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen along the same direction relative to the surface, a Gaussian keeps its colour."""
    who, cloud = raised.who, raised.avatar.gaussians
    coefficients = torch.zeros(COUNT, 16, 3)
    coefficients[:, 0] = (cloud.diffuse - 0.5) / SH_0
    coefficients[:, 1:4] = 0.2 * torch.randn(COUNT, 3, 3, generator=torch.Generator().manual_seed(2))
    coefficients[:, 9] = 0.1
    glossy = replace(raised.avatar, colors=HarmonicColors(coefficients))
    truth = FittedBody(who.body, who.stance, STILL, 0.9, 0.003, 3)
    # The person is as high as the standing one, and about the origin: `register_splats` undoes the rest.
    low, high = registration.extremes(cloud.means)
    scale = registration.HEIGHT / float(high[2] - low[2])
    standing = Placement(scale, torch.eye(3), -scale * (low + high) / 2)
    monkeypatch.setattr(registration, "upright", lambda _: (torch.eye(3), True))
    monkeypatch.setattr(registration, "fit_body", lambda views, report: replace(truth, placement=standing))
    result = register_splats(glossy, "glossy.ply", lambda _: None).avatar
    assert isinstance(result.colors, HarmonicColors)
    off = (result.gaussians.means - raised.rest).norm(dim=1)
    assert float(off.median()) < 0.005
    # Each Gaussian's own turn, from its axes before and after.
    turns = result.gaussians.rotations @ cloud.rotations.mT
    towards = F.normalize(torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(3)), dim=-1)
    assert glossy.colors is not None
    before = glossy.colors(towards[None])
    after = result.colors((turns @ towards[..., None])[..., 0][None])
    assert torch.allclose(before, after, atol=2e-3)
    assert float((before - result.colors(towards[None])).abs().mean()) > 5e-3


@pytest.mark.parametrize("shape", ["sphere", "cylinder"])
def test_normals_of_points_on_a_surface(shape: str, generator: torch.Generator) -> None:
    around = F.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    if shape == "sphere":
        truth = around
        points = 0.3 * truth
    else:
        truth = F.normalize(around * torch.tensor([1.0, 1.0, 0]), dim=-1)
        points = 0.1 * truth + torch.tensor([0, 0, 1.0]) * torch.rand(4000, 1, generator=generator)
    noisy = points + 5e-4 * torch.randn(4000, 3, generator=generator)
    stray = torch.rand(4000, generator=generator) < 0.05
    noisy[stray] += 0.05 * truth[stray]  # faint haze that must not count
    weights = torch.where(stray, 1e-3, 0.9)
    found = surface_normals(noisy, weights, truth + 0.5 * around)
    assert torch.allclose(found.norm(dim=1), torch.ones(4000), atol=1e-5)
    cosine = (found * truth).sum(-1)[~stray]
    assert float(cosine.median()) > 0.99 and float((cosine > 0.9).float().mean()) > 0.97
    few = surface_normals(points[:2], weights[:2], truth[:2])
    assert bool(few.isfinite().all())


def blob(count: int) -> Avatar:
    """A cube of Gaussians."""
    generator = torch.Generator().manual_seed(0)
    cloud = Gaussians(
        means=2 * torch.rand(count, 3, generator=generator) - 1,
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), -3.0),
        opacity_logits=torch.full((count,), 3.0),
        color_logits=torch.randn(count, 3, generator=generator),
        latents=torch.zeros(count, 0),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
    )
    return Avatar(cloud)


def test_files_without_a_person_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"dots\.ply has only 10 visible Gaussians"):
        register_splats(blob(10), "dots.ply", lambda _: None)
    faint = replace(blob(3000).gaussians, opacity_logits=torch.full((3000,), -9.0))
    with pytest.raises(UserError, match="only 0 visible"):
        register_splats(Avatar(faint), "haze.ply", lambda _: None)
    with pytest.raises(UserError, match=r"cube\.ply shows no person") as caught:
        register_splats(blob(3000), "cube.ply", lambda _: None)
    assert "\n" not in str(caught.value)


def thinned(registered: RegisteredSplats, every: int = 8) -> RegisteredSplats:
    """Few Gaussians, for a tiny run."""
    cloud = registered.avatar.gaussians.select(torch.arange(0, COUNT, every))
    return replace(registered, avatar=replace(registered.avatar, gaussians=cloud))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("prior") / "prior"
    save_prior(compact_prior(), folder, int8=True)
    return replace(TINY, prior=replace(TINY.prior, path=str(folder)), turntable_frames=2)


@pytest.mark.parametrize("degree", [0, 3])
def test_a_run_starts_from_a_file_resumes_and_refuses_another(
    degree: int,
    registered: tuple[RegisteredSplats, list[str]],
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = thinned(registered[0])
    given = few.avatar.gaussians.diffuse.clone()
    if degree:
        coefficients = F.pad(((given - 0.5) / SH_0)[:, None], (0, 0, 0, 15))
        coefficients[:, 1:4] = 0.1
        few = replace(few, avatar=replace(few.avatar, colors=HarmonicColors(coefficients)))
    monkeypatch.setattr(pipeline, "register_splats", lambda avatar, name, note: few)
    file = few.avatar.export(tmp_path / "given.ply")

    def run(init: Path, resume: bool = False) -> Avatar:
        return pipeline.generate(TEXT, FACE, out=tmp_path / "run", config=config, init=init, resume=resume)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "fit_targets", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(file)
    other = blob(1500).export(tmp_path / "other.ply")
    with pytest.raises(UserError, match="another file to start from"):
        run(other, resume=True)
    made = run(file, resume=True)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["init"]["file"] == str(file) and report["init"]["silhouette_iou"] > 0.8
    assert "seid" not in report["seconds"] and ("views" in report["seconds"]) == (degree == 0)
    assert torch.equal(few.avatar.gaussians.diffuse, given), "the registered person was changed"
    assert made.head is not None and made.binding is not None and made.expressions is not None
    # The head is as it was given.
    head = made.gaussians.regions == HEAD
    prepared = made.head.prepare(made.gaussians.latents, made.gaussians.diffuse)
    if degree == 0:
        assert float((made.gaussians.diffuse[: len(given)] - given)[head[: len(given)]].abs().median()) < 0.02
    assert float(prepared.reflectance[~head].median()) > 0.05


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_missing_file_is_said_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--init .*no avatar there"):
        pipeline.generate(TEXT, FACE, out=tmp_path / "run", config=TINY, init=tmp_path / "none.ply")
    assert not (tmp_path / "run").exists()


CAPTURE = Placement(100.0, turn(1.2, 0.4, -0.8), torch.tensor([90.0, -40, 300]))


@pytest.fixture(scope="module")
def capture(raised: Painted) -> PosedImages:
    """Of the same person, in centimetres, far from the origin, with another axis up."""
    return mesh_views(raised.who, CAPTURE, count=6, size=100)


@pytest.mark.parametrize("suffix", [".ply", ".safetensors"])
@pytest.mark.filterwarnings("ignore:.*shown about the origin")
def test_a_file_from_the_same_capture_is_taken_where_it_is(
    suffix: str, raised: Painted, capture: PosedImages, tmp_path: Path
) -> None:
    file = replace(raised.avatar, placement=CAPTURE).export(tmp_path / f"fitted{suffix}")
    given = Given.read(file, capture)
    assert given.in_place
    views = capture.placed(CAPTURE)  # as `fit` moves the cameras to the origin
    points = given.points(views, None, pytest.fail)
    assert torch.allclose(points.points, raised.avatar.gaussians.means, atol=1e-4)
    assert torch.allclose(points.log_scales, raised.avatar.gaussians.log_scales, atol=1e-3)
    assert points.source == "init" and points.normals is not None
    cosine = (points.normals * raised.normals).sum(-1).abs()
    assert float(cosine.median()) > 0.97
    assert given.digest() == Given.read(file, capture).digest()
    more = replace(raised.avatar.gaussians, opacity_logits=raised.avatar.gaussians.opacity_logits + 1)
    assert Given(Avatar(more), "", True).digest() != Given(raised.avatar, "", True).digest()


@pytest.mark.filterwarnings("ignore:.*shown about the origin")
def test_another_pose_is_brought_to_the_images_by_way_of_the_body(
    raised: Painted,
    registered: tuple[RegisteredSplats, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The person of the file has raised arms; another one in another stance is in the images."""
    other = person(1)
    views = mesh_views(other, CAPTURE, count=4, size=100)
    given = Given.read(moved(raised.avatar, FILE).export(tmp_path / "given.ply"), views)
    assert not given.in_place
    monkeypatch.setattr(given_points, "register_splats", lambda *_: registered[0])
    found = FittedBody(other.body, other.stance, CAPTURE, 0.9, 0.003, 3)
    points = given.points(views.placed(CAPTURE), found, lambda _: None)
    samples = other.standing.sample_surface(COUNT, torch.Generator().manual_seed(0), {"head": 12.0})
    distances = torch.cdist(points.points, other.standing.vertices).amin(1)
    assert float(distances.median()) < 0.02 and float(distances.quantile(0.95)) < 0.08
    # From head to foot, and to both hands.
    reach = [
        samples.points.amin(0) - points.points.amin(0),
        samples.points.amax(0) - points.points.amax(0),
    ]
    assert all(float(gap.abs().max()) < 0.12 for gap in reach)


def test_a_fit_starts_better_from_a_file_than_from_random_points(
    raised: Painted, capture: PosedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = [view.camera for view in capture]
    there = moved(raised.avatar, CAPTURE).prepare()
    frames = [there.render(camera, 0.0) for camera in cameras]
    views = PosedImages(
        tuple(
            replace(view, pixels=torch.cat([frame.image[0], frame.alpha[0]], -1))
            for view, frame in zip(capture, frames)
        )
    )
    empty = PosedImages(())
    monkeypatch.setattr(fitting, "load_posed_images", lambda _, split: views if split == "train" else empty)
    monkeypatch.setattr(fitting, "load_body_mesh", lambda _: None)
    monkeypatch.setattr(fitting, "load_points", lambda _: None)
    file = replace(raised.avatar, placement=CAPTURE).export(tmp_path / "fitted.safetensors")
    config = FitConfig(iterations=6, points=COUNT, lights=4, initial_shading_steps=5, exposure="off")

    def loss(out: str, init: Path | None) -> float:
        avatar = fitting.fit(tmp_path, tmp_path / out, config=config, device="cpu", init=init)
        assert avatar.placement is not None
        seen = avatar.to("cpu").prepare()
        errors = [
            (seen.render(camera, 0.0).image[0] - view.image).square().mean()
            for camera, view in zip((avatar.placement.inverse().cameras(c) for c in cameras), views)
        ]
        return float(torch.stack(errors).mean())

    started = loss("init", file)
    assert json.loads((tmp_path / "init" / "report.json").read_text())["start"] == "init"
    assert started < 0.3 * loss("random", None)
