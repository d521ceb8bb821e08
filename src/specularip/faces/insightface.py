"""Identity embeddings: insightface's buffalo_l detector and recogniser, run by onnxruntime alone.

IP-Adapter FaceID-PlusV2 was trained on the output of these two networks, so every step here reproduces
insightface to within rounding: bilinear sampling without antialiasing, black beyond the border. The
detector is SCRFD (Guo et al., 2021), the recogniser ArcFace (Deng et al., 2019) with a ResNet-50 trained on
WebFace600K.

    faces = InsightFace.load("~/.insightface/models/buffalo_l", device="cuda")
    portrait = faces.portrait(photo, "face.jpg")  # largest face: .embedding [512], .crop [3,224,224]
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specularip.errors import MissingWeights, UserError
from specularip.faces.image_file import MIN_FACE
from specularip.faces.landmarks import Landmarks

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DETECTOR, RECOGNISER = "det_10g.onnx", "w600k_r50.onnx"
PUBLISHED = {
    DETECTOR: (16_923_827, "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91"),
    RECOGNISER: (174_383_860, "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43"),
}
"""Size in bytes and SHA-256 of the two files in insightface's release v0.7."""
URL = "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip"
PAGE = "https://github.com/deepinsight/insightface/tree/master/model_zoo"
LICENCE = "for non-commercial research only"
DEFAULT_FOLDER = "~/.insightface/models/buffalo_l"
"""Where insightface itself stores them."""

MIN_SCORE = 0.5
MAX_OVERLAP = 0.4
"""Non-maximum suppression: of two boxes with a larger intersection over union, the lower score is dropped."""
STRIDES = (8, 16, 32)
ANCHORS = 2
"""Anchors per cell of every stride."""
SIZES = (640, 512, 384, 256)
"""Sides of the square that the photo is scaled into, tried in turn until a face is found: the detector misses
faces that fill most of 640 pixels."""

CROP = 112
EMBEDDING = 512
FIVE_POINTS = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
"""ArcFace's template: eyes, nose and corners of the mouth, (x, y) in its crop of 112 pixels. Left is the
image's left."""
CLIP_SIZE = 224
NOSE_AND_MOUTH = (1, 61, 291)
"""MediaPipe's landmarks at the tip of the nose and the corners of the mouth."""


@dataclass(frozen=True)
class FaceDetection:
    """A face found by SCRFD, in pixels of the photo, x to the right and y down; pixel centres are integers.

    box [4] float32: x0, y0, x1, y1. points [5,2] float32: the eye at the image's left, the other, the tip of
    the nose, the corner of the mouth at the image's left, the other. score: 0.5 to 1.
    """

    box: np.ndarray
    points: np.ndarray
    score: float

    @staticmethod
    def of(landmarks: Landmarks) -> FaceDetection:
        """The same five points of a face that MediaPipe's mesh found."""
        points = landmarks.points[:, :2]
        five = np.stack([*landmarks.eyes, *points[list(NOSE_AND_MOUTH)]]).astype(np.float32) - 0.5
        return FaceDetection(np.concatenate([points.min(0), points.max(0)]) - 0.5, five, 1.0)

    @property
    def width(self) -> float:
        return float(self.box[2] - self.box[0])

    @property
    def area(self) -> float:
        return self.width * float(self.box[3] - self.box[1])


@dataclass(frozen=True)
class Portrait:
    """The inputs of FaceID-PlusV2 for one person.

    embedding: float32 [512] of length 1 (insightface's `normed_embedding`). crop: float32 [3,224,224] in
    0..1, RGB, aligned by the five points, for CLIP. face: its detection. count: number of faces in the
    photo. note: a line for the user if there are others, or "".
    """

    embedding: Tensor
    crop: Tensor
    face: FaceDetection
    count: int
    note: str


