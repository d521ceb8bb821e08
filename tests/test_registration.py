"""The body model fitted to images of people whose shape, pose and place are known."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from posed_people import Person, person, views_of
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import Avatar
from specularip.body.mesh import Body, SurfaceSamples, interpolate
from specularip.body.regions import HEAD
from specularip.captures.views import PosedImages
from specularip.errors import UserError
from specularip.fitting import fit as fitting
from specularip.fitting.rigging import bound
from specularip.fitting.settings import FitConfig
from specularip.gaussians import Gaussians, turned_to
from specularip.motion.quaternions import from_rotation_vectors, matrices
from specularip.placement import Placement
from specularip.progress import Progress
from specularip.registration.fit_body import FittedBody, fit_body
from specularip.registration.posed_shape import CODES, PosedShape, ShapeModel, SkinPoints
from specularip.specular import LATENTS

COUNT = 6000
TRUNK = ("root", "spine03", "neck01", "head")
ARMS = tuple(f"{name}.{side}" for side in "LR" for name in ("upperarm01", "lowerarm01", "wrist"))
UPPER_ARMS = tuple(f"{name}.{side}" for side in "LR" for name in ("upperarm01", "lowerarm01"))
LEGS = tuple(f"{name}.{side}" for side in "LR" for name in ("upperleg01", "lowerleg01", "foot"))
ELSEWHERE = Placement(
    100.0,
    matrices(from_rotation_vectors(torch.tensor([1.2, 0.4, -0.8]).double())),
    torch.tensor([90.0, -40, 300]),
)
"""In centimetres, far from the origin, with another axis up."""


def errors(found: FittedBody, who: Person, placement: Placement, names: tuple[str, ...]) -> Tensor:
    """Metres [n] between joints as found and as they are."""
    index = [who.body.joint_names.index(name) for name in names]
    places = found.placement.points(found.standing().joints[index])
    return (places - placement.points(who.standing.joints[index])).norm(dim=1) / placement.scale


def test_derivatives_are_right(seed):
    model = ShapeModel()
    samples = model.anny.body_of(
        *(t[0] for t in model.anny.evaluate(torch.full((1, 11), 0.5)))
    ).sample_surface(20)
    points = SkinPoints(model, model.anny.faces[samples.faces], samples.barycentric, CODES, head_shape=True)
    shape = PosedShape(
        model.adult,
        0.1 * torch.randn(points.counts[2]).double(),
        from_rotation_vectors(0.3 * torch.randn(len(model.joint_names), 3).double()),
        matrices(from_rotation_vectors(torch.randn(3).double())),
        torch.randn(3).double(),
        2.5,
    )
    slopes = points.derivatives(shape)
    before = shape.placement.points(points.posed(shape)[0])
    for unknown in torch.randperm(points.unknowns)[:40].tolist():
        step = 1e-6 * F.one_hot(torch.tensor(unknown), points.unknowns).double()
        after = shape.moved(step, points)
        moved = (after.placement.points(points.posed(after)[0]) - before) / 1e-6
        expected = shape.scale * slopes[:, :, unknown] @ shape.rotation.T
        assert torch.allclose(moved, expected, atol=1e-4), (seed, unknown)


def test_a_person_anywhere_with_a_bent_arm_and_a_skirt_is_found():
    who = person(3, bent_deg=75, skirt=True)
    found = fit_body(views_of(who, ELSEWHERE, count=10, size=160))
    assert found.silhouette_iou > 0.65  # of the skirt, too
    assert found.placement.scale == pytest.approx(100, rel=0.1)
    off = errors(found, who, ELSEWHERE, TRUNK + ARMS + LEGS)
    assert float(off.max()) < 0.08 and float(off.mean()) < 0.03
    # Upright in its own world, which is the capture's but for the placement.
    up = found.placement.rotation.T @ ELSEWHERE.rotation[:, 2]
    assert float(up[2]) > 0.999
    # In the A-pose, the arms hang as Anny's do, whatever they did in the images.
    wrist, elbow = (found.body.joints[found.body.joint_names.index(n)] for n in ("wrist.L", "lowerarm01.L"))
    assert float((wrist - elbow)[2]) < -0.05
    again = FittedBody.unpack(found.pack())
    assert again.placement.same_as(found.placement) and again.notes == found.notes
    assert torch.equal(again.standing().vertices, found.standing().vertices)


def test_an_old_run_stays_where_no_body_can_be_found(tmp_path, monkeypatch):
    views = views_of(person(0), Placement.identity(), count=3, size=40)
    opaque = PosedImages(tuple(replace(v, pixels=torch.ones_like(v.pixels)) for v in views))
    monkeypatch.setattr(fitting, "load_posed_images", lambda _, split: opaque)
    monkeypatch.setattr(fitting, "load_body_mesh", lambda _: None)
    monkeypatch.setattr(fitting, "load_points", lambda _: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    with pytest.raises(UserError, match="tell the person from the background"):
        fitting.fit(tmp_path, tmp_path / "run", config=FitConfig(body=True), device="cpu", overwrite=True)
    assert (tmp_path / "run" / "report.json").read_text() == "{}"


def test_images_may_end_at_the_hips():
    who, here = person(5), Placement.identity()
    upper = fit_body(views_of(who, here, count=8, size=160, height=0.5, distance=1.7))
    assert float(errors(upper, who, here, ("neck01", "head", *UPPER_ARMS)).max()) < 0.05
    assert upper.placement.scale == pytest.approx(1, abs=1e-6)  # a person of that height is in metres
    assert upper.body.height == pytest.approx(who.body.height, rel=0.12)


def test_images_without_an_outline_are_refused():
    views = views_of(person(0), Placement.identity(), count=3, size=40)
    opaque = PosedImages(tuple(replace(v, pixels=torch.ones_like(v.pixels)) for v in views))
    with pytest.raises(UserError, match="0 of 3 images tell the person from the background"):
        fit_body(opaque)
    with pytest.raises(UserError, match="2 of 3 images"):
        fit_body(PosedImages((views[0], views[1], opaque[2])))


def known(who: Person, faces: int = 3) -> FittedBody:
    """The truth, as if it had been found."""
    return FittedBody(who.body, who.stance, ELSEWHERE, 0.9, 0.003 if faces else None, faces)


def skin_samples(who: Person) -> SurfaceSamples:
    return who.standing.sample_surface(COUNT, torch.Generator().manual_seed(0), {"head": 12.0})


def skin_of(who: Person, body: Body) -> Avatar:
    """Gaussians on the person's body, in one pose or the other."""
    samples, count = skin_samples(who), COUNT
    cloud = Gaussians(
        means=interpolate(body.vertices, samples, body.faces),
        quats=turned_to(F.normalize(interpolate(body.vertex_normals, samples, body.faces), dim=-1)),
        log_scales=torch.full((count, 3), -5.0),
        opacity_logits=torch.full((count,), 3.0),
        color_logits=torch.zeros(count, 3),
        latents=torch.zeros(count, LATENTS),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
    )
    return Avatar(cloud)


