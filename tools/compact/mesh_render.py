"""Photographs of dressed people: z-buffer, then shading of every covered sample, on the GPU or the CPU.

The people of a batch may have different meshes; their vertices, faces and parts are concatenated. Samples are
shaded one by one and averaged in linear RGB, so the edges of highlights, prints and hair are smooth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from assets import Assets
from dressing import Part, PersonMesh
from studio import STUDIO, Lighting, exposed, material_row, shade, to_linear, to_srgb
from texturing import GRAINS, Pyramid, grain, recolored
from torch import Tensor
from visibility import visibility
from zbuffer import Cutouts, draw

from specularip.body.anny import AnnyModel
from specularip.body.coordinate_map import normalized_positions, over_target_plane
from specularip.cameras import Cameras
from specularip.raster.mesh import SUBPIXELS, screen_points

BACKGROUND = 0.6
DEPTH_SCALE = 1.25
CHUNK = 1 << 21
"""Samples shaded at once, which bounds the memory."""
KINDS = ("skin", "eye", "hair", "cloth")
NORMAL_STRENGTH = 1.0


@dataclass
class Scene:
    """People as one list of vertices, faces and parts: n vertices, m faces, k parts of P people.

    vertices [n,3]; vertex_table [n,10+L]: position, normal, tangent, occlusion, each of L lights; faces [m,3]
    int64 into the vertices; face_table [m,17]: uv of the corners, directions of u and v in space, outward
    normal, area in uv, metres per unit of uv; face_part [m] int64; part_table [k,20]: see `_part_row`;
    firsts: the first vertex and the first face of each person.
    """

    vertex_table: Tensor
    faces: Tensor
    face_table: Tensor
    face_part: Tensor
    part_table: Tensor
    firsts: list[tuple[int, int]]


@dataclass
class Samples:
    """The covered samples of V views of each person, [N] int64 each: view, row, column and face of the scene;
    points [p,2] int32 and nearness [p]: the vertices in every view, one after another; starts [P*V] int64:
    what to add to a vertex of the scene to find it in a view."""

    view: Tensor
    row: Tensor
    column: Tensor
    face: Tensor
    points: Tensor
    nearness: Tensor
    starts: Tensor


class Renderer:
    """Renders people dressed from `assets` with supersample^2 samples for each pixel."""

    def __init__(self, assets: Assets, device: torch.device | str, supersample: int = 2) -> None:
        self.device, self.supersample = torch.device(device), supersample
        self.textures = Pyramid.build(assets.textures.to(device), weighted_by_alpha=True)
        self.normal_maps = Pyramid.build(assets.normal_maps.to(device))
        self.alpha = self.textures.texels[..., 3].contiguous()
        self.body_faces = AnnyModel.load().faces.to(device=device, dtype=torch.int32)

    @torch.no_grad()
    def images(
        self,
        meshes: list[PersonMesh],
        cameras: list[Cameras],
        targets: list[Tensor],
        size: int,
        lighting: Lighting = STUDIO,
    ) -> Tensor:
        """Images [P*V,5,size,size] of P people, each through V cameras of their own: sRGB over BACKGROUND,
        alpha, depth.

        Depth is 0.5 on the plane through the camera's target (targets: [V,3] each) and where nothing is; it
        is the mean of the covered samples, not mixed with the background's.
        """
        scene = self._scene(meshes, lighting)
        samples = self._draw(meshes, scene, cameras, size)
        views = torch.cat([c.viewmats for c in cameras]).to(self.device)
        focal = torch.cat([c.resized(size, size).Ks[:, 0, 0] for c in cameras]).to(self.device)
        distance = torch.cat([_target_distance(c, t) for c, t in zip(cameras, targets)]).to(self.device)
        eyes = torch.cat([c.positions for c in cameras]).to(self.device)
        pixels = views.new_zeros(len(views) * size * size, 5)
        for part in _chunks(samples):
            color, point = self._shade(scene, part, eyes, focal, lighting)
            view = views[part.view]
            z = (view[:, 2, :3] * point).sum(1) + view[:, 2, 3]
            depth = (0.5 + DEPTH_SCALE * (z / distance[part.view] - 1)).clamp(0, 1)
            row, column = part.row // self.supersample, part.column // self.supersample
            ones = torch.ones_like(z)
            values = torch.cat([exposed(color), torch.stack([ones, depth], 1)], 1)
            pixels.index_add_(0, (part.view * size + row) * size + column, values)
        pixels = pixels.view(len(views), size, size, 5).movedim(-1, 1)
        count = pixels[:, 3:4]
        mean = pixels / count.clamp_min(1)
        alpha = count / self.supersample**2
        rgb = torch.lerp(torch.full_like(mean[:, :3], BACKGROUND), to_srgb(mean[:, :3]), alpha)
        return torch.cat([rgb, alpha, torch.where(count > 0, mean[:, 4:], 0.5)], 1)

    @torch.no_grad()
    def labels(self, meshes: list[PersonMesh], cameras: list[Cameras], size: int) -> tuple[Tensor, Tensor]:
        """The nearest face of the person's mesh and its part [P*V,size,size] int64, -1 for none, one sample
        at each pixel's centre."""
        found, part = [], []
        for mesh, views in zip(meshes, cameras):
            points, nearness = screen_points(mesh.vertices.to(self.device), views.resized(size, size))
            faces = mesh.faces.to(device=self.device, dtype=torch.int32)
            face = draw(points, nearness, faces, self._cutouts(mesh), size)[0].long()
            found.append(face)
            part.append(torch.where(face < 0, -1, mesh.part.to(self.device)[face.clamp_min(0)]))
        return torch.cat(found), torch.cat(part)

    @torch.no_grad()
    def body_maps(
        self,
        meshes: list[PersonMesh],
        cameras: list[Cameras],
        targets: list[Tensor],
        size: int,
        supersample: int = 4,
    ) -> Tensor:
        """Body maps [P*V,4,size,size], as `specularip.body.coordinate_map.body_map` defines them."""
        maps, fine = [], size * supersample
        nothing = _opaque(self.body_faces)
        for mesh, views, target in zip(meshes, cameras, targets):
            body = mesh.body.to(self.device)
            positions = normalized_positions(body, mesh.height)
            points, nearness = screen_points(body, views.resized(fine, fine))
            found, _ = draw(points, nearness, self.body_faces, nothing, fine)
            surface = positions.new_zeros(len(views), 3, fine, fine)
            view, row, column = (found >= 0).nonzero(as_tuple=True)
            corners = self.body_faces[found[view, row, column].long()].long()
            weights = _weights(points[view[:, None], corners], nearness[view[:, None], corners], row, column)
            surface[view, :, row, column] = (weights[..., None] * positions[corners]).sum(1)
            mean = F.avg_pool2d(surface, supersample)
            coverage = F.avg_pool2d((found >= 0).float()[:, None], supersample)[:, 0]
            views = views.resized(size, size).to(self.device)
            maps.append(over_target_plane(mean, coverage, mesh.height, views, target.to(self.device)))
        return torch.cat(maps)

    def _cutouts(self, mesh: PersonMesh) -> Cutouts:
        textures = [part.texture if part.alpha_test else -1 for part in mesh.parts]
        part = mesh.part.to(self.device)
        texture = torch.tensor(textures, dtype=torch.int32, device=self.device)[part]
        return Cutouts(mesh.uv.to(self.device), texture, self.alpha, self.textures.size)

    def _scene(self, meshes: list[PersonMesh], lighting: Lighting) -> Scene:
        vertex_tables, faces, face_tables, face_parts, part_rows, firsts = [], [], [], [], [], []
        vertex_count = face_count = 0
        for mesh in meshes:
            vertices, normals, tangents, own_faces, uv, part = (
                tensor.to(self.device)
                for tensor in (mesh.vertices, mesh.normals, mesh.tangents, mesh.faces, mesh.uv, mesh.part)
            )
            lit, sky = visibility(vertices, normals, own_faces.int(), self._cutouts(mesh), lighting)
            vertex_tables.append(torch.cat([vertices, normals, tangents, sky[:, None], lit], 1))
            face_tables.append(_face_table(vertices, normals, own_faces, uv, part, len(mesh.parts)))
            faces.append(own_faces + vertex_count)
            face_parts.append(part + len(part_rows))
            part_rows += [_part_row(part) for part in mesh.parts]
            firsts.append((vertex_count, face_count))
            vertex_count, face_count = vertex_count + len(vertices), face_count + len(own_faces)
        return Scene(
            torch.cat(vertex_tables),
            torch.cat(faces),
            torch.cat(face_tables),
            torch.cat(face_parts),
            torch.tensor(part_rows, device=self.device),
            firsts,
        )

    def _draw(self, meshes: list[PersonMesh], scene: Scene, cameras: list[Cameras], size: int) -> Samples:
        """The faces at all samples."""
        fine = size * self.supersample
        found, points, nearness, starts = [], [], [], []
        point_count = 0
        for mesh, views, (first_vertex, first_face) in zip(meshes, cameras, scene.firsts):
            p, n = screen_points(mesh.vertices.to(self.device), views.resized(fine, fine))
            faces = mesh.faces.to(device=self.device, dtype=torch.int32)
            ids = draw(p, n, faces, self._cutouts(mesh), fine, self.supersample)[0]
            found.append(torch.where(ids < 0, -1, ids + first_face))
            points.append(p.flatten(0, 1))
            nearness.append(n.flatten())
            starts += [point_count + view * p.shape[1] - first_vertex for view in range(len(views))]
            point_count += len(points[-1])
        faces = torch.cat(found)
        view, row, column = (faces >= 0).nonzero(as_tuple=True)
        return Samples(
            view,
            row,
            column,
            faces[view, row, column].long(),
            torch.cat(points),
            torch.cat(nearness),
            torch.tensor(starts, device=self.device),
        )

    def _shade(
        self, scene: Scene, samples: Samples, eyes: Tensor, focal: Tensor, lighting: Lighting
    ) -> tuple[Tensor, Tensor]:
        """Linear RGB [N,3] of the samples, and their points in space [N,3]."""
        corners = scene.faces[samples.face]
        places = samples.starts[samples.view][:, None] + corners
        points, nearness = samples.points[places], samples.nearness[places]
        weights = _weights(points, nearness, samples.row, samples.column)
        values = sum(weights[:, k : k + 1] * scene.vertex_table[corners[:, k]] for k in range(3))
        position, normal, tangent, sky, lit = values.split([3, 3, 3, 1, len(lighting.lights)], 1)
        corner_uv, along_u, along_v, outward, uv_area, uv_metres = scene.face_table[samples.face].split(
            [6, 3, 3, 3, 1, 1], 1
        )
        uv = (weights[..., None] * corner_uv.view(-1, 3, 2)).sum(1)
        part = scene.part_table[scene.face_part[samples.face]]
        target, median, keep, recolor, texture, normal_map, weave, kind, material = part.split(
            [3, 3, 1, 1, 1, 1, 1, 1, 7], 1
        )
        away = eyes[samples.view] - position
        distance = away.norm(dim=1, keepdim=True)
        view = away / distance
        # One sample's width on a surface that faces the camera, and its area in the texture.
        footprint = distance[:, 0] / (focal[samples.view] * self.supersample)
        density = (uv_area[:, 0] / _screen_area(points).clamp_min(1e-3)).clamp(0, 1)

        texel = self._texels(self.textures, texture, uv, density)
        base = to_linear(texel[:, :3])
        albedo = torch.where(recolor > 0, recolored(base, median, target, keep), base)
        hair, eye, cloth = (kind == KINDS.index(name) for name in ("hair", "eye", "cloth"))
        tone, slope = grain(weave[:, 0], position, uv * uv_metres, footprint)
        albedo = torch.where(cloth, albedo * tone[:, None], albedo).clamp(0, 0.95)

        # Normals face the camera; which side that is, the flat triangle decides.
        side = torch.where((outward * view).sum(1, keepdim=True) < 0, -1.0, 1.0)
        normal = F.normalize(normal, dim=1)
        bump = self._texels(self.normal_maps, normal_map, uv, density)[:, :2] * 2 - 1
        bump = torch.where(normal_map >= 0, bump * NORMAL_STRENGTH, 0.0) - torch.where(cloth, slope, 0.0)
        # Strands are tilted against each other, which breaks up the highlight.
        strand = (base @ base.new_tensor([0.3, 0.6, 0.1]))[:, None] / median.mean(1, keepdim=True) - 1
        bump = bump + torch.where(hair, 0.25 * strand.clamp(-1, 1), 0.0) * bump.new_tensor([0.0, 1.0])
        normal = F.normalize(normal + bump[:, :1] * along_u + bump[:, 1:] * along_v, dim=1) * side
        facing = (normal * view).sum(1, keepdim=True)
        normal = F.normalize(normal + view * (0.03 - facing).clamp_min(0), dim=1)

        lit = torch.where(eye, lit.clamp_min(0.5), lit)
        color = shade(normal, tangent, view, albedo, material, sky[:, 0].clamp(0, 1), lit, lighting)
        return color, position

    def _texels(self, pyramid: Pyramid, texture: Tensor, uv: Tensor, density: Tensor) -> Tensor:
        """Texels [N,C], ones where there is no texture (-1)."""
        if not len(pyramid.texels):
            return uv.new_ones(len(uv), pyramid.texels.shape[-1])
        index = texture[:, 0].round()
        return torch.where(texture < 0, 1.0, pyramid.sample(index.clamp_min(0), uv, density))


