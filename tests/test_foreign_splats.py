"""Splat files and point clouds as other programs write them: every layout reads as the plain one does."""

from __future__ import annotations

import gzip
import struct
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_files import columns_of, element, table, write

from specularip.avatar import Avatar, load
from specularip.errors import UserError
from specularip.export.ply import read_points
from specularip.export.spz import MAGIC, write_spz

COUNT = 7
FACE = "element face 3\nproperty list uchar int vertex_indices\nproperty uchar flags\n"
CAMERA = "element camera 2\nproperty double f\nproperty uchar k\n"


def faces(order: str, *lengths: int) -> bytes:
    """Faces of so many corners, each with its flags."""
    if not order:
        return b"".join(b" ".join([b"%d" % n, *[b"1"] * n, b"200"]) + b"\n" for n in lengths)
    return b"".join(struct.pack(f"{order}B{n}iB", n, *[1] * n, 200) for n in lengths)


def cameras(order: str) -> bytes:
    return struct.pack(f"{order}dBdB", 1.5, 3, 2.5, 4) if order else b"1.5 3\n2.5 4\n"


def quiet(path: Path) -> Avatar:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(path)


def assert_same(found: Avatar, expected: Avatar) -> None:
    for name, tensor in expected.gaussians.tensors().items():
        assert torch.allclose(getattr(found.gaussians, name), tensor, atol=1e-5), name
    assert (found.colors is None) == (expected.colors is None)
    if expected.colors is not None:
        assert torch.allclose(found.colors.coefficients, expected.colors.coefficients, atol=1e-6)


@pytest.mark.parametrize("order", ["<", ">", ""])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_layout_is_read(tmp_path: Path, order: str, degree: int, seed: int) -> None:
    columns = columns_of(COUNT, seed, degree)
    expected = quiet(write(tmp_path / "a.ply", columns))
    assert len(expected.gaussians) == COUNT and (expected.colors is None) == (degree == 0)
    names = list(columns)
    np.random.default_rng(seed).shuffle(names)
    shuffled = {name: columns[name] for name in names}
    more = {
        "nx": np.ones(COUNT),
        "label": np.arange(COUNT, dtype=np.uint8),
        **columns,
        "time": np.ones(COUNT),
    }
    cloud_compare = {name if name in "xyz" else f"scalar_{name}": column for name, column in columns.items()}
    twice = {name if name in "xyz" else f"scalar_scalar_{name}": column for name, column in columns.items()}
    before = CAMERA + FACE, cameras(order) + faces(order, 3, 3, 3)
    uneven = FACE + CAMERA, faces(order, 0, 4, 3) + cameras(order)
    for layout in (
        {"columns": shuffled},
        {"columns": more},
        {"columns": cloud_compare},
        {"columns": twice},
        {"columns": columns, "kind": "f8"},
        {"columns": columns, "newline": "\r\n"},
        {"columns": columns, "newline": "\r"},
        {"columns": columns, "before": before},
        {"columns": columns, "before": uneven},
        {"columns": columns, "after": uneven},
        {"columns": columns, "after": (FACE, faces(order, 3)[:2])},  # cut short, but of no interest
    ):
        assert_same(quiet(write(tmp_path / "B.PLY", order=order, **layout)), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["<", ">", ""])
def test_lists_of_the_vertices_themselves_are_passed_over(tmp_path: Path, order: str, seed: int) -> None:
    columns = columns_of(4, seed)
    expected = quiet(write(tmp_path / "a.ply", columns))
    names = list(columns)
    first, second = ({name: columns[name] for name in part} for part in (names[:5], names[5:]))
    for lengths in ((2, 2, 2, 2), (0, 3, 1, 2)):
        rows = []
        for row, n in enumerate(lengths):
            a, b = ([column[row] for column in part.values()] for part in (first, second))
            if order:
                form = f"{order}{len(a)}fH{n}h{len(b)}f"
                rows.append(struct.pack(form, *a, n, *[-7] * n, *b))
            else:
                rows.append(" ".join(map(str, [*a, n, *[-7] * n, *b])).encode() + b"\n")
        whole = write(tmp_path / "b.ply", columns, order).read_bytes()
        header = whole[: whole.index(b"\nend_header\n") + 12]
        listed = header.replace(b"property float " + names[5].encode(), b"property list ushort short l\n\\0")
        listed = listed.replace(b"\\0", b"property float " + names[5].encode())
        (tmp_path / "b.ply").write_bytes(listed + b"".join(rows))
        assert_same(quiet(tmp_path / "b.ply"), expected)