def test_bound_gaussians_go_to_the_a_pose_with_the_body():
    who = person(2, bent_deg=60)
    avatar, samples = skin_of(who, who.standing), skin_samples(who)
    rigged = bound(avatar, known(who))
    assert torch.equal(rigged.gaussians.means[:COUNT], avatar.gaussians.means)
    assert float((rigged.gaussians.regions[:COUNT] == samples.regions).float().mean()) > 0.99
    at_rest = rigged.posed(torch.tensor([[1.0, 0, 0, 0]]).repeat(len(who.body.joints), 1))
    expected = interpolate(who.body.vertices, samples, who.body.faces)
    off = (at_rest.gaussians.means[:COUNT] - expected).norm(dim=1)
    assert float(off.median()) < 0.002 and float(off.quantile(0.99)) < 0.015


def test_facial_actions_are_turned_with_the_head():
    who = person(2)
    still = torch.tensor([[1.0, 0, 0, 0]]).repeat(len(who.body.joints), 1)
    turned = bound(skin_of(who, who.standing), known(who))
    upright = bound(skin_of(who, who.body), replace(known(who), stance=still))
    assert turned.expressions is not None and upright.expressions is not None
    smile = turned.expressions.names.index("mouthSmileLeft")
    lengths = [float(a.expressions.offsets[smile].norm(dim=1).max()) for a in (turned, upright)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05) and lengths[0] > 0.003
    # Brought to the A-pose, a smile moves the same points to the same places.
    strengths = F.one_hot(torch.tensor(smile), len(turned.expressions.names)).float()
    moved = [
        (a.posed(still, expressions=strengths).gaussians.means - a.posed(still).gaussians.means)[:COUNT]
        for a in (turned, upright)
    ]
    near = upright.gaussians.regions[:COUNT] == HEAD
    assert float((moved[0] - moved[1])[near].norm(dim=1).max()) < 0.002


def test_without_a_face_there_are_no_facial_actions():
    who = person(2)
    rigged = bound(skin_of(who, who.standing), known(who, faces=0))
    assert rigged.expressions is None and len(rigged.gaussians) == COUNT


class Interrupting(Progress):
    """Ctrl-C at the first progress of the fit itself."""

    def step(self, done: int, loss: float | None = None) -> None:
        super().step(done, loss)
        if self.stage().name == "fit":
            os.kill(os.getpid(), signal.SIGINT)


def test_a_fit_starts_on_the_body_is_resumed_exactly_and_can_move(tmp_path, monkeypatch):
    who = person(1)
    views = views_of(who, ELSEWHERE, count=6, size=64)
    calls: list[int] = []

    def found(train: PosedImages, report: object = None) -> FittedBody:
        calls.append(len(train))
        return known(who, faces=0)

    monkeypatch.setattr(fitting, "fit_body", found)
    empty = PosedImages(())
    monkeypatch.setattr(fitting, "load_posed_images", lambda _, split: views if split == "train" else empty)
    monkeypatch.setattr(fitting, "load_body_mesh", lambda _: None)
    monkeypatch.setattr(fitting, "load_points", lambda _: None)
    config = FitConfig(iterations=60, points=400, lights=4, body=True, initial_shading_steps=20)
    data = tmp_path / "data"
    data.mkdir()
    whole = fitting.fit(data, tmp_path / "a", config=config, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        fitting.fit(data, tmp_path / "b", config=config, device="cpu", progress=Interrupting())
    resumed = fitting.fit(data, tmp_path / "b", config=config, device="cpu", resume=True)
    assert calls == [6, 6]  # not again in the resumed run
    for name, tensor in whole.gaussians.tensors().items():
        assert torch.equal(tensor, getattr(resumed.gaussians, name)), name
    assert whole.placement is not None and whole.placement.same_as(ELSEWHERE)
    assert whole.binding is not None and torch.equal(whole.binding.stance, who.stance)
    from_body = torch.cdist(whole.gaussians.means, who.standing.vertices).amin(1)
    assert float(from_body.quantile(0.9)) < 0.05
    moved = whole.posed(torch.tensor([[1.0, 0, 0, 0]]).repeat(len(who.body.joints), 1))
    assert bool(moved.gaussians.means.isfinite().all())
