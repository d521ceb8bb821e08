"""Detection, alignment and embedding of faces, with small ONNX models in the layout of buffalo_l.

The detector built here responds to colour: red is a face, green its size, blue its stride. So every box and
point can be computed by hand, and swapped channels, anchors, strides or axes are detected.
"""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from specularip.diffusion.conditioning import face_weight
from specularip.errors import UserError
from specularip.faces import insightface
from specularip.faces.insightface import (
    DETECTOR,
    FIVE_POINTS,
    RECOGNISER,
    FaceDetection,
    InsightFace,
    align,
    decode,
    find_folder,
    non_max_suppression,
)

onnx = pytest.importorskip("onnx", reason="the tests build ONNX models: pip install 'specularip[dev]'")
pytest.importorskip("onnxruntime", reason="faces need onnxruntime: pip install 'specularip[faces]'")

EXAMPLE = Path(__file__).parent.parent / "examples" / "eileen_collins.jpg"
STRIDES = (8, 16, 32)
BLUE = {8: 0, 16: 128, 32: 255}
# The test detector's box for a cell without green, in strides: left, up, right, down.
BOX = np.array([2.0, 3.0, 3.5, 4.0])
POINTS = np.array([(-1.0, -1.5), (1.5, -1.0), (0.25, 0.5), (-0.75, 1.5), (1.0, 1.25)])


def _save(
    path: Path, nodes: list, weights: dict[str, np.ndarray], inputs: list, outputs: list[tuple]
) -> None:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        path.stem,
        [info("input.1", onnx.TensorProto.FLOAT, inputs)],
        [info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(v), k) for k, v in weights.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def make_detector(path: Path, outputs: int = 9) -> None:
    """A model with det_10g.onnx's input and outputs (names, order, shapes): 1x1 convolutions on cell means.

    Anchor 0 of a cell is a face if the mean is red, with the blue of BLUE for the stride; its box is BOX plus
    2 for full green, its points are POINTS. Anchor 1 has a lower score and a box a third larger.
    """
    node = onnx.helper.make_node
    names = {"score": ("448", "471", "494"), "box": ("451", "474", "497"), "point": ("454", "477", "500")}
    nodes, weights, shapes = [], {}, {}
    for level, stride in enumerate(STRIDES):
        blue = (BLUE[stride] - 127.5) / 128
        red, green, *off = np.eye(
            4
        )  # after the first layer: red from 0, green from 0, too much or little blue
        layers = {
            "first": (np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]]), np.array([1, 1, -blue, blue])),
            "score": (np.tile(20 * red - 40 * sum(off), (2, 1)), np.array([-34, -35])),
            "box": (np.outer(np.repeat([1, 4 / 3], 4), green), np.concatenate([BOX, BOX * 4 / 3])),
            "point": (np.zeros((20, 4)), np.tile(POINTS.ravel(), 2)),
        }
        for key, (weight, bias) in layers.items():
            weights[f"{key}{stride}.weight"] = weight.astype(np.float32)[:, :, None, None]
            weights[f"{key}{stride}.bias"] = bias.astype(np.float32)

        def conv(key: str, of: str, stride: int = stride) -> object:
            return node("Conv", [of, f"{key}{stride}.weight", f"{key}{stride}.bias"], [f"{key}{stride}.conv"])

        mean, cell = f"mean{stride}", f"cell{stride}"
        nodes.append(
            node("AveragePool", ["input.1"], [mean], kernel_shape=[stride] * 2, strides=[stride] * 2)
        )
        nodes += [conv("first", mean), node("Relu", [f"first{stride}.conv"], [cell])]
        for key, columns in (("score", 1), ("box", 4), ("point", 10)):
            at, out = f"{key}{stride}", names[key][level]
            flat = f"{at}.flat" if key == "score" else out
            weights[f"{at}.shape"] = np.array([-1, columns])
            nodes += [conv(key, cell), node("Transpose", [f"{at}.conv"], [f"{at}.rows"], perm=[0, 2, 3, 1])]
            nodes.append(node("Reshape", [f"{at}.rows", f"{at}.shape"], [flat]))
            nodes += [node("Sigmoid", [flat], [out])] if key == "score" else []
            shapes[out] = [None, columns]
    wanted = [name for three in names.values() for name in three][:outputs]
    _save(path, nodes, weights, [1, 3, "?", "?"], [(name, shapes[name]) for name in wanted])


