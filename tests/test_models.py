"""`models check` reports missing and damaged files; `models fetch` downloads them, here from a local hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from safetensors.torch import save_file
from sd15_files import ADAPTER, write_sources

from specularip import cli
from specularip.diffusion.loading.sd15 import load_sd15
from specularip.diffusion.loading.settings import Sd15Sources
from specularip.errors import UserError
from specularip.models import check as models
from specularip.models import fetch as fetching
from specularip.models.check import Model, inspect_file, needed, preset_models
from specularip.models.fetch import SPARE, fetch
from specularip.presets import preset_config
from specularip.stages.settings import Config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A local hub: repositories of files. Downloads of those in `cut` are interrupted half-way, once."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cut: set[str] = field(default_factory=set)
    served: list[tuple[str, str]] = field(default_factory=list)
    ranges: bool = True
    slow: float = 0.0
    silent: str = "file"
    """What is delayed by `slow` seconds: the "api", or large "file"s."""

    def serve(self, request: BaseHTTPRequestHandler, head: bool) -> None:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = "/".join(parts[2:4])
            if repository not in self.files:
                request.send_response(401 if head else 404)
                request.send_header("X-Error-Code", "RepoNotFound")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "lfs": {"size": len(data), "sha256": "", "pointerSize": 1},
                }
                for name, data in self.files[repository].items()
            ]
            time.sleep(self.slow if self.silent == "api" else 0.0)
            body = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
            request.send_response(200)
            request.send_header("Content-Type", "application/json")
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)
            return
        repository, name = "/".join(parts[:2]), "/".join(parts[4:])
        if repository not in self.files or name not in self.files[repository]:
            request.send_error(404)
            return
        data = self.files[repository][name]
        wanted = request.headers.get("Range") if self.ranges else None
        start = int((wanted or "bytes=0-").split("=")[1].split("-")[0])
        request.send_response(206 if start else 200)
        request.send_header("X-Repo-Commit", COMMIT)
        # Large files are identified by SHA-256, others by git's SHA-1.
        small = name.endswith((".json", ".txt", ".md"))
        digest = (hashlib.sha1 if small else hashlib.sha256)(data).hexdigest()
        request.send_header("ETag", f'"{digest}"')
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.send_header("Content-Length", str(len(data) - start))
        request.end_headers()
        if head:
            return
        self.served.append((name, request.headers.get("Range") or ""))
        time.sleep(0.0 if small or self.silent == "api" else self.slow)
        if name in self.cut:
            self.cut.discard(name)
            request.wfile.write(data[start : start + (len(data) - start) // 2])
            request.close_connection = True
            request.connection.close()
            return
        request.wfile.write(data[start:])


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            hub.serve(self, True)

        def do_GET(self) -> None:
            hub.serve(self, False)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("SPECULARIP_LPIPS", str(tmp_path / "lpips"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield hub
    server.shutdown()
    server.server_close()


def fill(hub: Hub, folder: Path) -> None:
    """Publish small repositories in the published layouts, with needed and unneeded files."""
    write_sources(folder, 1)
    published = Sd15Sources()
    places = {
        published.base: folder / "base",
        published.vae: folder / "vae",
        published.controlnet: folder / "controlnet",
        published.image_encoder: folder / "clip",
    }
    for repository, place in places.items():
        hub.files[repository] = {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in place.rglob("*")
            if path.is_file()
        }
    hub.files["h94/IP-Adapter-FaceID"] = {ADAPTER: (folder / ADAPTER).read_bytes()}
    junk = {"README.md": b"x", "safety_checker/model.safetensors": b"x" * 999}
    for files in hub.files.values():
        files |= junk
    clip = hub.files[published.image_encoder]
    clip |= {"open_clip_pytorch_model.bin": b"x" * 999, "pytorch_model.bin": b"x" * 999}
    base = hub.files[published.base]
    base |= {"Realistic_Vision_V4.0.ckpt": b"x" * 999, "unet/diffusion_pytorch_model.bin": b"x" * 999}


def sd15(tmp_path: Path) -> Config:
    config = preset_config("sd15")
    return replace(config, prior=replace(config.prior, faces=str(tmp_path / "buffalo_l")))


def problems(found: list[Model]) -> dict[str, str]:
    return {
        f"{model.part or model.name}:{file.path.name}": file.problem
        for model in found
        for file in model.files
        if file.problem
    }


@pytest.fixture
def no_published_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow an adapter that is not the published file."""
    monkeypatch.delitem(models.PUBLISHED_FILES, ADAPTER)


