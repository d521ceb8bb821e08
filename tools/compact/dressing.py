"""Clothes, hair and faces on bodies: surface points of dressed people, ready to be shaded and splatted.

Every sample keeps its position on the mesh. So a garment is a rule over positions (how far down the arm, how
far up the torso), evaluated once on a template body, and fits any body shape. Cloth that hangs away from the
body (skirts, coat tails, long hair) is a separate surface, sized by the body under it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize
from wardrobe import (
    BOTTOM_NAMES,
    COLOR_NAMES,
    COLORS,
    EYE,
    HAIR,
    HAIR_STYLES,
    SHOE,
    SHOE_NAMES,
    SKIN,
    TOP_NAMES,
    Person,
)

from specularip.body.anny import PHENOTYPE_NAMES, AnnyModel
from specularip.body.regions import NAMES

SURFACE, HEAD_SHARE, SKIRT, CURTAIN = 30_000, 0.30, 6_000, 4_000
SPLAT = 0.72, 0.22
"""Standard deviations of a splat along and across the surface, in spacings of the samples."""
REGION = {name: i for i, name in enumerate(NAMES)}
BLACK, WHITE = (0.06, 0.06, 0.065), (0.92, 0.92, 0.90)


@dataclass
class Dressed:
    """P people of N points each. All [P,N,...]: points, normals, threads [3]; albedo [3] sRGB; material
    codes; occlusion, opacity; scales [3] and quats [4] of their Gaussians."""

    points: Tensor
    normals: Tensor
    threads: Tensor
    albedo: Tensor
    material: Tensor
    occlusion: Tensor
    opacity: Tensor
    scales: Tensor
    quats: Tensor
    keypoints: Tensor
    vertices: Tensor
    heights: Tensor
    face_center: Tensor
    """[P,3] midpoint of the eyes."""
    face_unit: Tensor
    """[P] distance between the eyes, metres: the unit of the face."""


def phenotypes(people: list[Person], device: torch.device) -> Tensor:
    return torch.tensor(
        [[p.phenotype.get(name, 0.5) for name in PHENOTYPE_NAMES] for p in people], device=device
    )


def _along(points: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Position of points along the segment a-b: 0 at a, 1 at b."""
    d = b - a
    return ((points - a) @ d) / (d @ d)


