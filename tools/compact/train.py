"""Train the compact prior on one or several GPUs of a machine.

    torchrun --nproc-per-node GPUS tools/compact/train.py --assets assets.npz --text-encoder FOLDER --out DIR

Every rank renders its own people; the autoencoder learns their images; they are encoded, and the denoiser
learns the latents, while some processes go on rendering. With `--student-seconds`, a student then learns the
guided prediction of the denoiser, so that one evaluation does for two.

The seconds of a stage are in total: `--stop-after` ends the process earlier, and the same command goes on
with the state in WORK. OUT gets the weights of all that is trained (see `weight_files`) every two minutes and
before anything else is done at the end, and two contact sheets: look at them before trusting anything.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path

import torch
import torch.distributed as dist
from assets import Assets
from autoencoding import train_autoencoder
from data import Photographer
from denoising import DenoiserTask, train_denoiser, train_student
from latents import Crew, Latents
from networks import make_prior
from optimisation import Run, save_atomically
from preview import Preview, data_sheet
from torch import nn
from weight_files import copy_trained, load_autoencoder, save_weights, trained

from specularip.diffusion.loading.folder import load_prior
from specularip.diffusion.prior import Prior

CORES_LEFT = 4
"""Cores of each rank that do not render: for what trains, and its compiler."""
FILES_BETWEEN = 2
"""Most files of new people that are encoded between steps."""


def start(args: argparse.Namespace) -> Run:
    """Join the other ranks, and make the folders."""
    local, ranks = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    if ranks > 1:
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    work = args.work or args.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(args.out, work, device, local, ranks)
    run.ends = run.began + args.stop_after
    run.say(f"{ranks} x {torch.cuda.get_device_name() if cuda else 'CPU'}")
    run.say(" ".join(f"{name}={value}" for name, value in vars(args).items()))
    return run


def keep(run: Run, prior: Prior, student: nn.Module | None = None) -> None:
    """Weights to OUT; the student's, if there is one, in place of the denoiser's."""
    tensors = trained(prior)
    if student is not None:
        tensors |= {f"denoiser.unet.{name}": value for name, value in student.state_dict().items()}
    save_weights(tensors, run.out)


def settle_autoencoder(run: Run, prior: Prior, crew: Crew, args: argparse.Namespace) -> bool:
    """Train the autoencoder, or load it if that has been done; returns whether it is complete."""
    path = run.work / "autoencoder.pt"
    if not run.agree(path.exists()):
        if args.autoencoder_seconds > 0:
            batch = 64 if run.device.type == "cuda" else 2
            if not train_autoencoder(run, prior, crew.finished(), args.autoencoder_seconds, batch):
                return False
        if run.first:
            save_atomically(prior.autoencoder.state_dict(), path)
            keep(run, prior)
        run.barrier()
    prior.autoencoder.load_state_dict(torch.load(path, map_location=run.device, weights_only=True))
    prior.autoencoder.requires_grad_(False)
    return True


def stages(run: Run, args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    prior = make_prior(args.text_encoder, run.device).eval()  # without dropout
    prior.denoiser.unet.to(memory_format=torch.channels_last)
    prior.autoencoder.to(memory_format=torch.channels_last)
    if args.autoencoder:
        load_autoencoder(prior, args.autoencoder)
    if args.prior:
        copy_trained(trained(load_prior(args.prior, device=run.device, dtype=torch.float32)), prior)
    task = DenoiserTask(prior, args.batch, args.together)
    data = Latents(run, prior, args.people)
    size = sum(p.numel() for p in task.unet.parameters()) / 1e6
    run.say(f"{size:.1f} M parameters in the UNet; {len(data)} people from before")

    # Rendering and compilation begin together. What could fail at the end is tried here.
    crew = Crew(run, args.assets, prior.tokenizer, args.views, args.seed, args.stop_after)
    first_call = len(data) == 0
    crew.resize(max(1, args.processes // 2) if first_call else args.background)
    task.rehearse()
    run.say("denoiser compiled")
    if run.first:
        photographer = Photographer(Assets.load(args.assets), prior.tokenizer, run.device, args.seed + 99)
        data_sheet(photographer, args.views, run.out / "data.jpg")
        preview = Preview(prior, photographer, args.preview)
        preview.save(task.unet, None, run.out / "sheet.jpg", steps=1)
        run.say("renderer and previews work")
    if first_call:
        crew.resize(args.processes)
        crew.wait(run.began + args.render_seconds)
        run.say(f"{len(crew.finished())} files of people rendered")
    crew.resize(args.background)

    complete = settle_autoencoder(run, prior, crew, args)
    if not complete:
        if run.first:
            keep(run, prior)
        return
    if first_call:
        data.take(crew.finished())
        run.say(f"{len(data)} people encoded")

    def between() -> None:
        data.take(crew.finished()[:FILES_BETWEEN])

    seconds = args.denoiser_seconds
    complete = train_denoiser(run, task, data, seconds, args.rate, between, lambda: keep(run, prior))
    student = None
    if complete and args.student_seconds > 0:
        student = train_student(
            run,
            task,
            data,
            args.student_seconds,
            args.rate * 0.3,
            args.guidance,
            between,
            lambda student: keep(run, prior, student),
        )
    crew.resize(0)
    if run.first:
        preview.save(task.unet, student, run.out / "sheet.jpg")
        for sentence in preview.sentences:
            run.say(sentence)
    run.say("done")
    run.barrier()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--assets", type=Path, required=True)
    add("--text-encoder", type=Path, required=True)
    add("--out", type=Path, required=True)
    add("--work", type=Path, help="fast local folder for data and state (default: OUT/work)")
    add(
        "--stop-after",
        type=float,
        default=math.inf,
        help="seconds after which training stops in this process",
    )
    add(
        "--render-seconds",
        type=float,
        default=150,
        help="rendering before the first training, from the start",
    )
    add("--prior", type=Path, help="a prior's folder, such as the one that ships, to train further")
    add("--autoencoder", type=Path, nargs="+", help="weight files of an earlier training to start from")
    add("--autoencoder-seconds", type=float, default=150, help="0: use --autoencoder as it is")
    add("--denoiser-seconds", type=float, default=800)
    add("--student-seconds", type=float, default=0)
    add("--guidance", type=float, default=2.5, help="scale of the guidance that the student learns")
    add("--people", type=int, default=24_000, help="most people of each rank; the oldest make room")
    add("--views", type=int, default=10, help="rendered views of each person")
    add("--together", type=int, default=6, help="views of a person that are denoised together")
    add("--batch", type=int, default=48, help="people in a batch of each rank")
    add("--rate", type=float, default=5e-4)
    add("--processes", type=int, help="rendering processes of each rank (default: its cores but four)")
    add("--background", type=int, default=4, help="rendering processes of each rank beside the training")
    add("--preview", type=int, default=3, help="people on the contact sheet")
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.autoencoder_seconds == 0 and not (args.autoencoder or args.prior):
        parser.error("--autoencoder-seconds 0 needs --autoencoder or --prior")
    if not args.together <= args.views <= 16:
        parser.error("--together must not exceed --views, nor --views 16")
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    args.processes = args.processes or max(1, (os.cpu_count() or 1) // ranks - CORES_LEFT)
    run = start(args)
    try:
        stages(run, args)
    finally:
        if run.ranks > 1:
            dist.destroy_process_group()


if __name__ == "__main__":
    main()