@pytest.mark.usefixtures("no_published_adapter")
def test_fetched_files_are_complete_and_load(hub: Hub, tmp_path: Path) -> None:
    fill(hub, tmp_path / "files")
    config = sd15(tmp_path)
    lines: list[str] = []
    before = preset_models(config)
    assert not any(model.complete for model in before if model.part)
    fetch([model for model in before if model.part], lines.append, hub.url)
    after = preset_models(config)
    assert all(model.complete for model in after if model.part), problems(after)
    names = {name for name, _ in hub.served}
    assert "config.json" in names and "tokenizer/vocab.json" in names
    unneeded = (
        "README",
        ".ckpt",
        "safety",
        "open_clip",
        "unet/diffusion_pytorch_model.bin",
        "pytorch_model.bin",
    )
    assert not [name for name in names if name.startswith(unneeded) or name.endswith(".ckpt")]
    prior = load_sd15(config.prior.sources, dtype="float32")
    assert prior.wants_face_embedding
    # Nothing is downloaded twice; a damaged file is reported and replaced.
    hub.served.clear()
    fetch([model for model in after if model.part], lines.append, hub.url)
    assert not hub.served
    unet = next(f for m in after if m.part == "base" for f in m.files if f.path.suffix == ".safetensors")
    data = bytearray(unet.path.read_bytes())
    data[-1] ^= 1
    unet.path.resolve().write_bytes(data)
    assert not problems(preset_models(config, checksums=False)).get(f"base:{unet.path.name}")
    damaged = preset_models(config)
    assert "SHA-256" in problems(damaged)[f"base:{unet.path.name}"]
    fetch([model for model in damaged if model.part], lines.append, hub.url)
    assert [name for name, _ in hub.served] == ["unet/diffusion_pytorch_model.safetensors"]
    assert all(model.complete for model in preset_models(config) if model.part)