def test_harmonics_of_degree_4_are_cut_and_that_is_said(tmp_path: Path, seed: int) -> None:
    columns = columns_of(COUNT, seed, 4)
    kept = {name: c for name, c in columns.items() if not name.startswith("f_rest")}
    for channel in range(3):
        kept |= {f"f_rest_{15 * channel + k}": columns[f"f_rest_{24 * channel + k}"] for k in range(15)}
    expected = quiet(write(tmp_path / "a.ply", kept))
    with pytest.warns(UserWarning, match="above degree 3 are left out"):
        assert_same(load(write(tmp_path / "b.ply", columns)), expected)
    write_spz(tmp_path / "c.spz", expected.gaussians, expected.colors)
    plain = gzip.decompress((tmp_path / "c.spz").read_bytes())
    assert struct.unpack_from("<I", plain)[0] == MAGIC
    rest = np.frombuffer(plain[-45 * COUNT :], np.uint8).reshape(COUNT, 15, 3)
    longer = np.concatenate([rest, np.full((COUNT, 9, 3), 77, np.uint8)], 1)
    (tmp_path / "d.spz").write_bytes(
        gzip.compress(plain[:12] + b"\4" + plain[13 : -45 * COUNT] + longer.tobytes())
    )
    with pytest.warns(UserWarning, match="above degree 3 are left out"):
        assert_same(load(tmp_path / "d.spz"), load(tmp_path / "c.spz"))


def test_two_scales_are_flat(tmp_path: Path, seed: int) -> None:
    """2DGS: discs across the third axis."""
    columns = columns_of(COUNT, seed)
    flat = quiet(write(tmp_path / "a.ply", {name: c for name, c in columns.items() if name != "scale_2"}))
    scales = flat.gaussians.scales
    assert np.allclose(scales[:, 1].log(), columns["scale_1"], atol=1e-5)
    assert bool((scales[:, 2] < 0.002 * scales[:, :2].amax(1)).all()) and bool((scales > 0).all())


@pytest.mark.parametrize(("kind", "white"), [("u1", 255), ("u2", 65535), ("f8", 1.0)])
@pytest.mark.parametrize(
    "names", [("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue")]
)
def test_plain_colours(tmp_path: Path, kind: str, white: float, names: tuple[str, ...], seed: int) -> None:
    columns = {name: c for name, c in columns_of(COUNT, seed).items() if not name.startswith("f_dc")}
    rgb = np.random.default_rng(seed).uniform(0.1, 0.9, (COUNT, 3))
    stored = {name: (white * c).astype(kind) for name, c in zip(names, rgb.T)}
    avatar = quiet(write(tmp_path / "a.ply", columns | stored))
    assert np.allclose(avatar.gaussians.diffuse, rgb, atol=0.004)
    points, colors = read_points(write(tmp_path / "a.ply", columns | stored, ""))
    assert colors is not None and np.allclose(colors, rgb, atol=0.004) and len(points) == COUNT


@pytest.mark.parametrize("order", ["<", ""])
def test_infinite_opacities_and_flat_scales_mean_something(tmp_path: Path, order: str, seed: int) -> None:
    columns = columns_of(COUNT, seed)
    columns["opacity"][:3] = np.inf, -np.inf, 500.0
    columns["scale_0"][3], columns["scale_1"][3:5], columns["scale_2"][5] = -np.inf, -np.inf, -1e4
    cloud = quiet(write(tmp_path / "a.ply", columns, order)).gaussians
    assert len(cloud) == COUNT and all(bool(tensor.isfinite().all()) for tensor in cloud.tensors().values())
    assert cloud.opacities[[0, 1, 2]].tolist() == pytest.approx([1, 0, 1], abs=1e-6)
    assert float(cloud.scales.min()) > 0 and float(cloud.scales[3, :2].max()) < 0.002 * float(
        cloud.scales[3, 2]
    )