class InsightFace:
    """buffalo_l's detector and recogniser: two onnxruntime sessions."""

    def __init__(self, detector: Any, recogniser: Any, folder: Path) -> None:
        self._detector, self._recogniser, self.folder = detector, recogniser, folder

    @staticmethod
    def load(folder: str | Path = DEFAULT_FOLDER, device: torch.device | str = "cpu") -> InsightFace:
        """Read det_10g.onnx and w600k_r50.onnx of buffalo_l.

        folder: the one with the files, or insightface's own one or two levels above ("~" is the home folder).
        device: on "cuda" (or "cuda:1") they run on the GPU if onnxruntime was built with CUDA, else on the
        CPU, which takes well under a second and gives the same result.

        Raises MissingWeights if a file is missing; UserError, naming the file, if one is truncated or belongs
        to another model, or if onnxruntime is missing.
        """
        path = find_folder(folder)
        return InsightFace(
            _session(path / DETECTOR, device, outputs=3 * len(STRIDES)),
            _session(path / RECOGNISER, device, outputs=1),
            path,
        )

    @property
    def provider(self) -> str:
        """The execution provider: CPUExecutionProvider or CUDAExecutionProvider."""
        return str(self._detector.get_providers()[0])

    def find(self, image: np.ndarray) -> list[FaceDetection]:
        """All faces of a photo, uint8 [H,W,3] RGB, the largest first; [] if there is none."""
        _check_image(image)
        for size in SIZES:
            if faces := self._detect(image, size):
                return sorted(faces, key=lambda face: -face.area)
        return []

    def embed(self, image: np.ndarray, face: FaceDetection) -> Tensor:
        """Identity embedding: float32 [512] of length 1, on the CPU. The dot product of two is their cosine
        similarity.

        image: uint8 [H,W,3] RGB. face: as `find` returned it for this image.
        """
        import torch

        aligned = align(image, face, CROP).astype(np.float32)
        out = _run(self._recogniser, (aligned - 127.5) / 127.5, self.folder / RECOGNISER)[0]
        length = float(np.linalg.norm(out))
        if out.size != EMBEDDING or not 0 < length < np.inf:
            raise UserError(
                f"{self.folder / RECOGNISER} returns {out.size} numbers of norm {length:.3g}, expected "
                f"{EMBEDDING}: it is not buffalo_l's recogniser"
            )
        return torch.from_numpy(out.reshape(EMBEDDING).astype(np.float32) / np.float32(length))

    def crop(self, image: np.ndarray, face: FaceDetection, size: int = CLIP_SIZE) -> Tensor:
        """The aligned face for CLIP: float32 [3,size,size] in 0..1, RGB.

        Not yet normalised by CLIP's mean and deviation: `Prior` does that.
        """
        import torch

        return torch.from_numpy(align(image, face, size).transpose(2, 0, 1).astype(np.float32) / 255)

    def portrait(self, image: np.ndarray, name: str = "the photo") -> Portrait:
        """The largest face of a photo, uint8 [H,W,3] RGB. name: of the photo, for messages.

        Raises UserError if there is no face, or if the largest is narrower than `image_file.MIN_FACE` pixels.
        """
        faces = self.find(image)
        if not faces:
            raise UserError(
                f"no face found in {name}: use an upright, well-lit photo that looks into the camera, "
                "with the face not too small in the frame"
            )
        face = faces[0]
        if face.width < MIN_FACE:
            raise UserError(
                f"the largest face in {name} is only {face.width:.0f} pixels wide, {MIN_FACE} are needed: "
                "use a closer or larger photo"
            )
        note = ""
        if len(faces) > 1:
            x, y = (face.box[:2] + face.box[2:]) / 2
            note = f"{len(faces)} faces in {name}: taking the largest, {face.width:.0f} pixels wide at "
            note += f"({x:.0f}, {y:.0f})"
        return Portrait(self.embed(image, face), self.crop(image, face), face, len(faces), note)

    def _detect(self, image: np.ndarray, size: int) -> list[FaceDetection]:
        """Faces of the photo, scaled into the upper left of a black square of `size` pixels."""
        height, width = image.shape[:2]
        ratio = height / width
        extent = (size, int(size / ratio)) if ratio > 1 else (int(size * ratio), size)
        small = _resize(image, max(1, extent[0]), max(1, extent[1]))
        canvas = np.zeros((size, size, 3), np.float32)
        canvas[: small.shape[0], : small.shape[1]] = small
        path = self.folder / DETECTOR
        outputs = _run(self._detector, (canvas - 127.5) / 128, path)
        scores, boxes, points = decode(outputs, size, path)
        # insightface scales back by the height alone, although the width may be rounded differently.
        back = height / small.shape[0]
        return [
            FaceDetection(
                (boxes[i] * back).astype(np.float32), (points[i] * back).astype(np.float32), float(scores[i])
            )
            for i in non_max_suppression(boxes, scores)
        ]


