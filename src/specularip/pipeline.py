"""`generate`: text and a face photo to a finished run folder. Loads everything, then runs the stages."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specularip import raster, specular
from specularip.avatar import Avatar, load
from specularip.body import Body, anny_body, phenotype_from_text, smplx_body
from specularip.checkpoints import Checkpoint
from specularip.diffusion.one_person import one_standing_person
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook, view_prompt
from specularip.diffusion.sample import sampling_timesteps
from specularip.errors import UserError, escaped
from specularip.export.video import write_video
from specularip.faces.alignment import align_face, framed_by_hair
from specularip.faces.hair import told_hair
from specularip.faces.image_file import read_image
from specularip.faces.insightface import CLIP_SIZE, FaceDetection, InsightFace, align
from specularip.faces.landmarks import find_face, usable_faces
from specularip.gaussians import Binding
from specularip.inputs import Inputs, check_inputs, check_run, forget_photos
from specularip.kernels.async_transfer import StepMetrics
from specularip.kernels.compiling import in_background
from specularip.lpips import NO_LPIPS
from specularip.machine import check_gpu, check_memory
from specularip.presentation import preview, turntable
from specularip.presets import preset_config, with_low_memory
from specularip.progress import Progress
from specularip.registration.splats import RegisteredSplats, register_splats
from specularip.run_folder import RunFolder
from specularip.run_lock import locked
from specularip.run_networks import KeptNetworks, Networks, load_networks
from specularip.sentences import denied, normalized, symbols, without_denials, without_names
from specularip.stages.given_start import start_from_splats, with_given_head
from specularip.stages.guide import EncodedFace, Guide
from specularip.stages.initial_state import AvatarState, initial_state, new_head
from specularip.stages.perceptual import Perceptual, UnetFeatures, perceptual_loss
from specularip.stages.phases import checkpoint_phases
from specularip.stages.photo_head import PhotoHead, photo_head
from specularip.stages.rigging import rigged
from specularip.stages.scr import Targets, fit_targets, make_targets, orbits
from specularip.stages.seid import seid
from specularip.stages.settings import Config
from specularip.stages.start import sample_start, start_from
from specularip.stopping import StopRequest, stop_on_signal
from specularip.training.events import check_tensorboard
from specularip.training.gpu_memory import memory_errors
from specularip.training.parallel import init_ranks
from specularip.training.session import Session
from specularip.training.state import TrainState
from specularip.version import __version__
from specularip.viewing.growing import LiveView

PHOTO_SIZE = 96
PREVIEW_SIZE = 192
"""Side in pixels of each view in preview.png during the run; twice that in the final one."""
MEMORY_SETTINGS = (
    ("", "low_memory"), ("seid", "views_at_once"), ("scr", "refine_batch"), ("scr", "vae_batch"),
)  # fmt: skip
"""Settings that a resumed run may change: batch sizes, which affect the result by rounding only."""
OWN_FEATURES = f"the perceptual loss compares features of the prior's own networks; {NO_LPIPS}"


def generate(
    text: str,
    image: str | Path | Sequence[str | Path],
    *,
    preset: str = "compact",
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    init: str | Path | None = None,
    force: bool = False,
    photo_weight: float | None = None,
    low_memory: bool = False,
    config: Config | None = None,
    progress: Progress | None = None,
    live: LiveView | None = None,
    networks: KeptNetworks | None = None,
    stop: StopRequest | None = None,
    tensorboard: bool = False,
) -> Avatar:
    """Text and photos of a face to a full-body avatar, written to the folder `out` and returned, on the CPU.

    image: one photo, or up to eight of the same person. init: a person as 3D Gaussians to start from, any
    file that `sip.load` reads, instead of from views that the prior draws. config replaces the preset; seed
    still comes from the arguments, and so do photo_weight and low_memory if given. force: go on with a text
    of which no word is understood. live: a page that shows the run. networks: those of earlier runs, to be
    used again. stop: how to stop the run; by default, signals do. tensorboard: write curves and previews to
    its folder `tensorboard`, which needs the package tensorboard. Under torchrun, the processes share each
    step's views (`training.parallel`). Raises UserError for input that the user can correct (see
    `inputs.check_inputs`) and for a machine without the memory or GPU needed, KeyboardInterrupt after saving
    a checkpoint when stopped by Ctrl-C or SIGTERM.
    """
    config = replace(config or preset_config(preset), seed=seed)
    if photo_weight is not None:
        config = replace(config, photo_weight=photo_weight)
    if low_memory:
        config = with_low_memory(config)
    if tensorboard:
        check_tensorboard()
    check_run(config, out)
    inputs = check_inputs(
        text,
        image,
        out,
        resume,
        overwrite,
        config.detects_face,
        init=init,
        prior=config.prior.path,
        force=force,
    )
    forget_photos()  # from here on `inputs` holds them, as long as they are needed
    check_gpu(config)
    ranks, device = init_ranks(config.device)
    check_memory(config, device)
    ranks.barrier()  # all have checked the folder before it is locked
    with ExitStack() as stack:
        warning = stack.enter_context(locked(Path(out))) if ranks.is_main else ""
        if progress is None:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            progress = stack.enter_context(Progress(None if ranks.is_main else nowhere))
        stop = stop or stack.enter_context(stop_on_signal())
        began = time.perf_counter()
        advice = "no run was changed: end other programs on the GPU, or add --low-memory"
        with memory_errors(advice), stop.at_once() if ranks.world_size == 1 else nullcontext():
            loaded = load_networks(config, device) if networks is None else networks.get(config, device)
            context = _prepare(inputs, config, loaded, device, progress)
        if ranks.is_main:
            folder = RunFolder.open(out, resume, overwrite)
        ranks.barrier()
        if not ranks.is_main:
            folder = RunFolder.current(out)
        session = stack.enter_context(
            Session(
                folder,
                progress,
                stop,
                device,
                _run_inputs(inputs, config),
                context.notes,
                ranks,
                tensorboard,
            )
        )
        if warning:
            session.note(warning)
        if folder.replaces is not None:
            progress.log(folder.replacing)
        session.seconds["load"] = time.perf_counter() - began
        if live is not None and ranks.is_main:
            live.begin(folder.path, progress, inputs.text, inputs.identity.pixels)
        advice = f"{out} keeps the last checkpoint: end other programs on the GPU, or continue with"
        with memory_errors(f"{advice} --resume --low-memory"):
            avatar = _run_stages(session, context, live)
        if ranks.is_main:
            folder.publish()
    ranks.barrier()
    return avatar


def _run_inputs(inputs: Inputs, config: Config) -> dict[str, Any]:
    """The settings and inputs that must be the same when a run is resumed."""
    settings = asdict(config)
    for part, name in MEMORY_SETTINGS:
        (settings[part] if part else settings).pop(name)
    return {
        "text": inputs.text,
        "seed": settings.pop("seed"),
        "photo weight": settings.pop("photo_weight"),
        **_photo_digests(inputs, config),
        "file to start from": inputs.init and hashlib.sha256(inputs.init.read_bytes()).hexdigest(),
        "settings": settings,
    }


def _photo_digests(inputs: Inputs, config: Config) -> dict[str, str]:
    """What identifies the photos, by names for the user: their pixels, wherever the files are."""
    names = ["photo"] if len(inputs.photos) == 1 else [f"photo {k + 1}" for k in range(len(inputs.photos))]
    images = {name: photo.pixels for name, photo in zip(names, inputs.photos)}
    if config.guidance.negative_face:
        images["guidance.negative_face"] = read_image(config.guidance.negative_face)
    return {
        name: hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
        for name, pixels in images.items()
    }


@dataclass
class RunContext:
    """What a run loads or computes before its first step. splats: the person to start from. notes: lines for
    the report. kernels: their compilation."""

    inputs: Inputs
    guide: Guide
    perceptual: Perceptual | None
    head: PhotoHead | None
    splats: RegisteredSplats | None
    notes: list[str]
    kernels: Future[None]

    @property
    def config(self) -> Config:
        return self.guide.config


def _prepare(
    inputs: Inputs, config: Config, networks: Networks, device: torch.device, progress: Progress
) -> RunContext:
    """Encode text and face, build the body and the photo anchor."""
    notes: list[str] = []

    def note(line: str) -> None:
        if line:
            notes.append(line)
            progress.log(line)

    for line in (*inputs.notes, *networks.notes):
        note(line)
    prior = networks.prior
    splats = None if inputs.init is None else read_splats(inputs.init, config, progress, note)
    body, head = read_head(inputs, config, note) if splats is None else (splats.fitted.body, None)
    told = inputs.text
    if head is not None and head.hair is not None:
        note(f"the text names no hair; as in the photo: {head.hair.words}")
        told = f"{told.rstrip('.')}, with {head.hair.words}"
    text = readable(prior, told, note)
    prior.move_image_encoder(device)  # where an earlier run has moved it away
    face, other = read_faces(prior, networks.faces, inputs, told, config, note)
    painted = None if head is None else head.face
    against = denied(told) if prior.vocabulary is None else []
    guide = Guide(prior, PromptBook(prior), text, face, body.to(device), config, other, painted, against)
    for guidance in (config.guidance, config.scr.guidance or config.guidance):
        guide.identity(guidance)
    if device.type == "cuda":
        prior.move_image_encoder("cpu")
        torch.cuda.empty_cache()
    perceptual: Perceptual | None = networks.lpips
    if perceptual is None and config.scr.perceptual_weight:
        perceptual = perceptual_loss(prior)
        top, bottom, left, right = config.scr.crop
        if isinstance(perceptual, UnetFeatures) and bottom - top != right - left:
            raise UserError("scr.crop must be square without LPIPS weights: the prior reads square images")
    # Half a minute on a new machine, which the sampling of the first views need not wait for.
    kernels = in_background(lambda: raster.warm_up(device), lambda: specular.warm_up(device))
    if device.type == "cuda":
        kernels.result()  # nothing else may be launched while CUDA graphs are captured
    return RunContext(inputs, guide, perceptual, head, splats, notes, kernels)


def readable(prior: Prior, text: str, note: Callable[[str], None]) -> str:
    """The part of a text that the prior reads. note: receives lines for the user about the rest."""
    told = normalized(text)
    named, names = without_names(told)
    if names:
        note(f"read as names, which say nothing of the look: {', '.join(names)}")
    text, left_out = without_denials(named, () if prior.vocabulary is None else prior.vocabulary.denials)
    text = text or told
    if left_out and text != told:
        quoted = ", ".join(f"'{phrase}'" for phrase in left_out)
        where = "left out" if prior.vocabulary is not None else "moved to the negative prompt"
        note(f"a prior draws what its text denies, so this is {where}: {quoted}")
    if prior.vocabulary is not None:
        rest, beyond = one_standing_person(text)
        text = rest or text
        if beyond:
            quoted = ", ".join(f"'{phrase}'" for phrase in beyond)
            note(f"this prior draws one standing person on grey; ignored: {quoted}")
        text, replaced = prior.vocabulary.in_known_words(text)
        if replaced:
            meanings = ", ".join(f"'{phrase}' as '{meaning}'" for phrase, meaning in replaced.items())
            note(f"read in words that this prior knows: {meanings}")
    cut = prior.truncated(text, view_prompt("", "head", "overhead"))
    if cut:
        text = text[: len(text) - len(cut)].strip()
        note(f"the text is longer than the prior's token limit; this part is left out: '{cut}'")
    unknown = [word for word in prior.unknown_words(text) if any(c.isalnum() for c in word)]
    unknown += symbols(text)
    if unknown and prior.vocabulary is None:
        note(f"words outside the prior's vocabulary, ignored: {', '.join(unknown)}")
    elif unknown:
        note(f"words that the prior was not trained on, which may do little: {', '.join(unknown)}")
    return text


def read_faces(
    prior: Prior,
    faces: InsightFace | None,
    inputs: Inputs,
    text: str,
    config: Config,
    note: Callable[[str], None],
) -> tuple[EncodedFace, EncodedFace | None]:
    """Features of the person's face, and of the face in `guidance.negative_face`, if one is set.

    faces: the face recogniser; None: a prior that takes its embedding gets that of no face, and an image of
    this one. text: what it says about the hair counts. note: receives lines for the user and the report.
    Raises UserError if a photo shows no usable face.
    """
    photos = [(inputs.identity.pixels, str(inputs.identity.path))]
    if config.guidance.negative_face:
        photos.append((read_image(config.guidance.negative_face), config.guidance.negative_face))
    found: list[EncodedFace] = []
    with torch.no_grad():
        if prior.wants_face_embedding and faces is None:
            for photo, name in photos:
                detection = FaceDetection.of(usable_faces(photo, name)[0])
                crop = torch.from_numpy(align(photo, detection, CLIP_SIZE).transpose(2, 0, 1) / 255).float()
                found.append(prior.encode_face(crop[None], torch.zeros(1, prior.identity_dim)))
        elif prior.wants_face_embedding and faces is not None:
            for photo, name in photos:
                portrait = faces.portrait(photo, name)
                note(portrait.note)
                found.append(prior.encode_face(portrait.crop[None], portrait.embedding[None]))
        else:
            for index, (photo, name) in enumerate(photos):
                face = (inputs.identity.face if index == 0 else None) or find_face(photo, name)
                crop = align_face(photo, face, PHOTO_SIZE)
                if prior.shows_depth:
                    told = told_hair(text, crop) if index == 0 else None
                    crop = framed_by_hair(crop, told)
                found.append(prior.encode_face(crop[None]))
    return found[0], found[1] if len(found) > 1 else None


def read_head(inputs: Inputs, config: Config, note: Callable[[str], None]) -> tuple[Body, PhotoHead | None]:
    """The body, with the head that the photos show.

    Without weight on the photos, or with a body other than Anny, the body is that of the text, or the mean
    SMPL-X body from the user's files, and the head is None. note: receives lines for the user and the report.
    """
    told = phenotype_from_text(inputs.text)
    if config.body != "anny":
        if config.photo_weight:
            note("the photo's face is painted on the body 'anny' only: here the prior alone draws it")
        return smplx_body(config.body), None
    if not config.photo_weight:
        return anny_body(told), None
    clearest = inputs.photos.index(inputs.identity)
    open_mouth = config.expression == "photo"
    return photo_head(inputs.photos, clearest, inputs.text, told, config.photo_weight, open_mouth)


def read_splats(
    path: Path, config: Config, progress: Progress, note: Callable[[str], None]
) -> RegisteredSplats:
    """The person in a file of 3D Gaussians, in the body's A-pose. note: receives lines for the user and the
    report. Raises UserError for a body other than Anny, and for files without a person."""
    if config.body != "anny":
        raise UserError("--init registers a person to the body 'anny' only: omit --set body")
    progress.log(f"registering {path} to the body")
    return register_splats(load(path), path.name, note)


def _run_stages(session: Session, context: RunContext, live: LiveView | None) -> Avatar:
    """SEID, the refinement and the fit of SCR, from the last checkpoint if there is one; then the files."""
    guide, config, ranks = context.guide, context.config, session.ranks
    checkpoint = session.resume(checkpoint_phases(guide))
    phase, step = ("seid", 0) if checkpoint is None else (checkpoint.name, int(checkpoint.meta["step"]))
    targets: Targets | None = None
    views: Tensor | None = None
    splats = context.splats
    begins = checkpoint is None and guide.prior.shows_depth
    if phase == "views" or (begins and (splats is None or splats.avatar.colors is None)):
        views = _sample_views(session, guide, checkpoint)
        phase, step = "seid", 0
    elif phase == "start":
        assert checkpoint is not None
        views, phase, step = checkpoint.state["views"], "seid", 0
    with session.unsaved("compile"):
        context.kernels.result()
    if splats is not None and (views is not None or checkpoint is None):
        session.progress.log("light and materials")
        with session.unsaved("start"):
            state = start_from_splats(splats, guide, views, session.device, ranks)
        phase = "refine"
    elif views is not None:
        state = _start(session, guide, views)
    elif checkpoint is None:
        state = initial_state(guide.body, config.seid, config.seed, session.device)
    else:
        packed = checkpoint.state
        state = TrainState.unpack(packed["state"], new_head(config.seid, config.seed), session.device)
        if "targets" in packed:
            targets = Targets.unpack(packed["targets"], session.device)

    def pack() -> dict[str, Any]:
        packed = {"state": state.pack()}
        return packed if targets is None else {**packed, "targets": targets.pack()}

    def show() -> np.ndarray:
        avatar = _avatar(state, context)
        if live is not None:
            live.show(avatar)
        return preview(avatar, guide.body.height, PREVIEW_SIZE)

    if live is not None and ranks.is_main:
        live.show(_avatar(state, context))
    if checkpoint is None or checkpoint.name in ("views", "start"):
        session.save(phase, step, pack())

    if phase == "seid":
        with session.training("seid", "SEID", config.seid.steps, step, pack, show, state.optimizer):
            seid(state, guide, step, session.after_step, ranks)
        phase, step = "refine", 0
        session.save(phase, step, pack())
        _release_memory(guide.prior)
    if targets is None:
        session.progress.start("SCR views", config.scr.refine_steps * len(orbits(config.scr)))
        # Takes seconds, so it has no checkpoints: a run stopped here resumes from the one above.
        with session.unsaved("refine"):

            def after_refining(done: int, total: int) -> None:
                session.progress.step(done)
                session.check_stop()

            targets = make_targets(state, guide, after_refining)
            ranks.broadcast(targets.images)
        phase, step = "fit", 0
        session.save(phase, step, pack())
        _release_memory(guide.prior)
    with session.training(
        "fit", "SCR fit", config.scr.fit_steps, step, pack, show, state.optimizer, before=config.seid.steps
    ):
        fit_targets(state, guide, targets, context.perceptual, step, session.after_step, ranks)
    session.save(phase, config.scr.fit_steps, pack())
    finished = _finish(session, context, state)
    if live is not None and ranks.is_main:
        live.finish(finished)
    return finished


def _sample_views(session: Session, guide: Guide, checkpoint: Checkpoint | None) -> Tensor:
    """The views from which SEID starts, kept in a checkpoint. checkpoint: of the sampling, to go on from."""
    start = guide.config.start
    begun = None if checkpoint is None else (int(checkpoint.meta["step"]), checkpoint.state["latents"])
    steps = len(sampling_timesteps(guide.prior, start.ddim_steps, start.last_timesteps))
    session.progress.start("SEID views", steps, 0 if begun is None else begun[0])
    with session.unsaved("views"):

        def after_sampling(done: int, total: int) -> None:
            session.progress.step(done)
            session.check_stop()

        def keep(done: int, latents: Tensor) -> None:
            session.offer("views", done, {"latents": latents})

        views = sample_start(guide, after_sampling, begun, keep)
        session.ranks.broadcast(views)
    session.save("start", 0, {"views": views})
    _release_memory(guide.prior)
    return views


def _start(session: Session, guide: Guide, views: Tensor) -> AvatarState:
    """SEID's first state, fitted to sampled views."""
    # Takes less than a minute on two cores: a run stopped here starts the fit again, from the views.
    session.progress.start("SEID start", guide.config.start.fit.steps)
    with session.unsaved("start"):

        def after_fitting(done: int, metrics: StepMetrics) -> None:
            session.progress.step(done)
            session.check_stop()

        return start_from(views, guide, session.device, after_fitting, session.ranks)