@pytest.mark.parametrize("order", ["<", ">", ""])
def test_bad_rows_are_counted(tmp_path: Path, order: str, seed: int) -> None:
    columns = columns_of(9, seed, 1)
    columns["x"][0], columns["scale_1"][1], columns["scale_0"][2] = np.nan, np.inf, 200.0
    columns["f_rest_3"][3], columns["opacity"][4], columns["z"][5] = -np.inf, np.nan, 1e30
    for k in range(4):
        columns[f"rot_{k}"][6] = 0
    with pytest.warns(UserWarning, match="7 of 9 Gaussians left out"):
        assert len(load(write(tmp_path / "a.ply", columns, order)).gaussians) == 2
    columns["x"][:] = np.nan
    with pytest.raises(UserError, match="every Gaussian"):
        load(write(tmp_path / "a.ply", columns, order))


def test_numbers_of_old_windows_programs(tmp_path: Path) -> None:
    columns = columns_of(4, 0)
    text = write(tmp_path / "a.ply", columns, "").read_bytes()
    rows = text.split(b"end_header\n")[1].split(b"\n")
    for number in (b"1.#QNAN", b"-1.#IND00", b"-nan(ind)", b"1.#INF"):
        bad = b" ".join([number, *rows[0].split()[1:]])
        (tmp_path / "a.ply").write_bytes(text.replace(rows[0], bad))
        with pytest.warns(UserWarning, match="1 of 4 Gaussians left out"):
            load(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-30], "row 3 of 'vertex' has|cut short"),
        (lambda text: text[: text.rindex(b"end_header") + 11], "it has 0 of 4 rows of 'vertex'"),
        (lambda text: text + b"1 2 3\n", None),
        (lambda text: text.replace(b"\n", b"\n\n"), None),
        (lambda text: text.replace(b" ", b"\t ").replace(b"\t", b"", 40), None),
        (lambda text: text[:-10] + b"zero\n", "'[^']*zero' in row 3 of 'vertex' is not a number|row 3"),
        (
            lambda text: text.replace(b"property float x", b"property list int float l\nproperty float x"),
            "row 0",
        ),
        (lambda text: text.replace(b"float scale_0", b"list float float s"), "cannot read the property"),
    ],
)
def test_text_files(tmp_path: Path, change: Callable[[bytes], bytes], message: str | None) -> None:
    path = write(tmp_path / "a.ply", columns_of(4, 0), "")
    path.write_bytes(change(path.read_bytes()))
    if message is None:
        assert len(quiet(path).gaussians) == 4
    else:
        with pytest.raises(UserError, match=message) as caught:
            load(path)
        assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


def compressed(path: Path, order: str, degree: int, seed: int) -> Path:
    """SuperSplat's PLY: 300 Gaussians in two chunks; degree -1: without the element `sh`."""
    rng = np.random.default_rng(seed)
    sides = {"min": -1.0, "max": 1.0}
    names = [*"xyz", "scale_x", "scale_y", "scale_z", *"rgb"]
    chunks = {f"{side}_{name}": np.full(2, value) for name in names for side, value in sides.items()}
    packed = {f"packed_{name}": rng.integers(0, 2**32, 300, dtype=np.uint32)
              for name in ("position", "rotation", "scale", "color")}  # fmt: skip
    columns = {f"f_rest_{k}": rng.integers(0, 256, 300, dtype=np.uint8)
               for k in range(3 * (degree + 1) ** 2 - 3)}  # fmt: skip
    chunk = table(chunks, order)
    harmonics = table(columns, order) if degree > 0 else np.empty(0)
    after = (element("sh", harmonics), harmonics.tobytes()) if degree > 0 else ("", b"")
    return write(path, packed, order, before=(element("chunk", chunk), chunk.tobytes()), after=after)


