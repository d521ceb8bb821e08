"""What Ray costs and brings to a batch, and how soon finished jobs are recognised.

    python benchmarks/batch.py ray                  # 16 tiny jobs: this process, one worker, two workers
    python benchmarks/batch.py finished             # 10,000 jobs that are done
    python benchmarks/batch.py gpus                 # compact preset on the GPUs: one worker, one a GPU
    python benchmarks/batch.py gpus --per-gpu 4     # ... four on each GPU

Each figure is of the whole command `specularip batch`, with the start of Python, of Ray and of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from tiny_batches import TINY_SETTINGS  # noqa: E402

from specularip.batch.journal import digest  # noqa: E402
from specularip.batch.read_jobs import Defaults, read_jobs  # noqa: E402

FACE = ROOT / "examples" / "eileen_collins.jpg"
TEXT = "A woman in a red satin dress"
LONGER = (
    "seid.steps=300",
    "seid.render_size=64",
    "seid.points=1500",
    "seid.max_points=2000",
    "scr.fit_steps=150",
)
"""On top of TINY_SETTINGS: some ten seconds a job, a tenth of an avatar on one core."""


def run(jobs: Path, out: Path, *options: str, threads: int | None = None) -> float:
    """Seconds of the command. Exits if it fails."""
    environment = dict(os.environ)
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "SPECULARIP_NUM_THREADS"), str(threads))
    command = [sys.executable, "-m", "specularip", "batch", str(jobs), "--out", str(out), *options]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - began


def save_prior(folder: Path) -> Path:
    """In a process of its own: torch's memory in this one would count as its children's."""
    code = "import sys, pathlib, tiny_batches; tiny_batches.save_tiny_prior(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], cwd=ROOT / "tests", check=True)
    return folder


def write_jobs(path: Path, count: int) -> Path:
    """A job file of one text and photo with the seeds 0, 1..."""
    rows = [f"{TEXT},{FACE},{seed},job-{seed}\n" for seed in range(count)]
    path.write_text("text,image,seed,name\n" + "".join(rows))
    return path


def ray_overhead(folder: Path, count: int) -> None:
    jobs = write_jobs(folder / "jobs.csv", count)
    prior = save_prior(folder / "prior")
    settings = ("--no-pages", "--force", "--set", f"prior.path={prior}", *TINY_SETTINGS, *LONGER)
    run(write_jobs(folder / "one.csv", 1), folder / "warm", *settings, threads=1)  # compiles the kernels
    loop = run(jobs, folder / "loop", *settings, threads=1)
    one = run(jobs, folder / "one", "--ray", "--workers", "1", *settings)
    two = run(jobs, folder / "two", "--ray", "--workers", "2", *settings)
    print(f"{count} jobs, one thread each")
    print(f"  this process        {loop:7.1f} s")
    print(f"  Ray, one worker     {one:7.1f} s   overhead {one / loop - 1:+.1%}")
    print(f"  Ray, two workers    {two:7.1f} s   {one / two:.2f} times one worker")
    for name in ("one", "two"):
        check_equal(folder / "loop", folder / name, count)


def check_equal(a: Path, b: Path, count: int) -> None:
    """Exit unless the avatars of both batches are the same, bit for bit."""
    for seed in range(count):
        files = [(batch / f"job-{seed}" / "avatar.safetensors").read_bytes() for batch in (a, b)]
        if files[0] != files[1]:
            sys.exit(f"job-{seed} differs between {a} and {b}")
    print(f"  the {count} avatars in {a.name} and {b.name} are equal, bit for bit")


def finished(folder: Path, count: int) -> None:
    jobs = write_jobs(folder / "jobs.csv", count)
    out = folder / "out"
    prior = save_prior(folder / "prior")
    given = f"prior.path={prior}", *TINY_SETTINGS
    settings = ("--no-pages", "--force", "--set", *given)
    run(write_jobs(folder / "one.csv", 1), out, *settings)
    journal = json.loads((out / "batch.jsonl").read_text().splitlines()[-1])
    report = (out / "job-0" / "report.json").read_text()
    lines = []
    for job in read_jobs(jobs, Defaults(force=True, settings=given))[1:]:
        target = out / job.name
        target.mkdir()
        (target / "report.json").write_text(report.replace('"seed": 0', f'"seed": {job.seed}'))
        shutil.copyfile(out / "job-0" / "metrics.jsonl", target / "metrics.jsonl")
        os.link(out / "job-0" / "preview.png", target / "preview.png")
        lines.append(json.dumps({**journal, "job": job.name, "digest": digest(job)}) + "\n")
    with (out / "batch.jsonl").open("a") as file:
        file.writelines(lines)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    probe = (
        "import resource, sys; from specularip.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", probe, "batch", str(jobs), "--out", str(out), *settings]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stdout.splitlines()[-1]) / 1024
    page = (out / "index.html").stat().st_size / 1e6
    print(
        f"{count} finished jobs: {seconds:.1f} s ({cpu:.1f} s of CPU), {peak:.0f} MB, page of {page:.1f} MB"
    )


def gpus(folder: Path, count: int, per_gpu: int) -> None:
    import torch

    jobs = write_jobs(folder / "jobs.csv", count)
    settings = ("--no-pages", "--set", "device=cuda")
    available = torch.cuda.device_count()
    workers = available * per_gpu
    threads = str(max(1, min(8, len(os.sched_getaffinity(0)) // workers)))
    cluster = ("--ray", "--gpus-per-worker", f"{1 / per_gpu:g}", "--cpus-per-worker", threads)
    # All workers, once: the first run on a machine compiles kernels.
    run(write_jobs(folder / "warm.csv", workers), folder / "warm", *cluster, *settings)
    one = run(jobs, folder / "one", *cluster, "--workers", "1", *settings)
    many = run(jobs, folder / "many", *cluster, "--workers", str(workers), *settings)
    gpu = torch.cuda.get_device_name()
    print(f"{count} jobs of the compact preset, {available} {gpu}, {threads} threads a worker")
    print(f"  one worker  {one:7.1f} s   {one / count:.1f} s an avatar")
    print(f"  {workers} workers   {many:7.1f} s   {many / count:.1f} s an avatar, {one / many:.2f} times one")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("ray", "finished", "gpus"))
    parser.add_argument("--jobs", type=int, help="16 for ray, 10000 for finished, 8 for gpus")
    parser.add_argument("--per-gpu", type=int, default=1, help="workers on each GPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "ray":
            ray_overhead(folder, arguments.jobs or 16)
        elif arguments.what == "finished":
            finished(folder, arguments.jobs or 10_000)
        else:
            gpus(folder, arguments.jobs or 8, arguments.per_gpu)


if __name__ == "__main__":
    main()