def make_recogniser(path: Path, width: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """A model in w600k_r50.onnx's layout: means of 14-pixel squares, then a random linear layer, which is
    returned."""
    node = onnx.helper.make_node
    rng = np.random.default_rng(5)
    weight = rng.normal(size=(width, 192)).astype(np.float32)
    bias = rng.normal(size=width).astype(np.float32)
    nodes = [
        node("AveragePool", ["input.1"], ["mean"], kernel_shape=[14, 14], strides=[14, 14]),
        node("Flatten", ["mean"], ["flat"]),
        node("Gemm", ["flat", "w", "b"], ["683"], transB=1),
    ]
    _save(path, nodes, {"w": weight, "b": bias}, ["None", 3, 112, 112], [("683", [1, width])])
    return weight, bias


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("insightface") / "models" / "buffalo_l"
    place.mkdir(parents=True)
    make_detector(place / DETECTOR)
    make_recogniser(place / RECOGNISER)
    return place


@pytest.fixture(scope="module")
def faces(folder) -> InsightFace:
    return InsightFace.load(folder)


def _photo(height: int, width: int, *marks: tuple[int, int, int, int], zoom: int = 1) -> np.ndarray:
    """A black image with a face for the test detector at each (x, y, stride, green), scaled up by `zoom`."""
    image = np.zeros((height * zoom, width * zoom, 3), np.uint8)
    for x, y, stride, green in marks:
        rows, columns = (slice(at * zoom, (at + stride) * zoom) for at in (y, x))
        image[rows, columns] = (255, green, BLUE[stride])
    return image


def _answer(x: int, y: int, stride: int, green: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected box [4] and points [5,2] of the test detector for such a mark."""
    reach = (BOX + 1 + (green - 127.5) / 128) * stride
    return np.array([x, y, x, y]) + reach * (-1, -1, 1, 1), np.array([x, y]) + POINTS * stride


def _error(call, *parts: str) -> str:
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    return message


@pytest.mark.parametrize("zoom", [1, 2])
@pytest.mark.parametrize("mark", [(200, 120, 8, 0), (320, 48, 16, 255), (96, 352, 32, 100)])
def test_every_stride_and_both_anchors(faces, mark, zoom):
    found = faces.find(_photo(480, 640, mark, zoom=zoom))
    assert len(found) == 1  # the second anchor's box overlaps the first one's
    box, points = _answer(*mark)
    np.testing.assert_allclose(found[0].box, box * zoom, atol=0.01)
    np.testing.assert_allclose(found[0].points, points * zoom, atol=0.01)
    assert found[0].score == pytest.approx(1 / (1 + np.exp(34 - 20 * (1 + 127.5 / 128))), abs=1e-3)


def test_tall_photos_scale_by_the_height(faces):
    # 500 of 1000 columns become 320 of 640: 1.5625 photo pixels for one of the detector's.
    small = np.zeros((640, 320, 3), np.uint8)
    small[320:352, 96:128] = (255, 0, 255)
    index = [np.minimum((np.arange(n) * 0.64).astype(int), n - 1) for n in (1000, 500)]
    found = faces.find(small[index[0]][:, index[1]])
    box, points = _answer(96, 320, 32, 0)
    np.testing.assert_allclose(found[0].box, box * 1.5625, atol=0.2)
    np.testing.assert_allclose(found[0].points, points * 1.5625, atol=0.01)


def test_largest_face_first(faces):
    found = faces.find(_photo(480, 640, (40, 400, 8, 0), (480, 96, 32, 0), (240, 208, 16, 0)))
    width = BOX[0] + BOX[2] + 2 * (1 - 127.5 / 128)
    assert [face.width for face in found] == pytest.approx(
        [width * stride for stride in (32, 16, 8)], abs=0.01
    )


def test_a_face_that_fills_the_photo_is_found_at_a_smaller_size(faces, monkeypatch):
    sizes = []
    detect = faces._detect

    def overlooks_large_faces(image, size):
        sizes.append(size)
        return detect(image, size) if size < 400 else []

    monkeypatch.setattr(faces, "_detect", overlooks_large_faces)
    found = faces.find(_photo(384, 384, (96, 160, 32, 0)))
    assert sizes == [640, 512, 384] and len(found) == 1
    np.testing.assert_allclose(found[0].box, _answer(96, 160, 32, 0)[0], atol=0.01)


def test_no_face_is_no_error(faces):
    assert faces.find(np.full((300, 200, 3), 200, np.uint8)) == []
    assert faces.find(np.zeros((1, 700, 3), np.uint8)) == []


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)]
)
def test_arrays_that_are_no_images_raise(faces, image):
    with pytest.raises(ValueError, match="uint8"):
        faces.find(image)


def test_non_max_suppression_keeps_the_highest_scores():
    boxes = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (0, 5, 10, 15), (30, 30, 31, 31.0)])
    assert non_max_suppression(boxes, np.array([0.6, 0.9, 0.7, 0.5])) == [1, 2, 3]  # 9/11 shared, then 1/3
    assert non_max_suppression(boxes[:0], np.zeros(0)) == []


def test_downscaling_is_bilinear_without_antialiasing(seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (12, 8, 3), dtype=np.uint8)
    assert (insightface._resize(image, 12, 8) == image).all()
    half = image.reshape(6, 2, 4, 2, 3).astype(float).mean((1, 3))
    np.testing.assert_allclose(insightface._resize(image, 6, 4), half, atol=0.51)
    quarter = (
        image.reshape(3, 4, 2, 4, 3)[:, 1:3, :, 1:3].astype(float).mean((1, 3))
    )  # the inner four of sixteen
    np.testing.assert_allclose(insightface._resize(image, 3, 2), quarter, atol=0.51)
    assert insightface._resize(image, 24, 16)[0, 0] == pytest.approx(image[0, 0])


def _face(points: np.ndarray) -> FaceDetection:
    low, high = points.min(0), points.max(0)
    return FaceDetection(np.concatenate([low, high]).astype(np.float32), points.astype(np.float32), 0.9)


def moved(x: float, y: float) -> np.ndarray:
    return FIVE_POINTS + np.array([x, y])


def test_faces_that_match_the_template_are_only_cropped():
    image = np.random.default_rng(1).integers(0, 256, (200, 180, 3), dtype=np.uint8)
    assert (align(image, _face(moved(30, 40))) == image[40:152, 30:142]).all()
    # Rotated by 90 degrees: the crop's x axis points down in the photo, its y axis to the left.
    turned = np.stack([150 - FIVE_POINTS[:, 1], 20 + FIVE_POINTS[:, 0]], 1)
    assert (align(image, _face(turned)) == np.rot90(image[20:132, 39:151])).all()
    # At twice the size, every other pixel is one of the photo's.
    assert (align(image, _face(moved(30, 40)), 224)[::2, ::2] == image[40:152, 30:142]).all()


def test_beyond_the_border_is_black():
    image = np.full((100, 100, 3), 255, np.uint8)
    crop = align(image, _face(moved(-20.25, 30)))  # its column 20 is a quarter of a pixel outside
    assert (crop[:, :20] == 0).all() and (crop[70:] == 0).all()
    assert (abs(crop[:70, 20] - 255 * 0.75) < 1).all() and (crop[:70, 21:] == 255).all()


@pytest.mark.parametrize("size", [112, 224])
def test_alignment_is_the_least_squares_similarity(size, seed):
    rng = np.random.default_rng(seed)
    turn, zoom = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 4)
    points = (FIVE_POINTS - 56 + rng.normal(size=(5, 2)) * 3) @ (
        zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    )
    points = np.float32(points + np.array([400, 300]))
    # In complex numbers: template = a·point + b.
    point, wanted = (p.astype(float) @ (1, 1j) for p in (points, FIVE_POINTS * size / 112))
    a = np.vdot(point - point.mean(), wanted - wanted.mean()) / np.vdot(
        point - point.mean(), point - point.mean()
    )
    b = wanted.mean() - a * point.mean()
    # An image whose colours are its coordinates: x/4 in red, y/4 in green.
    y, x = np.mgrid[:720, :900]
    image = np.stack([x / 4, y / 4, 0 * x], -1).round().astype(np.uint8)
    crop = align(image, _face(points), size).astype(float)
    v, u = np.mgrid[:size, :size]
    at = (u + 1j * v - b) / a
    inside = (at.real > 0) & (at.real < 899) & (at.imag > 0) & (at.imag < 719)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(crop[inside][:, 0], at.real[inside] / 4, atol=1.01, err_msg=str(seed))
    np.testing.assert_allclose(crop[inside][:, 1], at.imag[inside] / 4, atol=1.01, err_msg=str(seed))


def test_coincident_points_are_rejected():
    _error(lambda: align(np.zeros((50, 50, 3), np.uint8), _face(np.full((5, 2), 20.0))), "five points")


def test_embedding_is_the_normalised_output_for_the_crop(faces, tmp_path):
    weight, bias = make_recogniser(tmp_path / "same.onnx")
    image = np.random.default_rng(2).integers(0, 256, (180, 200, 3), dtype=np.uint8)
    got = faces.embed(image, _face(moved(31, 17)))
    crop = (image[17:129, 31:143].astype(np.float32) - 127.5) / 127.5
    means = crop.reshape(8, 14, 8, 14, 3).mean((1, 3)).transpose(2, 0, 1)
    expected = weight @ means.ravel() + bias
    assert got.shape == (512,) and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected / np.linalg.norm(expected), atol=1e-5)


def test_crop_for_clip_is_rgb_in_0_to_1(faces):
    image = np.zeros((200, 200, 3), np.uint8)
    image[...] = (255, 102, 0)
    crop = faces.crop(image, _face(moved(40, 40)))
    assert crop.shape == (3, 224, 224) and crop.dtype == torch.float32
    assert crop.mean((1, 2)).tolist() == pytest.approx([1, 0.4, 0])


def test_portrait_takes_the_largest_face_and_notes_the_others(faces):
    big, small = (96, 160, 32, 0), (480, 96, 16, 0)
    image = _photo(480, 640, small, big)
    portrait = faces.portrait(image, "us.jpg")
    assert portrait.count == 2
    assert portrait.note == "2 faces in us.jpg: taking the largest, 176 pixels wide at (120, 176)"
    np.testing.assert_allclose(portrait.face.points, _answer(*big)[1], atol=0.01)
    assert torch.equal(portrait.embedding, faces.embed(image, portrait.face))
    assert torch.equal(portrait.crop, faces.crop(image, portrait.face))
    assert faces.portrait(_photo(480, 640, big)).note == ""


def test_no_face_and_too_small_a_face(faces):
    _error(lambda: faces.portrait(np.zeros((200, 200, 3), np.uint8), "me.jpg"), "no face found in me.jpg")
    _error(lambda: faces.portrait(_photo(480, 640, (320, 200, 8, 0)), "me.jpg"), "me.jpg", "44 pixels", "48")


def test_parent_folders_of_insightface_are_searched(folder):
    for given in (folder, folder.parent, folder.parent.parent):
        assert find_folder(given) == folder
    assert find_folder(str(folder)) == folder


def test_the_home_folder_is_the_default(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    _error(find_folder, str(tmp_path / ".insightface" / "models" / "buffalo_l"))
    (tmp_path / ".insightface").mkdir()
    (tmp_path / ".insightface" / "models").symlink_to(folder.parent)
    assert find_folder().samefile(folder)


def test_missing_files_raise_errors_with_the_url(folder, tmp_path):
    both = _error(lambda: InsightFace.load(tmp_path / "nowhere"), DETECTOR, RECOGNISER, insightface.URL)
    assert "non-commercial" in both
    (tmp_path / DETECTOR).write_bytes((folder / DETECTOR).read_bytes())
    one = _error(lambda: InsightFace.load(tmp_path), f"holds no {RECOGNISER}")
    assert DETECTOR not in one
    (tmp_path / "buffalo_l.zip").write_bytes(b"PK")
    _error(lambda: InsightFace.load(tmp_path), "unpack", str(tmp_path / "buffalo_l.zip"))
    _error(lambda: InsightFace.load(tmp_path / "buffalo_l.zip"), "is a file", "unpack")
    _error(lambda: InsightFace.load("~nobody-of-that-name/models"), DETECTOR, "download")
    _error(lambda: InsightFace.load("x" * 5000), RECOGNISER, "download")  # the rest of a long line is cut


def _copy(folder: Path, place: Path) -> Path:
    for name in (DETECTOR, RECOGNISER):
        (place / name).write_bytes((folder / name).read_bytes())
    return place


@pytest.mark.parametrize("name", [DETECTOR, RECOGNISER])
@pytest.mark.parametrize("part", [0.0, 0.5, None])
def test_truncated_files_are_named(folder, tmp_path, name, part):
    whole = (_copy(folder, tmp_path) / name).read_bytes()
    (tmp_path / name).write_bytes(
        b"<html>not found</html>" if part is None else whole[: int(len(whole) * part)]
    )
    _error(lambda: InsightFace.load(tmp_path), str(tmp_path / name))


def test_files_of_other_models_are_named(folder, tmp_path):
    _copy(folder, tmp_path)
    (tmp_path / DETECTOR).write_bytes((folder / RECOGNISER).read_bytes())
    _error(lambda: InsightFace.load(tmp_path), DETECTOR, "1 outputs", "9")
    make_detector(tmp_path / DETECTOR, outputs=6)
    _error(lambda: InsightFace.load(tmp_path), DETECTOR, "6 outputs", "9")
    make_detector(tmp_path / DETECTOR)
    make_recogniser(tmp_path / RECOGNISER, width=256)
    faces = InsightFace.load(tmp_path)
    _error(lambda: faces.portrait(_photo(480, 640, (96, 160, 32, 0))), RECOGNISER, "256", "512")


def test_detector_outputs_of_wrong_shape_are_named():
    outputs = [np.zeros((2 * (64 // s) ** 2, c), np.float32) for c in (1, 4, 10) for s in STRIDES]
    assert [len(part) for part in decode(outputs, 64, Path("det.onnx"))] == [0, 0, 0]
    batched = [part[None] for part in outputs]
    assert [len(part) for part in decode(batched, 64, Path("det.onnx"))] == [0, 0, 0]
    one_anchor = [part[::2] for part in outputs]
    _error(lambda: decode(one_anchor, 64, Path("det.onnx")), "det.onnx", "stride 8", "[64, 1]", "[128, 1]")


def test_onnxruntime_is_an_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    _error(lambda: InsightFace.load(folder), "specularip[faces]")


def test_execution_provider_of_each_device():
    def providers(device: str, *built: str) -> list:
        runtime = types.SimpleNamespace(get_available_providers=lambda: list(built))
        return insightface._providers(runtime, device)

    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    assert providers("cpu", cuda, cpu) == providers("cuda", cpu) == [cpu]
    assert providers("cuda:1", cuda, cpu) == [(cuda, {"device_id": "1", "use_tf32": "0"}), cpu]
    assert providers("cuda", cuda, cpu)[0][1]["device_id"] == "0"


def test_loads_without_a_gpu(folder):
    assert InsightFace.load(folder, torch.device("cuda")).provider in (
        "CPUExecutionProvider",
        "CUDAExecutionProvider",
    )


def test_face_weight_fades_as_the_face_turns_away():
    azimuth = torch.linspace(-180, 180, 73)
    weight = face_weight(azimuth, 0.5)
    assert torch.equal(weight, weight.flip(0)) and weight[azimuth.abs() <= 50].eq(0.5).all()
    right = weight[azimuth >= 0]
    assert (right.diff() <= 0).all() and right[-1] == 0 and 0 < weight[azimuth == 90] < 0.5


def test_the_real_models():
    try:
        faces = InsightFace.load()
    except UserError as error:
        pytest.skip(f"needs insightface's models: {error}")
    from specularip.faces.image_file import read_image

    photo = read_image(EXAMPLE)
    portrait = faces.portrait(photo, str(EXAMPLE))
    np.testing.assert_allclose(portrait.face.points[:2], [(203.5, 100.5), (246.5, 101.5)], atol=4)
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    assert portrait.embedding @ faces.portrait(mirrored).embedding > 0.7