def _limb(points: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """0 at joint a, 1 at b, 2 at c, following the bones."""
    first, second = _along(points, a, b), _along(points, b, c)
    return torch.where(first < 1.0, first, 1.0 + second.clamp_min(0.0))


def quats_from_normals(n: Tensor) -> Tensor:
    """Rotation from z to the normal, wxyz."""
    q = torch.stack([1 + n[..., 2], -n[..., 1], n[..., 0], torch.zeros_like(n[..., 0])], -1)
    flipped = torch.zeros_like(q)
    flipped[..., 1] = 1.0
    return normalize(torch.where(q.norm(dim=-1, keepdim=True) < 1e-3, flipped, q), dim=-1)


def _hash(x: Tensor) -> Tensor:
    """Cheap deterministic noise in 0..1."""
    return torch.frac(torch.sin(x * 127.1) * 43758.5453).abs()


class Mannequin:
    """The samples of the template body and all attributes of their positions."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        model = self.model = AnnyModel.load(device)
        self.faces = model.faces.long()
        template = model.vertices(torch.full((1, len(PHENOTYPE_NAMES)), 0.5, device=device).clone())[0]
        self.template = template
        keypoints = model.keypoints(template[None])[0]
        g = torch.Generator(device="cpu").manual_seed(seed)
        tri = template[self.faces]
        area = torch.linalg.cross(tri[:, 1] - tri[:, 0], tri[:, 2] - tri[:, 0]).norm(dim=-1)
        face_region = model.regions[self.faces[:, 0]]
        head = face_region == REGION["head"]
        head |= face_region == REGION["neck"]
        weight = torch.where(
            head, area * HEAD_SHARE / area[head].sum(), area * (1 - HEAD_SHARE) / area[~head].sum()
        )
        # Of the head, the face itself gets three times the points of the skull.
        center = tri.mean(1)
        in_front = head & (center[:, 1] < keypoints[0, 1] + 0.09)
        weight = torch.where(in_front, weight * 3, weight)
        # Head close-ups show collars and shoulders too.
        collar = ~head & (center[:, 2] > keypoints[1, 2] - 0.16) & (center[:, 0].abs() < 0.22)
        weight = torch.where(collar, weight * 2.5, weight)
        pick = torch.multinomial(weight.cpu(), SURFACE, replacement=True, generator=g)
        bary = torch.empty(SURFACE, 3).exponential_(generator=g)
        bary /= bary.sum(-1, keepdim=True)
        self.corner, self.bary = self.faces[pick.to(device)], bary.to(device)
        self.region = model.regions[self.corner[:, 0]]
        # Spacing of samples from the sampling density.
        density = SURFACE * weight / weight.sum() / area.clamp_min(1e-12)
        self.spacing = density[pick.to(device)].rsqrt()
        p = self.place = (template[self.corner] * self.bary[..., None]).sum(1)
        self.height = float(template[:, 2].max() - template[:, 2].min())

        r_sho, r_elb, r_wri, l_sho, l_elb, l_wri = keypoints[2:8]
        r_hip, r_knee, r_ank, l_hip, l_knee, l_ank = keypoints[8:14]
        left = p[:, 0] > 0
        self.arm = torch.where(left, _limb(p, l_sho, l_elb, l_wri), _limb(p, r_sho, r_elb, r_wri))
        self.leg = torch.where(left, _limb(p, l_hip, l_knee, l_ank), _limb(p, r_hip, r_knee, r_ank))
        hip_z, shoulder_z = (r_hip[2] + l_hip[2]) / 2, (r_sho[2] + l_sho[2]) / 2
        self.torso_height = float(shoulder_z - hip_z)
        self.torso = (p[:, 2] - hip_z) / (shoulder_z - hip_z)  # 0 at the hip joints, 1 at the shoulder joints
        self.vertex_torso = (template[:, 2] - hip_z) / (shoulder_z - hip_z)
        self.across = p[:, 0] / self.height
        eyes = keypoints[14:16]
        self.unit = float((eyes[0] - eyes[1]).norm())
        self.eye_mid = eyes.mean(0)
        f = (p - self.eye_mid) / self.unit
        self.fx, self.fy, self.fz = f[:, 0], f[:, 1], f[:, 2]
        self.is_head = self.region == REGION["head"]
        normal = self.vertex_normals(template[None])[0]
        n = normalize((normal[self.corner] * self.bary[..., None]).sum(1), dim=-1)
        self.front = n[:, 1] < -0.1
        self.template_normal = n
        self.occlusion = self._occlusion(p, n)
        eyeball = torch.zeros(len(template), dtype=torch.bool, device=device)
        eyeball[model.eyeballs.flatten()] = True
        self.eyeball = eyeball[self.corner].all(1)

    def vertex_normals(self, vertices: Tensor) -> Tensor:
        """Vertex normals [B,V,3]."""
        tri = vertices[:, self.faces]
        cross = torch.linalg.cross(tri[:, :, 1] - tri[:, :, 0], tri[:, :, 2] - tri[:, :, 0])
        out = torch.zeros_like(vertices)
        for k in range(3):
            out.index_add_(1, self.faces[:, k], cross)
        return normalize(out, dim=-1)

    def _occlusion(self, p: Tensor, n: Tensor, directions: int = 96, grid: int = 200) -> Tensor:
        """Ambient visibility of each sample: the cosine-weighted share of unoccluded directions, from depth
        maps of the sample cloud. 1 = unoccluded."""
        i = torch.arange(directions, device=p.device) + 0.5
        z, a = 1 - 2 * i / directions, i * math.pi * (3 - 5**0.5)
        ways = torch.stack([(1 - z * z).sqrt() * a.cos(), (1 - z * z).sqrt() * a.sin(), z], -1)
        seen, total = torch.zeros(len(p), device=p.device), torch.zeros(len(p), device=p.device)
        cell = self.height / grid
        for way in ways:
            cos = (n @ way).clamp_min(0)
            right = normalize(torch.linalg.cross(way, way.new_tensor([0.3, 0.5, 0.8])), dim=-1)
            up = torch.linalg.cross(right, way)
            u = ((p @ right) / cell + grid).long().clamp(0, 2 * grid - 1)
            v = ((p @ up) / cell + grid).long().clamp(0, 2 * grid - 1)
            key, depth = u * 2 * grid + v, p @ way
            nearest = torch.full((4 * grid * grid,), -9.0, device=p.device).scatter_reduce(
                0, key, depth, "amax"
            )
            seen += cos * (depth > nearest[key] - 2.2 * cell)
            total += cos
        return (0.25 + 0.75 * (seen / total.clamp_min(1e-6))).clamp(0.25, 1)

    @torch.no_grad()
    def dress(self, people: list[Person]) -> Dressed:
        """Bodies, faces, hair and outfits of `people`."""
        dev, P = self.device, len(people)

        def per(values: list, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=dev)[:, None]

        vertices = self.model.vertices(phenotypes(people, dev))
        heights = vertices[..., 2].amax(1) - vertices[..., 2].amin(1)
        size = (heights / self.height)[:, None]
        keypoints = self.model.keypoints(vertices)
        vertex_normals = self.vertex_normals(vertices)
        p = (vertices[:, self.corner] * self.bary[None, ..., None]).sum(2)
        n = normalize((vertex_normals[:, self.corner] * self.bary[None, ..., None]).sum(2), dim=-1)
        N = p.shape[1]

        cut = {k: per([q.cut[k] for q in people]) for k in people[0].cut}
        top = per([q.top for q in people], torch.long)
        bottom = per([q.bottom for q in people], torch.long)
        style = per([q.hair_style for q in people], torch.long)
        top_rgb = per([COLORS[COLOR_NAMES[q.top_color]][0] for q in people])
        bottom_rgb = per([COLORS[COLOR_NAMES[q.bottom_color]][0] for q in people])
        shoe_rgb = per([COLORS[COLOR_NAMES[q.shoe_color]][0] for q in people])
        skin = per([q.skin for q in people])
        hair_rgb = per([q.hair_rgb for q in people])
        female = per([q.phenotype["gender"] > 0.5 for q in people], torch.bool)
        beard = per([q.beard for q in people])
        top_material = per([q.top_material for q in people], torch.long)
        bottom_material = per([q.bottom_material for q in people], torch.long)

        def is_top(*names: str) -> Tensor:
            return sum((top == TOP_NAMES.index(x) for x in names), torch.zeros_like(top, dtype=torch.bool))

        def is_bottom(name: str) -> Tensor:
            return bottom == BOTTOM_NAMES.index(name)

        region, arm, leg, torso, x = (
            self.region[None],
            self.arm[None],
            self.leg[None],
            self.torso[None],
            self.across[None],
        )
        fx, fy, fz, front = self.fx[None], self.fy[None], self.fz[None], self.front[None]
        neck_base = (region == REGION["neck"]) & (torso < torch.where(front, 1.12, 1.20))
        on_torso = (region == REGION["torso"]) | (region == REGION["hips"]) | neck_base
        on_arm = (region == REGION["upper_arm"]) | (region == REGION["lower_arm"])
        on_hand, on_foot = region == REGION["hand"], region == REGION["foot"]
        on_leg = (region == REGION["upper_leg"]) | (region == REGION["lower_leg"])
        head, neck = region == REGION["head"], region == REGION["neck"]

        dress, suit, ski, coat = is_top("dress"), is_top("suit"), is_top("ski suit"), is_top("coat")
        jacket, shirt, tank, tee = is_top("jacket"), is_top("shirt"), is_top("tank top"), is_top("t-shirt")
        sweater, hoodie = is_top("sweater"), is_top("hoodie")
        open_front = jacket | suit

        # --- skin and face -------------------------------------------------------------------------------
        albedo = skin.expand(P, N, 3).clone()
        material = torch.full((P, N), SKIN, device=dev)
        offset = torch.zeros(P, N, device=dev)
        threads = p.new_tensor([0.0, 0.0, 1.0]).expand(P, N, 3).clone()

        def paint(mask: Tensor, color: Tensor, blend: float | Tensor = 1.0) -> None:
            nonlocal albedo
            weight = mask.float()[..., None] * (blend if isinstance(blend, float) else blend[..., None])
            albedo = albedo + weight * (color - albedo)

        face = head & (fy < 1.1) & ~self.eyeball[None]
        paint(
            face & (((fx.abs() - 0.72) / 0.42) ** 2 + ((fz + 0.62) / 0.35) ** 2 < 1),
            skin * skin.new_tensor([1.0, 0.80, 0.78]),
            0.35,
        )
        lip_shape = (fx / 0.37) ** 2 + ((fz + 1.17) / 0.14) ** 2
        lip_tone = torch.where(
            female[..., None],
            skin * skin.new_tensor([0.88, 0.50, 0.50]) + 0.02,
            skin * skin.new_tensor([0.86, 0.70, 0.67]),
        )
        paint(face & (lip_shape < 1), lip_tone, 0.9)
        paint(face & ((fz + 1.165).abs() < 0.035) & (fx.abs() < 0.36), skin * 0.32)
        paint(face & ((fx.abs() - 0.13) ** 2 + (fz + 0.66) ** 2 < 0.075**2), skin * 0.45)
        socket = ((fx.abs() - 0.5) / 0.34) ** 2 + ((fz - 0.01) / 0.20) ** 2
        paint(face & (socket < 1.3), skin * 0.66, 0.5)
        paint(face & (socket < 1.3) & (fz > 0.10) & (fz < 0.20), skin * 0.18, 0.9)
        brow_tone = torch.where(style == 0, skin[..., 0] * 0.4, hair_rgb[..., 0] * 0.7)[
            ..., None
        ] * hair_rgb.new_tensor([1, 0.85, 0.75])
        arch = 0.36 + 0.05 * (1 - ((fx.abs() - 0.55) / 0.33) ** 2)
        paint(
            face
            & ((fz - arch).abs() < torch.where(female, 0.055, 0.085))
            & (fx.abs() > 0.2)
            & (fx.abs() < 0.84),
            brow_tone,
            0.8,
        )
        # The lids of the mesh are nearly shut; the eye is painted on the surface that faces the camera there.
        eye = (
            head
            & (fy < 1.1)
            & (self.eyeball[None] | (((fx.abs() - 0.5) / 0.29) ** 2 + ((fz - 0.01) / 0.135) ** 2 < 1))
        )
        eye = eye.expand(P, N)
        iris = ((fx.abs() - 0.5) ** 2 + fz**2).sqrt()
        iris_rgb = torch.tensor([(0.22, 0.12, 0.06), (0.20, 0.35, 0.55), (0.20, 0.33, 0.18)], device=dev)
        dark_skin = skin[..., 0] < 0.6
        choice = torch.where(dark_skin, torch.zeros_like(top), (_hash(cut["phase"]) * 3).long().clamp(0, 2))
        paint(eye, torch.full((1, 1, 3), 0.90, device=dev))
        paint(eye & (iris < 0.145), iris_rgb[choice[:, 0]][:, None])
        paint(eye & (iris < 0.075), torch.full((1, 1, 3), 0.02, device=dev))
        material = torch.where(eye, EYE, material)
        old = per([q.phenotype["age"] > 0.85 for q in people])
        paint(
            face & ((fx.abs() - (0.55 + 0.25 * (-0.4 - fz))).abs() < 0.05) & (fz < -0.4) & (fz > -1.0),
            skin * 0.72,
            0.7 * old,
        )
        chin = face & (fz < -0.72) & (lip_shape > 1.1) & ((fz < -0.95) | (fx.abs() > 0.55) | (fz > -1.0))
        hairy = (chin & (fz < -0.78)) | (
            head & (fx.abs() > 0.95) & (fy > 0.4) & (fy < 1.2) & (fz < -0.2) & (fz > -1.6)
        )
        paint(hairy, hair_rgb * 0.85, 0.65 * beard.expand(P, N))
        material = torch.where(hairy & (beard > 0), HAIR, material)

        # --- hair on the skull ---------------------------------------------------------------------------
        ear = head & (fx.abs() > 1.27) & (fy > 0.75) & (fy < 2.2) & (fz > -0.75) & (fz < 0.32)
        line = 1.02 + 0.10 * (cut["fringe"] - 0.5) - 0.16 * (fx.abs() / 1.1) ** 2
        fringe = (cut["fringe"] > 0.7) & female
        line = torch.where(fringe, 0.62 + 0.0 * fx, line)
        scalp = (
            head
            & ~ear
            & (((fz > line) & (fy < 1.0)) | ((fy > 0.95) & (fz > 0.12)) | ((fy > 1.75) & (fz > -1.0)))
        )
        scalp = scalp & (style != HAIR_STYLES.index("bald"))
        volume = torch.tensor([0.0, 0.006, 0.016, 0.013, 0.010, 0.034], device=dev)[style] * size
        paint(scalp, hair_rgb)
        material = torch.where(scalp, HAIR, material)
        bumps = (
            0.6
            + 0.8 * _hash(torch.floor(self.place[:, 0] * 60) + 7 * torch.floor(self.place[:, 2] * 60))[None]
        )
        curly = style == HAIR_STYLES.index("curly")
        offset = torch.where(scalp, volume * torch.where(curly, bumps, torch.ones_like(bumps)), offset)
        threads = torch.where(scalp[..., None], threads + 0.3 * n, threads)

        # --- the outfit ----------------------------------------------------------------------------------
        one = torch.ones_like(cut["sleeve"])
        long_sleeve = 1.93 * one
        short_sleeve = 0.45 + 0.35 * cut["sleeve"]
        dress_sleeve = torch.where(
            cut["sleeve"] < 0.55, -0.05 * one, torch.where(cut["sleeve"] < 0.8, short_sleeve, long_sleeve)
        )
        sleeve = torch.where(
            tee, short_sleeve, torch.where(tank, -0.02 * one, torch.where(dress, dress_sleeve, long_sleeve))
        )
        hem = torch.where(
            open_front | ski,
            -0.16 + 0.1 * cut["hem"],
            torch.where(tank | tee, 0.12 + 0.14 * cut["hem"], 0.02 + 0.18 * cut["hem"]),
        )
        hem = torch.where(dress | coat, -0.05 * one, hem)
        # The neck opening: an ellipse around the front of the throat; deeper for dresses and tank tops.
        depth = torch.where(
            dress | tank, 0.20 + 0.20 * cut["neck"], torch.where(tee, 0.14 + 0.06 * cut["neck"], 0.11 * one)
        )
        width = torch.where(dress | tank, 0.058 + 0.02 * cut["neck"], 0.045 * one)
        throat = ((x / width) ** 2 + ((torso - 1.14) / torch.where(front, depth + 0.10, 0.07 * one)) ** 2) < 1
        covers = (on_torso & ~throat & (torso > hem)) | (on_arm & (arm < sleeve))
        bare_shoulder = (dress & (cut["sleeve"] < 0.25)) & (torso > 0.88)
        covers = covers & ~(bare_shoulder & (x.abs() > 0.055)) & ~(tank & (torso > 0.80) & (x.abs() > 0.082))
        covers = covers | (on_leg & (torso > hem) & (leg < 0.5))
        covers = (
            covers | (neck & (torso < 1.28) & (sweater | ski | coat) & (cut["neck"] > 0.35)) | (ski & on_hand)
        )
        collar = neck & (torso < 1.22) & (shirt | suit | hoodie | coat | jacket)

        pants = is_bottom("trousers") | is_bottom("leggings")
        leg_end = torch.where(
            is_bottom("shorts"), 0.62 + 0.3 * cut["length"], torch.where(pants, 1.93 * one, -1.0 * one)
        )
        below = (on_leg & (leg < leg_end)) | ((region == REGION["hips"]) | (on_torso & (torso < 0.42)))
        below = below & ~covers & (pants | is_bottom("shorts") | is_bottom("skirt")) & ~dress
        below = below & (on_leg | (torso < 0.42))

        paint(below, bottom_rgb)
        material = torch.where(below, bottom_material, material)
        loose = torch.where(
            is_bottom("leggings"),
            0.002 * one,
            torch.where(suit | ski, 0.010 * one, 0.006 + 0.006 * cut["flare"]),
        )
        drape = loose * (1 + 1.3 * (leg / 2).clamp(0, 1) * (~is_bottom("leggings")))
        folds = (
            0.003
            * torch.sin(self.place[:, 2][None] * (60 + 40 * cut["folds"]) + 9 * fx + 6 * cut["phase"])
            * (leg / 2).clamp(0, 1)
        )
        offset = torch.where(below, (drape + folds) * size, offset)
        waistband = below & (torso > 0.36) & (torso < 0.42)
        paint(waistband, bottom_rgb * 0.55)
        seam = below & on_leg & (x.abs() > 0.0) & ((leg - leg_end).abs() < 0.05)
        paint(seam, bottom_rgb * 0.75)

        dressed = covers | collar
        paint(dressed, top_rgb)
        material = torch.where(dressed, top_material, material)
        thickness = torch.where(
            ski,
            0.022 * one,
            torch.where(
                coat, 0.014 * one, torch.where(hoodie | sweater | open_front, 0.010 * one, 0.005 * one)
            ),
        )
        wrinkle = (
            0.0035
            * torch.sin(torso * (16 + 12 * cut["folds"]) + 14 * x + 7 * cut["phase"])
            * ((1 - torso).clamp(0, 1) + 0.3)
        )
        sleeve_folds = 0.003 * torch.sin(arm * (18 + 8 * cut["folds"]) + 5 * cut["phase"])
        grow = thickness + torch.where(on_arm, sleeve_folds, wrinkle) * (thickness > 0.004)
        quilt = 0.006 * torch.cos(torch.where(on_arm, arm * 16, torso * 22))
        grow = grow + torch.where(ski, quilt, torch.zeros_like(quilt))
        offset = torch.where(dressed, grow * size + torch.where(collar, 0.008 * one, 0 * one) * size, offset)
        paint(dressed & (collar | ((torso - hem).abs() < 0.03) & ~dress & ~coat), top_rgb * 0.82)
        paint(dressed & on_arm & ((arm - sleeve).abs() < 0.06), top_rgb * 0.80)
        # Fronts: a placket with buttons, an open jacket over a shirt, a suit's lapels and tie, a zip.
        chest = covers & on_torso & front
        paint(chest & (shirt | (coat & (cut["inner"] > 0.3))) & (x.abs() < 0.0035), top_rgb * 0.62)
        button = (torch.frac(torso * 6.5) - 0.5).abs() < 0.11
        paint(chest & (shirt | coat) & button & (x.abs() < 0.0055), top_rgb * 0.35 + 0.1)
        paint(chest & ski & (x.abs() < 0.005), torch.full((1, 1, 3), 0.12, device=dev))
        accent = torch.where(top_rgb.mean(-1, keepdim=True) > 0.45, top_rgb * 0.30, top_rgb * 0.5 + 0.45)
        paint(
            covers
            & ski
            & ((on_arm & ((arm - 0.75).abs() < 0.10)) | (on_torso & ((torso - 0.80).abs() < 0.035))),
            accent,
            0.9,
        )
        paint(
            hoodie & chest & ((x.abs() - 0.02).abs() < 0.0035) & (torso > 0.72),
            torch.full((1, 1, 3), 0.85, device=dev),
        )
        paint(hoodie & chest & ((torso - 0.36).abs() < 0.012) & (x.abs() < 0.065), top_rgb * 0.6)
        gap = 0.010 + 0.055 * ((torso - 0.48) * 1.7).clamp(0, 1)
        gap = torch.where(jacket & (cut["inner"] < 0.6), 0.022 + 0.020 * torso.clamp(0, 1), gap)
        inside = chest & open_front & (x.abs() < gap) & (torch.where(suit, torso > 0.46, torso > hem))
        inner_rgb = torch.where(
            (suit | (cut["inner"] > 0.45))[..., None], skin.new_tensor(WHITE), skin.new_tensor(BLACK)
        )
        lapel = (
            chest
            & open_front
            & (x.abs() >= gap)
            & (x.abs() < gap + 0.018 + 0.012 * torso.clamp(0, 1))
            & (torso > 0.5)
        )
        paint(lapel, top_rgb * 0.72)
        paint(inside | (suit & collar & front), inner_rgb)
        material = torch.where(inside, 0, material)
        offset = torch.where(inside, 0.003 * size, torch.where(lapel, offset + 0.005 * size, offset))
        tie_rgb = torch.tensor([(0.45, 0.05, 0.08), (0.07, 0.09, 0.25), (0.06, 0.06, 0.06)], device=dev)[
            (cut["tie"][:, 0] * 2.99).long()
        ][:, None]
        tie = inside & suit & ~female & (x.abs() < 0.011) | (
            suit & ~female & neck & front & (x.abs() < 0.012) & (torso < 1.2)
        )
        paint(tie, tie_rgb)
        belt = (dress & (cut["tie"] > 0.55)) & dressed & ((torso - 0.46).abs() < 0.035)
        paint(belt, top_rgb * 0.45)

        boots = per([SHOE_NAMES[q.shoe] == "boots" for q in people], torch.bool) | ski
        shod = on_foot | (boots & on_leg & (leg > torch.where(pants, 1.85 * one, 1.55 + 0.2 * cut["length"])))
        paint(shod, torch.where(ski[..., None], torch.full_like(shoe_rgb, 0.08), shoe_rgb * 0.9))
        sole = on_foot & (self.place[:, 2][None] < self.place[:, 2].min() + 0.022)
        sneaker = per([SHOE_NAMES[q.shoe] == "sneakers" for q in people], torch.bool)
        paint(sole, torch.where(sneaker[..., None], skin.new_tensor(WHITE), skin.new_tensor(BLACK)))
        material = torch.where(shod, SHOE, material)
        offset = torch.where(shod, 0.006 * size, offset)
        paint(ski & on_hand, skin.new_tensor(BLACK))

        # Weave, denim's mottling and strands of hair.
        grain = torch.tensor([0.03, 0.12, 0.09, 0.03, 0.0, 0.0, 0.012, 0.14, 0.02, 0.0], device=dev)[material]
        noise = _hash(torch.arange(N, device=dev).float() * 0.731)[None] - 0.5
        albedo = (albedo * (1 + 2 * grain[..., None] * noise[..., None])).clamp(0.01, 0.98)

        p = p + n * offset[..., None]
        # Normals follow the larger folds.
        tilt = (
            0.25
            * torch.cos(torso * (16 + 12 * cut["folds"]) + 14 * x + 7 * cut["phase"])
            * ((1 - torso).clamp(0, 1) + 0.2)
        )[..., None]
        soft = (dressed & on_torso & ~ski)[..., None] * tilt
        n = normalize(n - soft * n.new_tensor([0.25, 0.0, 1.0]) * 0.5, dim=-1)
        spacing = self.spacing[None].expand(P, N) * size * (1 + (offset > 0.008).float() * 0.12)
        occlusion = self.occlusion[None].expand(P, N)
        opacity = torch.full((P, N), 0.97, device=dev)

        hang = self._hanging(
            people,
            vertices,
            size,
            keypoints,
            dict(
                dress=dress,
                coat=coat,
                skirt=is_bottom("skirt") & ~dress & ~suit & ~ski,
                top_rgb=top_rgb,
                bottom_rgb=bottom_rgb,
                top_material=top_material,
                bottom_material=bottom_material,
                style=style,
                hair_rgb=hair_rgb,
                cut=cut,
                female=female,
            ),
        )
        # Legs do not show through a skirt, at any pose.
        under = (hang[0]["opacity"][:, :1] > 0) & (on_leg | (region == REGION["hips"])) & ~covers
        opacity = torch.where(
            under & (p[..., 2] > hang[0]["points"][..., 2].amin(1, True) + 0.02), 0.0, opacity
        )
        parts = [
            dict(
                points=p,
                normals=n,
                threads=threads,
                albedo=albedo,
                material=material,
                occlusion=occlusion,
                opacity=opacity,
                spacing=spacing,
            ),
            *hang,
        ]
        merged = {k: torch.cat([part[k] for part in parts], 1) for k in parts[0]}
        spacing = merged.pop("spacing")
        scales = torch.stack([spacing * SPLAT[0], spacing * SPLAT[0], spacing * SPLAT[1]], -1)
        return Dressed(
            **merged,
            scales=scales,
            quats=quats_from_normals(merged["normals"]),
            keypoints=keypoints,
            vertices=vertices,
            heights=heights,
            face_center=keypoints[:, 14:16].mean(1),
            face_unit=(keypoints[:, 14] - keypoints[:, 15]).norm(dim=-1),
        )

    def _band(self, vertices: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Half-width, front, back and mean height of the trunk between two torso heights, each [P,1]."""
        region = self.model.regions
        trunk = (region == REGION["torso"]) | (region == REGION["hips"]) | (region == REGION["upper_leg"])
        pick = trunk & (self.vertex_torso > low) & (self.vertex_torso < high)
        v = vertices[:, pick]
        return (
            v[..., 0].abs().amax(1, True),
            v[..., 1].amin(1, True),
            v[..., 1].amax(1, True),
            v[..., 2].mean(1, True),
        )

    def _hanging(
        self, people: list[Person], vertices: Tensor, size: Tensor, keypoints: Tensor, o: dict
    ) -> list[dict[str, Tensor]]:
        """Skirts, coat tails and long hair."""
        dev, P, cut = self.device, len(people), o["cut"]
        i = torch.arange(SKIRT, device=dev)
        v = ((i + 0.5) / SKIRT).sqrt()[None]  # more points where the skirt is wide
        theta = (i * 2.399963)[None] + 0 * size
        has = o["dress"] | o["coat"] | o["skirt"]
        bands = [
            self._band(vertices, a, b) for a, b in ((0.36, 0.48), (0.12, 0.24), (-0.12, 0.04), (-0.42, -0.28))
        ]
        ankle_z = keypoints[:, [10, 13], 2].mean(1)[:, None]
        knee_z = keypoints[:, [9, 12], 2].mean(1)[:, None]
        start = bands[0][3]
        reach = torch.where(
            o["dress"],
            0.15 + 1.35 * cut["length"] ** 1.3,
            torch.where(o["coat"], 0.75 + 0.35 * cut["length"], 0.05 + 1.2 * cut["length"] ** 1.5),
        )
        thigh_z = bands[3][3]
        end = torch.where(
            reach < 1, thigh_z + (knee_z - thigh_z) * reach, knee_z + (ankle_z - knee_z) * (reach - 1) * 1.6
        )
        z = start + (end - start) * v
        # Ease from the waist over the hips; below them the cone opens by its flare.
        levels = torch.stack([b[3] for b in bands], -1)  # [P,1,4] falling
        half = torch.stack([b[0] for b in bands], -1)
        mid = torch.stack([(b[1] + b[2]) / 2 for b in bands], -1)
        deep = torch.stack([(b[2] - b[1]) / 2 for b in bands], -1)
        half[..., 3] = torch.maximum(half[..., 3], half[..., 2])
        deep[..., 3] = torch.maximum(deep[..., 3], deep[..., 2] * 0.9)

        def at(table: Tensor) -> Tensor:
            out = table[..., 0].expand_as(z)
            for k in range(3):
                t = ((levels[..., k] - z) / (levels[..., k] - levels[..., k + 1]).clamp_min(1e-3)).clamp(0, 1)
                out = out + t * (table[..., k + 1] - table[..., k])
            return out

        flare = torch.where(o["coat"], 0.05 + 0.08 * cut["flare"], 0.04 + 0.40 * cut["flare"] ** 1.5)
        drop = (bands[2][3] - z).clamp_min(0)
        ease = torch.where(o["coat"], 0.022 * size, 0.012 * size)
        waves, amount = (
            7 + (cut["folds"] * 6).floor(),
            (0.010 + 0.035 * cut["folds"]) * (drop / 0.4).clamp(0, 1.3),
        )
        fold = 1 + amount * torch.cos(waves * theta + 6 * cut["phase"]) * 1.0
        rx, ry = (at(half) + ease + flare * drop) * fold, (at(deep) + ease + flare * drop * 0.9) * fold
        points = torch.stack([rx * theta.sin(), at(mid) - ry * theta.cos(), z], -1)
        slope = amount * waves * -torch.sin(waves * theta + 6 * cut["phase"])
        radial = torch.stack([theta.sin() / rx, -theta.cos() / ry, flare / rx * 1.0 + 0 * z], -1)
        along = torch.stack([theta.cos(), theta.sin(), 0 * theta], -1)
        normals = normalize(normalize(radial, dim=-1) - slope[..., None] * along * 0.8, dim=-1)
        wear_top = o["dress"] | o["coat"]
        rgb = torch.where(wear_top[..., None], o["top_rgb"], o["bottom_rgb"]).expand(P, SKIRT, 3).clone()
        valley = 1 - 0.16 * (1 - torch.cos(waves * theta + 6 * cut["phase"])) * 0.5 * (amount > 0.01)
        rgb = torch.where((v > 0.975)[..., None], rgb * 0.75, rgb)
        waist = (v < 0.05)[..., None] & o["skirt"][..., None]
        rgb = torch.where(waist, rgb * 0.6, rgb)
        split = o["coat"] & (((theta + math.pi) % (2 * math.pi) - math.pi).abs() < 0.05)
        rgb = torch.where(split[..., None], rgb * 0.5, rgb)
        circumference = 2 * math.pi * (rx + ry) / 2 * (start - end)
        spacing = (circumference / SKIRT).clamp_min(1e-6).sqrt() * 1.15
        skirt = dict(
            points=points,
            normals=normals,
            threads=along.expand_as(points).contiguous(),
            albedo=rgb.clamp(0.01, 0.98),
            material=torch.where(wear_top, o["top_material"], o["bottom_material"]).expand(P, SKIRT),
            occlusion=valley.clamp(0.4, 1) * (1 - 0.10 * v),
            opacity=torch.where(has, 0.97, 0.0).expand(P, SKIRT),
            spacing=spacing,
        )
        # Long hair: a curtain from temple around the back to the other temple.
        j = torch.arange(CURTAIN, device=dev)
        w = ((j + 0.5) / CURTAIN)[None]
        phi = (math.pi * (-0.06 + 1.12 * torch.frac(j * 0.754877666)))[None]
        style = o["style"]
        unit = (keypoints[:, 14] - keypoints[:, 15]).norm(dim=-1)[:, None]
        eye = keypoints[:, 14:16].mean(1)
        top_z, low_z = (
            eye[:, 2:3] + 1.3 * unit,
            eye[:, 2:3]
            - unit
            * torch.where(
                style == HAIR_STYLES.index("bob"), 1.3 + 0.7 * cut["length"], 3.6 + 3.2 * cut["length"]
            ),
        )
        hz = top_z + (low_z - top_z) * w
        skull = self.model.regions == REGION["head"]
        sv = vertices[:, skull]
        up = (sv[..., 2] > eye[:, None, 2] - 0.3 * unit).unsqueeze(-1)
        body = torch.where(up, sv, eye[:, None])
        half_x = (body[..., 0].abs().amax(1, True)) * 0.92
        back_y = body[..., 1].amax(1, True)
        ear_y = keypoints[:, 16:18, 1].mean(1)[:, None]
        fall = (w - 0.3).clamp_min(0)
        bulge = torch.sin((w * 1.4).clamp(0, 1) * math.pi) * 0.12
        crown = ((w / 0.22).clamp(0, 1)).sqrt()
        hx = half_x * (0.62 + 0.38 * crown + bulge + 0.08 * fall) * phi.cos()
        hy = (
            ear_y
            - 0.1 * unit
            + (back_y - ear_y + 0.25 * unit) * (0.62 + 0.38 * crown + 0.3 * bulge) * phi.sin()
        )
        strands = 1 + 0.03 * torch.cos(phi * 23 + 5 * cut["phase"])
        hair_points = torch.stack([hx * strands, hy, hz], -1)
        hair_normals = normalize(
            torch.stack(
                [phi.cos() + 0 * hx, phi.sin() * 0.9 + 0.1 + 0 * hx, 0.45 * (1 - crown) + 0 * hx], -1
            ),
            dim=-1,
        )
        curtain = (style == HAIR_STYLES.index("bob")) | (style == HAIR_STYLES.index("long"))
        tone = (1 + 0.30 * (_hash(torch.floor(phi * 14)) - 0.5))[..., None] * o["hair_rgb"]
        span = math.pi * 1.12 * half_x * (top_z - low_z)
        hair = dict(
            points=hair_points,
            normals=hair_normals,
            threads=hair_points.new_tensor([0, 0, 1.0]).expand_as(hair_points),
            albedo=tone.clamp(0.02, 0.98),
            material=torch.full((P, CURTAIN), HAIR, device=dev),
            occlusion=torch.full((P, CURTAIN), 0.9, device=dev),
            opacity=torch.where(curtain, 0.96, 0.0).expand(P, CURTAIN),
            spacing=(span / CURTAIN).sqrt().expand(P, CURTAIN) * 1.2,
        )
        # A bun: a ball at the back of the crown, made of the last points allotted to the curtain.
        bun = style == HAIR_STYLES.index("bun")
        k = torch.arange(CURTAIN, device=dev) + 0.5
        bz, ba = 1 - 2 * k / CURTAIN, k * 2.399963
        ball = torch.stack([(1 - bz * bz).sqrt() * ba.cos(), (1 - bz * bz).sqrt() * ba.sin(), bz], -1)[None]
        center = torch.cat([0 * back_y, back_y + 0.1 * unit, eye[:, 2:3] + 1.0 * unit], -1)[:, None]
        radius = (0.75 + 0.25 * cut["length"]) * unit
        pick = bun[..., None]
        hair["points"] = torch.where(pick, center + ball * radius[..., None], hair["points"])
        hair["normals"] = torch.where(pick, ball.expand_as(hair["normals"]), hair["normals"])
        hair["opacity"] = torch.where(bun, 0.97, hair["opacity"])
        hair["spacing"] = torch.where(bun, (4 * math.pi * radius**2 / CURTAIN).sqrt() * 1.2, hair["spacing"])
        return [skirt, hair]
