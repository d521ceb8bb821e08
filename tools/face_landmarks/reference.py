"""Make tests/data/face_landmarks.safetensors: what MediaPipe finds in the photos of tests/portraits.py.

In an environment of its own, because mediapipe wants an old numpy (Python 3.12, no network needed to run):

    pip install mediapipe==0.10.21 "numpy<2" pillow safetensors
    python tools/face_landmarks/reference.py

For each photo, in pixels: "points", the 468 points of FaceMesh for still images, without the attention
variant, [468,3]; and of the short-range FaceDetection "six", its points [6,2], and "box", its corner, width
and height [4]. From these, MediaPipe and the tests cut out the same square for the mesh.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mediapipe
import numpy as np
from safetensors.numpy import save_file

TESTS = Path(__file__).resolve().parents[2] / "tests"
sys.path.insert(0, str(TESTS))
from portraits import variants  # noqa: E402

OUT = TESTS / "data" / "face_landmarks.safetensors"


def main() -> None:
    found: dict[str, np.ndarray] = {}
    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=False)
    detector = mediapipe.solutions.face_detection.FaceDetection(model_selection=0)
    for name, photo in variants().items():
        image = np.asarray(photo)
        size = np.float32([photo.width, photo.height])
        faces = mesh.process(image).multi_face_landmarks or []
        detections = detector.process(image).detections or []
        print(f"{name}: {len(faces)} faces, scores {[one.score[0] for one in detections]}")
        if faces:
            points = np.float32([(p.x, p.y, p.z) for p in faces[0].landmark])
            found[f"{name}/points"] = points * np.append(size, size[0])
        if detections:
            location = detections[0].location_data
            box = location.relative_bounding_box
            found[f"{name}/six"] = np.float32([(p.x, p.y) for p in location.relative_keypoints]) * size
            found[f"{name}/box"] = np.float32([box.xmin, box.ymin, box.width, box.height]) * np.tile(size, 2)
    OUT.parent.mkdir(exist_ok=True)
    save_file(found, OUT)
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