def _chunks(samples: Samples) -> Iterator[Samples]:
    for start in range(0, len(samples.view), CHUNK):
        part = slice(start, start + CHUNK)
        yield Samples(
            samples.view[part],
            samples.row[part],
            samples.column[part],
            samples.face[part],
            samples.points,
            samples.nearness,
            samples.starts,
        )


def _opaque(faces: Tensor) -> Cutouts:
    return Cutouts(
        torch.zeros(len(faces), 3, 2, device=faces.device),
        torch.full((len(faces),), -1, dtype=torch.int32, device=faces.device),
        torch.zeros(1, 1, dtype=torch.uint8, device=faces.device),
        1,
    )


def _target_distance(cameras: Cameras, targets: Tensor) -> Tensor:
    """The z of each camera's target, [V]."""
    targets = targets.to(cameras.viewmats)
    return (cameras.viewmats[:, 2, :3] * targets).sum(1) + cameras.viewmats[:, 2, 3]


def _weights(points: Tensor, nearness: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Perspective-correct weights [N,3] of the corners (points [N,3,2] int32, nearness [N,3]) at samples."""
    center = torch.stack([column, row], 1) * SUBPIXELS + SUBPIXELS // 2
    x, y = (points - center[:, None]).float().unbind(-1)
    following, last = (1, 2, 0), (2, 0, 1)
    weights = (x[:, following] * y[:, last] - y[:, following] * x[:, last]) * nearness
    return weights / weights.sum(1, keepdim=True)


def _screen_area(points: Tensor) -> Tensor:
    """Twice the area in samples [N] of triangles [N,3,2] int32."""
    a, b = ((points[:, k] - points[:, 0]).float() / SUBPIXELS for k in (1, 2))
    return (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).abs()


def _face_table(
    vertices: Tensor, normals: Tensor, faces: Tensor, uv: Tensor, part: Tensor, parts: int
) -> Tensor:
    """Rows of `Scene.face_table`."""
    corners = vertices[faces]
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    t1, t2 = uv[:, 1] - uv[:, 0], uv[:, 2] - uv[:, 0]
    determinant = (t1[:, 0] * t2[:, 1] - t1[:, 1] * t2[:, 0])[:, None]
    sign = torch.where(determinant < 0, -1.0, 1.0)
    along_u = F.normalize((e1 * t2[:, 1:] - e2 * t1[:, 1:]) * sign, dim=1)
    along_v = F.normalize((e2 * t1[:, :1] - e1 * t2[:, :1]) * sign, dim=1)
    flat = torch.linalg.cross(e1, e2)
    agrees = (flat * normals[faces].sum(1)).sum(1, keepdim=True) < 0
    outward = F.normalize(torch.where(agrees, -flat, flat), dim=1)
    area = torch.zeros(2, parts, device=vertices.device)
    area.index_add_(1, part, torch.stack([flat.norm(dim=1), determinant[:, 0].abs()]))
    metres = (area[0] / area[1].clamp_min(1e-9)).sqrt()[part, None]
    return torch.cat([uv.flatten(1), along_u, along_v, outward, determinant.abs(), metres], 1)


def _part_row(part: Part) -> list[float]:
    """Target and median (linear), keep, whether to recolour, texture, normal map, grain, kind, material.

    A part without texture is white, so its target is its colour.
    """
    target = to_linear(torch.tensor(part.rgb or (1.0, 1.0, 1.0))).tolist()
    return [
        *target,
        *part.median,
        part.keep,
        float(part.rgb is not None),
        part.texture,
        part.normal_map,
        GRAINS.index(part.grain),
        KINDS.index(part.kind),
        *material_row(part.material),
    ]