@pytest.mark.usefixtures("no_published_adapter")
def test_an_interrupted_download_is_resumed(hub: Hub, tmp_path: Path) -> None:
    fill(hub, tmp_path / "files")
    config = sd15(tmp_path)

    def adapter() -> Model:
        (model,) = [model for model in preset_models(config) if model.part == "ip_adapter"]
        return model

    data = hub.files["h94/IP-Adapter-FaceID"][ADAPTER]
    hub.cut.add(ADAPTER)
    with pytest.raises(UserError, match="resumes the download"):
        fetch([adapter()], lambda line: None, hub.url)
    assert "2 MB of it downloaded: fetch resumes there" in adapter().files[0].problem
    fetch([adapter()], lambda line: None, hub.url)
    assert adapter().complete and adapter().files[0].path.read_bytes() == data
    assert len(hub.served) == 2 and hub.served[1] == (ADAPTER, f"bytes={len(data) // 2}-"), hub.served
    # A server without range requests: the partial file is discarded.
    blob = adapter().files[0].path.resolve()
    blob.rename(blob.with_name(f"{blob.name}.incomplete"))
    os.truncate(blob.with_name(f"{blob.name}.incomplete"), len(data) // 2)
    hub.ranges = False
    fetch([adapter()], lambda line: None, hub.url)
    assert adapter().complete and len(hub.served) == 3
    hub.ranges = True
    # A partial file with other content is reported, deleted, and downloaded the next time.
    blob = adapter().files[0].path.resolve()
    blob.with_name(f"{blob.name}.incomplete").write_bytes(b"x" * (len(data) // 2))
    blob.unlink()
    adapter().files[0].path.unlink(missing_ok=True)
    with pytest.raises(UserError, match="damaged and was deleted"):
        fetch([adapter()], lambda line: None, hub.url)
    fetch([adapter()], lambda line: None, hub.url)
    assert adapter().complete


def test_an_empty_file_is_downloaded_again(hub: Hub, tmp_path: Path) -> None:
    fill(hub, tmp_path / "files")

    def vae() -> Model:
        (model,) = [model for model in preset_models(sd15(tmp_path)) if model.part == "vae"]
        return model

    fetch([vae()], lambda line: None, hub.url)
    for file in vae().files:
        file.path.resolve().write_bytes(b"")
    assert [file.problem for file in vae().files] == ["empty", "empty"]
    fetch([vae()], lambda line: None, hub.url)
    assert vae().complete


@pytest.mark.usefixtures("no_published_adapter")
def test_concurrent_fetches_download_once(hub: Hub, tmp_path: Path) -> None:
    fill(hub, tmp_path / "files")
    (adapter,) = [model for model in preset_models(sd15(tmp_path)) if model.part == "ip_adapter"]
    hub.slow = 0.3
    both = [threading.Thread(target=fetch, args=([adapter], lambda line: None, hub.url)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert [name for name, _ in hub.served] == [ADAPTER]
    assert [model.complete for model in preset_models(sd15(tmp_path)) if model.part == "ip_adapter"] == [True]


def test_lpips_download_is_resumed_and_keeps_other_files(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"PK" + bytes(3_000_000)
    vgg = f"vgg16-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    hub.files["a/b"] = {vgg: data, "vgg.pth": b"PK" + bytes(99)}
    monkeypatch.setattr(
        models, "LPIPS_URLS", tuple(f"{hub.url}/a/b/raw/main/{name}" for name in hub.files["a/b"])
    )
    monkeypatch.setattr(models, "is_zip", lambda path: True)
    folder = tmp_path / "lpips"
    folder.mkdir()
    (folder / "lpips.safetensors").write_bytes(b"half of it")

    def lpips() -> Model:
        (model,) = [model for model in preset_models(sd15(tmp_path)) if model.urls]
        return model

    assert not lpips().complete
    hub.cut.add(vgg)
    with pytest.raises(UserError, match="resumes the download"):
        fetch([lpips()], lambda line: None, hub.url)
    assert not (folder / vgg).exists()
    fetch([lpips()], lambda line: None, hub.url)
    assert lpips().complete and (folder / vgg).read_bytes() == data
    assert hub.served == [(vgg, ""), (vgg, f"bytes={len(data) // 2}-"), ("vgg.pth", "")]
    assert (folder / "lpips.safetensors").read_bytes() == b"half of it"
    assert sorted(path.name for path in folder.iterdir()) == sorted([vgg, "vgg.pth", "lpips.safetensors"])


def test_disk_space_counts_missing_files_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(hub, tmp_path / "files")

    def vae() -> Model:
        (model,) = [model for model in preset_models(sd15(tmp_path)) if model.part == "vae"]
        return model

    fetch([vae()], lambda line: None, hub.url)
    vae().files[0].path.unlink()
    free = SPARE + 10_000  # for the missing JSON, not for the weights
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))  # type: ignore[attr-defined]
    fetch([vae()], lambda line: None, hub.url)
    assert vae().complete


def test_errors_of_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sd15(tmp_path)
    found = [model for model in preset_models(config) if model.part == "vae"]

    def error() -> str:
        with pytest.raises(UserError) as caught:
            fetch(found, lambda line: None, hub.url)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no public repository stabilityai/sd-vae-ft-mse" in error()
    hub.files["stabilityai/sd-vae-ft-mse"] = {"README.md": b"x"}
    assert "holds no config.json, diffusion_pytorch_model.safetensors" in error()
    hub.files["stabilityai/sd-vae-ft-mse"] = {"config.json": b"{}", "diffusion_pytorch_model.bin": b"x" * 9}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert "GB free" in error() and not hub.served
    found = [replace(found[0], source="a/b/model.ckpt")]
    assert ".ckpt pickle" in error() and not hub.served
    found = [replace(found[0], source="stabilityai/sd-vae-ft-mse")]
    hub.url = "http://127.0.0.1:9"
    assert "cannot download stabilityai/sd-vae-ft-mse" in error()


@pytest.mark.parametrize("silent", ["api", "file"])
def test_a_silent_server_times_out(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    fill(hub, tmp_path / "files")
    monkeypatch.setattr(fetching, "TIMEOUT", 0.5)
    (vae,) = [model for model in preset_models(sd15(tmp_path)) if model.part == "vae"]
    hub.slow, hub.silent = 3.0, silent
    with pytest.raises(UserError, match="cannot download stabilityai/sd-vae-ft-mse"):
        fetch([vae], lambda line: None, hub.url)


def test_manual_downloads_are_explained(hub: Hub, tmp_path: Path) -> None:
    config = replace(sd15(tmp_path), body=str(tmp_path / "smplx"))
    lines: list[str] = []
    fetch([model for model in preset_models(config) if model.by_hand], lines.append, hub.url)
    assert len(lines) == 2 and not hub.served
    faces, body = lines
    assert "by hand" in faces and "non-commercial" in faces and "buffalo_l.zip" in faces
    assert "by hand" in body and "smpl-x.is.tue.mpg.de" in body and "SMPLX_NEUTRAL.npz" in body


def test_needed_files_of_a_repository() -> None:
    names = ["config.json", "diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.bin", "x.png"]
    assert needed("vae", names) == (["config.json", "diffusion_pytorch_model.bin"], [])
    whole = ["vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors", "unet/config.json"]
    assert needed("vae", whole) == (whole[:2], []), "the VAE of a whole pipeline"
    index = "diffusion_pytorch_model.safetensors.index.json"
    pieces = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert needed("controlnet", ["config.json", index, *pieces])[0] == ["config.json", index, *pieces]
    found, missing = needed("controlnet", ["config.json", index, pieces[1]])
    assert found == ["config.json", index, pieces[1]] and missing == [pieces[0]]
    found, missing = needed("base", ["unet/config.json", "tokenizer/tokenizer.json"])
    assert found == ["unet/config.json", "tokenizer/tokenizer.json"]
    assert missing == [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
    ]


def test_published_sizes_and_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "det_10g.onnx"
    path.write_bytes(b"model")
    assert "16923827 expected" in inspect_file(path).problem
    digest = hashlib.sha256(b"model").hexdigest()
    monkeypatch.setitem(models.PUBLISHED_FILES, "det_10g.onnx", (5, digest))
    assert inspect_file(path, checksums=True).problem == ""
    path.write_bytes(b"modem")
    assert inspect_file(path).problem == "" and "SHA-256" in inspect_file(path, checksums=True).problem
    vgg = tmp_path / f"vgg16-{digest[:8]}.pth"
    torch.save({"x": torch.ones(3)}, vgg)
    assert "SHA-256" in inspect_file(vgg, checksums=True).problem
    assert inspect_file(vgg).problem == ""
    vgg.write_bytes(vgg.read_bytes()[:-30])
    assert "damaged" in inspect_file(vgg).problem
    old = tmp_path / "old.pth"
    torch.save({"x": torch.ones(3)}, old, _use_new_zipfile_serialization=False)
    assert inspect_file(old).problem == ""


def test_the_command(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["models"])
    text = capsys.readouterr().out
    assert "compact preset" in text and "sd15 preset" in text and "complete" in text
    for word in (
        "SG161222/Realistic_Vision_V4.0_noVAE",
        "OpenRAIL",
        "https://huggingface.co/laion",
        "missing",
    ):
        assert word in text, word
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", "check", "--preset", "sd15", "--set", f"prior.sources.vae={tmp_path / 'my_vae'}"])
    assert stopped.value.code == 1
    text = capsys.readouterr().out
    assert str(tmp_path / "my_vae") in text and "compact preset" not in text
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", "check", "--set", "seed=1"])
    assert stopped.value.code == 2 and "--preset" in capsys.readouterr().err


def _lines(capsys: pytest.CaptureFixture[str], preset: str, *settings: str) -> tuple[object, str]:
    """Exit code and output of `models check`."""
    code: object = 0
    try:
        cli.main(["models", "check", "--preset", preset, "--set", *settings])
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().out


def test_wrong_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (str(tmp_path / "nowhere"), str(Path(__file__)), "~nobody-of-that-name/prior"):
        code, text = _lines(capsys, "compact", f"prior.path={name}")
        assert code == 1 and "model_index.json  missing" in text and "complete" not in text
        assert "install the package" not in text
    for name in ("~nobody-of-that-name/vae", "x" * 5000, ""):
        code, text = _lines(
            capsys, "sd15", f"prior.sources.vae={name}", f"prior.faces={name}", f"body={name}"
        )
        assert code == 1 and "missing" in text
    (tmp_path / "model.ckpt").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    text = _lines(capsys, "sd15", "prior.sources.base=model.ckpt", "prior.sources.vae=notes.txt")[1]
    assert "model.ckpt  rejected: a pickle" in text and "notes.txt  not a weight file" in text
    # A single file holds no tokenizer, whether or not it is downloaded.
    assert "clip-vit-large-patch14" in _lines(capsys, "sd15", "prior.sources.base=a/b/c.safetensors")[1]
    assert "clip-vit-large-patch14" not in _lines(capsys, "sd15", "prior.sources.base=a/b")[1]


def test_fetch_is_suggested_only_where_it_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, _ = write_sources(tmp_path / "files", 3)
    monkeypatch.setenv("SPECULARIP_LPIPS", str(tmp_path / "files" / "vae"))
    settings = [f"prior.sources.{name}={path}" for name, path in vars(sources).items()]
    code, text = _lines(capsys, "sd15", *settings)
    assert code == 1 and "missing or damaged: FaceID" in text and "models fetch" not in text
    text = _lines(capsys, "sd15", *settings, "prior.sources.vae=a/b")[1]
    assert "models fetch" in text


def test_oversized_safetensors_headers_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((1 << 40).to_bytes(8, "little"))
        file.truncate((1 << 40) + 8)  # sparse
    assert "header unreadable" in inspect_file(path).problem
    path.write_bytes((20_000).to_bytes(8, "little") + b"[" * 20_000)
    assert "header unreadable" in inspect_file(path).problem


def test_local_files_are_checked(tmp_path: Path) -> None:
    sources, _ = write_sources(tmp_path / "files", 2)
    config = sd15(tmp_path)
    config = replace(config, prior=replace(config.prior, sources=sources))
    found = {model.part: model for model in preset_models(config) if model.part}
    assert [part for part, model in found.items() if not model.complete] == ["ip_adapter"], (
        "not the published one"
    )
    assert found["base"].licence == "your own files" and "tokenizer" not in found
    single = tmp_path / "single.safetensors"
    save_file({"x": torch.ones(3)}, str(single))
    data = single.read_bytes()
    single.write_bytes(data[:-1])
    config = replace(config, prior=replace(config.prior, sources=replace(sources, base=str(single))))
    found = {model.part: model for model in preset_models(config) if model.part}
    assert "damaged" in found["base"].files[0].problem and found["tokenizer"].complete