def _release_memory(prior: Prior) -> None:
    """Between stages: CUDA graphs and cached memory that the next stage cannot use."""
    prior.release_graphs()
    if prior.device.type == "cuda":
        torch.cuda.empty_cache()


def _avatar(state: AvatarState, context: RunContext) -> Avatar:
    """The avatar in training; it shares the tensors of `state`."""
    body, config = context.guide.body, context.config
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints.detach().cpu().clone())
    provenance = {
        "text": context.inputs.text,
        "photo": _one_or_all([escaped(photo.path.name) for photo in context.inputs.photos]),
        "preset": config.preset,
        "seed": config.seed,
        "specularip": __version__,
        "height": round(body.height, 4),
    }
    return Avatar(state.gaussians, state.shared, provenance, binding)


def _one_or_all(names: list[str]) -> str | list[str]:
    """For files that have held one photo's name, as readers expect it there."""
    return names[0] if len(names) == 1 else names


def _finish(session: Session, context: RunContext, state: AvatarState) -> Avatar:
    """Write the files of a run folder, the report last: a folder without one is unfinished. Returns the
    avatar, on the CPU."""
    guide, config, perceptual, folder = context.guide, context.config, context.perceptual, session.folder
    state.shared.requires_grad_(False).eval()
    detached = state.gaussians.select(torch.arange(len(state), device=session.device))
    head = state.shared
    if context.splats is not None:
        detached, head = with_given_head(detached, head, context.splats)
    gaussians, expressions = rigged(detached, guide.body)
    avatar = replace(_avatar(state, context), gaussians=gaussians, head=head, expressions=expressions)
    finished = avatar.to("cpu")
    if not session.ranks.is_main:
        return finished
    session.progress.log("writing the avatar and its turntable")
    with session.unsaved("write"):
        avatar.save(folder.path)
        avatar.export(folder.path / "avatar.ply")
        session.write_preview(preview(avatar, guide.body.height, 2 * PREVIEW_SIZE))
        write_video(
            turntable(avatar, config.turntable_frames, config.turntable_size), folder.path / "turntable.mp4"
        )
    fitted = None if context.head is None else context.head.fitted
    session.write_report(
        {
            "text": context.inputs.text,
            "text_read": guide.text,
            "image": _one_or_all([str(photo.path) for photo in context.inputs.photos]),
            "settings": config,
            "phenotype": fitted.phenotype if fitted else phenotype_from_text(context.inputs.text),
            "head": fitted and {"shape": fitted.shape.tolist(), "landmark errors": fitted.errors.tolist()},
            "perceptual_loss": perceptual.name if perceptual is not None else "none",
            "perceptual_note": OWN_FEATURES
            if perceptual is not None and perceptual.name != "lpips-vgg"
            else "",
            "init": context.splats
            and {
                "file": str(context.inputs.init),
                "silhouette_iou": context.splats.fitted.silhouette_iou,
            },
            "gaussians": len(avatar.gaussians),
            "dtype": str(guide.prior.dtype).removeprefix("torch."),
        }
    )
    return finished