def folders(folder: str | Path) -> tuple[Path, Path, Path]:
    """Where the files may be if this folder is given: in it, or in insightface's folders below it."""
    root = Path(os.path.expanduser(folder))
    return root, root / "buffalo_l", root / "models" / "buffalo_l"


def find_folder(folder: str | Path = DEFAULT_FOLDER) -> Path:
    """The one of `folders` that holds both files.

    Raises MissingWeights, with the download URL, if either is missing.
    """
    places = folders(folder)
    # os.path.isfile is False, where Path.is_file raises, for strings that cannot be paths.
    missing = {
        place: [name for name in (DETECTOR, RECOGNISER) if not os.path.isfile(place / name)]
        for place in places
    }
    best = min(places, key=lambda place: len(missing[place]))
    if not missing[best]:
        return best
    if os.path.isfile(places[0]):
        raise UserError(f"{places[0]} is a file, not the folder of {DETECTOR} and {RECOGNISER}: unpack it")
    packed = [zipped for place in places if os.path.isdir(place) for zipped in place.glob("buffalo_l*.zip")]
    got = f"download {URL} (insightface's models, {LICENCE}) and unpack it there"
    raise MissingWeights(
        f"{best} holds no {' and no '.join(missing[best])}: {f'unpack {packed[0]}' if packed else got}"
    )