@pytest.mark.parametrize("degree", [-1, 1, 3, 4])
def test_compressed_files_in_either_byte_order(tmp_path: Path, degree: int, seed: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        little = load(compressed(tmp_path / "a.ply", "<", degree, seed))
        big = load(compressed(tmp_path / "b.ply", ">", degree, seed))
    assert_same(big, little)
    assert len(little.gaussians) == 300 and (little.colors is None) == (degree < 1)
    assert len(caught) == (2 if degree == 4 else 0)


@pytest.mark.parametrize("order", ["<", ">", ""])
def test_point_clouds(tmp_path: Path, order: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xyz = dict(zip("xyz", 1e6 + rng.normal(size=(3, 20))))
    for prefix, kind in (("", "f8"), ("scalar_", "f8")):
        stored = {prefix + name: column for name, column in xyz.items()}
        points, colors = read_points(
            write(tmp_path / "a.ply", stored, order, kind, before=(CAMERA, cameras(order)))
        )
        assert colors is None and points.dtype == torch.float64
        assert np.allclose(points, np.stack(list(xyz.values()), 1), atol=1e-9, rtol=0)
    xyz["y"][4], xyz["z"][5] = np.nan, np.inf
    with pytest.warns(UserWarning, match="2 of 20 points left out"):
        assert len(read_points(write(tmp_path / "a.ply", xyz, order))[0]) == 18
    xyz["x"][:] = np.nan
    with pytest.raises(UserError, match="every point has NaN"):
        read_points(write(tmp_path / "a.ply", xyz, order))
    with pytest.raises(UserError, match="not a point cloud: it has no z"):
        read_points(write(tmp_path / "a.ply", {name: xyz[name] for name in "xy"}, order))


def test_large_texts_are_read_in_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", columns_of(20_000, 0, 3), "")
    start = time.process_time()
    assert len(quiet(path).gaussians) == 20_000
    assert time.process_time() - start < 1.5


def shifted(
    columns: Mapping[str, np.ndarray], size: float, at: tuple[float, float, float]
) -> dict[str, np.ndarray]:
    """The same Gaussians, `size` times as large and elsewhere."""
    moved = {name: size * columns[name] + place for name, place in zip("xyz", at)}
    return {**columns, **moved, **{f"scale_{k}": columns[f"scale_{k}"] + np.log(size) for k in range(3)}}


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1e3, 1e6])
def test_subjects_of_any_size_and_place_are_shown_alike_and_exported_where_they_were(
    tmp_path: Path, size: float, seed: int
) -> None:
    columns = columns_of(200, seed, 1)
    at = (3e4 * size, -2e5 * size, 1e4 * size)
    avatar = quiet(write(tmp_path / "a.ply", columns))
    with pytest.warns(UserWarning, match=r"is shown about the origin and 1\.8 m large"):
        moved = load(write(tmp_path / "b.ply", shifted(columns, size, at), kind="f8"))
    assert moved.placement is not None
    places = np.stack([columns[name] + place / size for name, place in zip("xyz", at)], 1)
    assert np.allclose(moved.placement.points(moved.gaussians.means) / size, places, atol=1e-4, rtol=0)
    extents = moved.gaussians.means.amax(0) - moved.gaussians.means.amin(0)
    assert 1 < float(extents.max()) < 8 and float(moved.gaussians.means.abs().max()) < 8
    for suffix in (".ply", ".glb", ".sog"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that float32 rounds them
            again = load(moved.export(tmp_path / f"c{suffix}"))
        assert again.placement is not None
        assert again.placement.scale == pytest.approx(moved.placement.scale, rel=0.02)
        assert np.allclose(again.placement.translation / size, np.array(at) / size, rtol=1e-3)
    assert avatar.placement is None


def test_spz_says_what_it_is_too_coarse_for(tmp_path: Path) -> None:
    for name, changed, message in (
        ("small", shifted(columns_of(50, 0), 1e-6, (0, 0, 0)), "too coarse"),
        ("fine", shifted(columns_of(50, 0), 1e-3, (0, 0, 0)), "sizes from 5e-05 to 379"),
        ("large", shifted(columns_of(50, 0), 1e6, (0, 0, 0)), "sizes from 5e-05 to 379"),
        ("far", shifted(columns_of(50, 0), 1, (1e6, 0, 0)), "steps of 0.25 here, too coarse"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            avatar = load(write(tmp_path / "a.ply", changed))
            with pytest.raises(UserError, match=message) as caught:
                avatar.export(tmp_path / f"{name}.spz")
        assert "\n" not in str(caught.value) and not (tmp_path / f"{name}.spz").exists()