def decode(outputs: list[np.ndarray], size: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SCRFD's outputs for a square of `size` pixels: scores [n], boxes [n,4], points [n,5,2] above MIN_SCORE.

    outputs: scores of the three strides, then their boxes, then their points; one row per anchor, cells in
    row-major order. Distances are in strides from the cell's corner: left, up, right, down to the box's
    sides; x, y to each point. path: of the model, for messages.
    """
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for level, stride in enumerate(STRIDES):
        cells = -(-size // stride)
        shapes = [(cells * cells * ANCHORS, columns) for columns in (1, 4, 10)]
        parts = [outputs[level + 3 * part] for part in range(3)]
        if any(part.size != rows * columns for part, (rows, columns) in zip(parts, shapes)):
            raise UserError(
                f"{path} returns {[list(part.shape) for part in parts]} at stride {stride}, "
                f"expected {[list(shape) for shape in shapes]}: it is not buffalo_l's detector"
            )
        score, distance, point = (part.reshape(shape) for part, shape in zip(parts, shapes))
        sure = np.flatnonzero(score[:, 0] >= MIN_SCORE)
        cell = sure // ANCHORS
        corner = np.stack([cell % cells, cell // cells], 1) * float(stride)
        reach, offset = distance[sure] * stride, point[sure].reshape(-1, 5, 2) * stride
        box = np.concatenate([corner - reach[:, :2], corner + reach[:, 2:]], 1)
        kept.append((score[sure, 0], box, corner[:, None] + offset))
    scores, boxes, points = (np.concatenate(parts) for parts in zip(*kept))
    return scores, boxes, points


def non_max_suppression(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Non-maximum suppression: indices of the boxes [n,4] that remain, by descending score."""
    left = [int(i) for i in np.argsort(-scores, kind="stable")]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.clip(high - low, 0, None).prod(1)
        overlap = shared / np.maximum(areas[best] + areas[rest] - shared, 1e-9)
        left = [i for i, share in zip(rest, overlap) if share <= MAX_OVERLAP]
    return kept


def align(image: np.ndarray, face: FaceDetection, size: int = CROP) -> np.ndarray:
    """The face, rotated, scaled and shifted so that its five points match ArcFace's template.

    uint8 [H,W,3] -> uint8 [size,size,3], FIVE_POINTS scaled to `size`; black beyond the photo. The similarity
    transform from photo to crop is the least-squares one (Umeyama, 1991).
    """
    from scipy.ndimage import map_coordinates
    from skimage.transform import SimilarityTransform

    _check_image(image)
    similarity = SimilarityTransform.from_estimate(np.float64(face.points), FIVE_POINTS * (size / CROP))
    if not similarity or not np.isfinite(similarity.params).all():
        raise UserError(
            f"the detector put the five points of the face in one place, {face.points[0]}: use another photo"
        )
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    at = similarity.inverse(np.stack([x.ravel(), y.ravel()], 1))[:, ::-1].T.reshape(2, size, size)
    channels = [
        map_coordinates(image[..., c], at, output=np.float32, order=1, mode="grid-constant", cval=0.0)
        for c in range(3)
    ]
    return np.rint(np.stack(channels, -1)).astype(np.uint8)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear without antialiasing, whatever the scale: uint8 [H,W,3] -> float32, rounded to integers."""

    def places(count: int, source: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.clip((np.arange(count) + 0.5) * (source / count) - 0.5, 0, source - 1)
        low = np.floor(at).astype(int)
        return low, np.minimum(low + 1, source - 1), (at - low).astype(np.float32)

    top, bottom, down = places(height, image.shape[0])
    left, right, across = places(width, image.shape[1])
    down, across = down[:, None, None], across[None, :, None]

    def row(y: np.ndarray) -> np.ndarray:
        line = image[y]
        return line[:, left] * (1 - across) + line[:, right] * across

    return np.rint(row(top) * (1 - down) + row(bottom) * down)


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be uint8 [H,W,3], got {image.dtype} {list(image.shape)}")


def _session(path: Path, device: torch.device | str, outputs: int) -> Any:
    """An onnxruntime session of a file with one image input and the given number of outputs."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "reading a face needs onnxruntime: pip install 'specularip[faces]' (or onnxruntime-gpu)"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; the warnings are about its graph optimiser
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=_providers(onnxruntime, str(device))
        )
    except Exception as error:  # of a dozen types; in any case this file is the cause
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is damaged or not an ONNX model: download it again ({reason})") from error
    got, count = session.get_inputs(), len(session.get_outputs())
    if len(got) != 1 or len(got[0].shape) != 4 or got[0].shape[1] not in (3, None) or count != outputs:
        raise UserError(
            f"{path} has {len(got)} inputs and {count} outputs, expected one image and {outputs}: "
            f"it is not buffalo_l's {path.name}"
        )
    return session


def _providers(onnxruntime: Any, device: str) -> list[Any]:
    kind, _, index = device.partition(":")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        # Without TF32, the embedding matches the CPU's.
        return [
            ("CUDAExecutionProvider", {"device_id": index or "0", "use_tf32": "0"}),
            "CPUExecutionProvider",
        ]
    return ["CPUExecutionProvider"]


def _run(session: Any, image: np.ndarray, path: Path) -> list[np.ndarray]:
    """All outputs for one normalised image, float32 [H,W,3]."""
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    try:
        return session.run(None, {session.get_inputs()[0].name: batch})
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be run: it is not buffalo_l's {path.name} ({reason})") from error
