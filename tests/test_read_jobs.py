"""Job files of batches: three formats, one meaning; every fault is told, with its line."""

from __future__ import annotations

import csv
import inspect
import io
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import mutate
from PIL import Image

from specularip.batch import job_checks, text_files, yaml_rows
from specularip.batch import read_jobs as batch_jobs
from specularip.batch.faults import MOST_FAULTS, JobFaults
from specularip.batch.job_checks import JobChecks
from specularip.batch.job_names import LONGEST_BYTES, LONGEST_DERIVED, derived_name, folded, name_problem
from specularip.batch.jobs import Job
from specularip.batch.keys import FIELDS, setting_names
from specularip.batch.read_jobs import Defaults, pair_jobs, read_jobs
from specularip.cli import generate
from specularip.errors import UserError

TEXT = "A woman in a red dress"
HEADER = "text,image,name,seed\n"
FACES = ("anna.png", "ben.png", "eva.png")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FACES, in which the tests write their job files."""
    folder = tmp_path_factory.mktemp("jobs")
    for index, name in enumerate(FACES):
        Image.new("RGB", (64, 64), (80 * index, 90, 90)).save(folder / name)
    return folder


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def jobs_of(folder: Path, name: str, content: str | bytes, **defaults: Any) -> list[Job]:
    return read_jobs(write(folder, name, content), Defaults(**defaults))


def faults_of(folder: Path, name: str, content: str | bytes, **defaults: Any) -> tuple[str, ...]:
    with pytest.raises(JobFaults) as caught:
        jobs_of(folder, name, content, **defaults)
    faults = caught.value.faults
    assert str(caught.value).startswith(faults[0]) and all(fault.isprintable() for fault in faults)
    return faults


# What files say


FULL = {
    "text": TEXT,
    "image": ["anna.png", "ben.png"],
    "name": "red",
    "preset": "sd15",
    "seed": 7,
    "init": "start.ply",
    "photo_weight": 0.5,
    "low_memory": True,
    "force": True,
    "seid.steps": 30,
    "expression": "photo",
    "seid.orbit.distance": [0.8, 1.1],
}


def as_csv(job: dict[str, Any]) -> str:
    cells = {key: value for key, value in job.items()}
    cells["image"] = " | ".join(job["image"])
    cells["seid.orbit.distance"] = "0.8,1.1"
    cells["low_memory"] = "TRUE"
    out = io.StringIO()
    writer = csv.DictWriter(out, list(cells))
    writer.writeheader()
    writer.writerow(cells)
    return out.getvalue()


def nested(job: dict[str, Any], key: str) -> dict[str, Any]:
    """The job with its settings under `key`."""
    inside = {name: value for name, value in job.items() if name not in FIELDS}
    return {name: value for name, value in job.items() if name in FIELDS} | {key: inside}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("jobs.csv", as_csv(FULL)),
        ("jobs.jsonl", json.dumps(FULL)),
        ("jobs.jsonl", json.dumps(nested(FULL, "settings"))),
        ("jobs.ndjson", json.dumps(nested(FULL, "set"))),
        ("jobs.yaml", yaml.safe_dump([FULL])),
        ("jobs.yml", yaml.safe_dump([nested(FULL, "settings")])),
        ("jobs.yaml", yaml.safe_dump({"jobs": [FULL]})),
    ],
)
def test_all_formats_say_the_same(faces: Path, name: str, content: str) -> None:
    start = write(faces, "start.ply", "a file")
    (job,) = jobs_of(faces, name, content)
    assert replace(job, source="") == Job(
        "red",
        TEXT,
        (faces / "anna.png", faces / "ben.png"),
        "sd15",
        7,
        start,
        0.5,
        True,
        True,
        ("expression=photo", "seid.orbit.distance=0.8,1.1", "seid.steps=30"),
    )
    assert job.source.startswith(f"{name}, line ")


def test_the_command_gives_what_jobs_do_not_say(faces: Path) -> None:
    given = Defaults("sd15", 5, 0.25, True, True, ("seid.steps=30", "expression=photo"))
    content = "text,image,seed,photo_weight,low_memory,force,preset,seid.steps\n"
    content += f"{TEXT},anna.png,,,,,,\n{TEXT},ben.png,0,1,false,no,compact,40\n"
    first, second = read_jobs(write(faces, "jobs.csv", content), given)
    assert (first.preset, first.seed, first.photo_weight) == ("sd15", 5, 0.25)
    assert first.low_memory and first.force and first.settings == ("expression=photo", "seid.steps=30")
    assert (second.preset, second.seed, second.photo_weight) == ("compact", 0, 1.0)
    assert not second.low_memory and not second.force
    assert second.settings == ("expression=photo", "seid.steps=40")


def test_a_yaml_file_has_defaults_of_its_own(faces: Path) -> None:
    content = f"""
defaults:
  text: {TEXT}
  seed: 3
  settings: {{seid: {{steps: 30}}, expression: photo}}
jobs:
  - image: anna.png
  - {{image: ben.png, seed: 0, seid.steps: 40}}
  - image: &eva [eva.png, ben.png]
  - {{image: *eva, seed: ~, text: A man in a blue coat}}
"""
    jobs = jobs_of(faces, "jobs.yaml", content, seed=9, settings=("turntable_size=64",))
    assert [job.seed for job in jobs] == [3, 0, 3, 3]
    assert [job.source for job in jobs] == [f"jobs.yaml, line {line}" for line in (7, 8, 9, 10)]
    assert jobs[0].settings == ("expression=photo", "seid.steps=30", "turntable_size=64")
    assert "seid.steps=40" in jobs[1].settings and "seid.steps=30" not in jobs[1].settings
    assert jobs[2].images == jobs[3].images == (faces / "eva.png", faces / "ben.png")
    assert jobs[3].text == "A man in a blue coat"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_of_all_spreadsheets(faces: Path, encoding: str, delimiter: str, end: str) -> None:
    text = f'A woman, café-brown hair; "red" dress{end}and\tboots'
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end)
    writer.writerows([["Prompt", "Image", "Photo weight", ""], [], [text, "anna.png", "0.5", ""]])
    writer.writerows([["", "", "", ""], [TEXT, "ben.png"], [TEXT, "eva.png", "1", "", "", ""]])
    mark = b"" if encoding in ("utf-8", "utf-8-sig", "utf-16") else "\ufeff".encode(encoding)
    jobs = jobs_of(faces, "jobs.csv", mark + out.getvalue().encode(encoding))
    assert [job.text for job in jobs] == ['A woman, café-brown hair; "red" dress and boots', TEXT, TEXT]
    assert [job.photo_weight for job in jobs] == [0.5, None, 1.0]
    assert [job.source[-1] for job in jobs] == ["3", "6", "7"]


def test_a_first_line_may_name_the_separator(faces: Path) -> None:
    (job,) = jobs_of(faces, "jobs.csv", f"sep=;\r\ntext;image\r\n{TEXT};anna.png\r\n")
    assert job.source == "jobs.csv, line 3"
    assert faults_of(faces, "jobs.csv", "sep=;\r\ntext;image\r\n;anna.png\r\n")[0].startswith(
        "jobs.csv, line 3: there is no text"
    )


def test_paths_start_at_the_job_file(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(faces))
    inner = faces / "inner"
    inner.mkdir(exist_ok=True)
    lines = [f"{TEXT},{path},\n" for path in ("../anna.png", "~/ben.png", faces / "eva.png")]
    jobs = jobs_of(inner, "jobs.csv", "text,image,init\n" + "".join(lines))
    assert [job.images[0].resolve() for job in jobs] == [(faces / name).resolve() for name in FACES]
    assert all(path.is_absolute() for job in jobs for path in job.images)
    monkeypatch.chdir(inner)
    assert read_jobs(Path("jobs.csv")) == jobs


def test_one_file_in_a_batch_of_its_own_copy(faces: Path, tmp_path: Path) -> None:
    """Names do not depend on where the files are."""
    content = f"text,image\n{TEXT},anna.png\n"
    (tmp_path / "anna.png").write_bytes((faces / "anna.png").read_bytes())
    assert jobs_of(faces, "a.csv", content)[0].name == jobs_of(tmp_path, "b.csv", content)[0].name


# Round trips

PROMPTS = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\r\t,;\"'#|: -"), max_size=40
)


@given(st.lists(PROMPTS, min_size=1, max_size=4))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prompts_survive_all_formats(faces: Path, prompts: list[str]) -> None:
    texts = [f"{TEXT} {prompt}" for prompt in prompts]
    rows = [{"text": text, "image": "anna.png", "seed": index} for index, text in enumerate(texts)]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["text", "image", "seed"])
    writer.writeheader()
    writer.writerows(rows)
    files = {
        "trip.csv": out.getvalue(),
        "trip.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        "trip.ndjson": "".join(json.dumps(row) + "\r\n" for row in rows),
        "trip.yaml": yaml.safe_dump(rows, allow_unicode=True),
        "trip.yml": yaml.safe_dump(rows),
    }
    names = set()
    for name, content in files.items():
        jobs = jobs_of(faces, name, content)
        assert [job.text for job in jobs] == [" ".join(text.split()) for text in texts], name
        names.add(tuple(job.name for job in jobs))
    assert len(names) == 1


# Pairs


def test_pairs(faces: Path) -> None:
    texts = write(faces, "texts.txt", f'\ufeff# ages\r\n{TEXT}\r\n\r\nA man, in a "blue" coat\r\n')
    images = write(faces, "images.txt", "anna.png\n  # none\nben.png | eva.png\n")
    jobs = pair_jobs(texts, images, "zip")
    assert [job.text for job in jobs] == [TEXT, 'A man, in a "blue" coat']
    assert [[path.name for path in job.images] for job in jobs] == [["anna.png"], ["ben.png", "eva.png"]]
    assert jobs[1].source == "texts.txt, line 4 and images.txt, line 3"
    product = pair_jobs(texts, images, "product", Defaults(seed=4))
    assert [(job.text, job.images) for job in product] == [
        (text.text, face.images) for text in jobs for face in jobs
    ]
    assert {job.seed for job in product} == {4} and len({job.name for job in product}) == 4


def test_photos_are_relative_to_their_own_list(faces: Path, tmp_path: Path) -> None:
    texts = write(tmp_path, "texts.txt", TEXT)
    (job,) = pair_jobs(texts, write(faces, "images.txt", "anna.png"), "product")
    assert job.images == (faces / "anna.png",)


def pair_faults(folder: Path, texts: str, images: str, pair: Any) -> tuple[str, ...]:
    with pytest.raises(JobFaults) as caught:
        pair_jobs(write(folder, "texts.txt", texts), write(folder, "images.txt", images), pair)
    return caught.value.faults


def test_faults_of_pairs(faces: Path) -> None:
    faults = pair_faults(faces, f"{TEXT}\nXqzt\n{TEXT}\n", "anna.png\nno.png\nanna.png\n", "product")
    assert [fault.partition(": ")[0] for fault in faults] == [
        "texts.txt, line 2", "texts.txt, line 3", "images.txt, line 2", "images.txt, line 3",
    ]  # fmt: skip
    assert "no word of 'Xqzt'" in faults[0] and faults[1].endswith("is the same as line 1: give it once")
    (fault,) = pair_faults(faces, f"{TEXT}\nA man\n", "anna.png\nben.png\neva.png", "zip")
    assert fault.startswith("images.txt: 3 photos for the 2 prompts of texts.txt")
    (fault,) = pair_faults(faces, f"{TEXT}\n{TEXT}\n", "anna.png\n./anna.png", "zip")
    assert "texts.txt, line 2 and images.txt, line 2: is the same job as texts.txt, line 1" in fault
    faults = pair_faults(faces, "# nothing\n", "\n", "product")
    assert faults == ("texts.txt: holds no prompts", "images.txt: holds no paths of photos")


# Names


def test_names_tell_the_job(faces: Path) -> None:
    content = HEADER + f"{TEXT},anna.png,,\n{TEXT},anna.png,,7\n{TEXT},ben.png,given,\n"
    names = [job.name for job in jobs_of(faces, "jobs.csv", content)]
    assert names[0].startswith("a-woman-in-a-red-dress-anna-")
    assert names[1].startswith("a-woman-in-a-red-dress-anna-7-")
    assert names[2] == "given"


def test_names_do_not_depend_on_other_jobs(faces: Path) -> None:
    lines = [f'"{text}",{face},,{seed}\n' for text in (TEXT, f"{TEXT}!") for face in FACES for seed in (0, 1)]
    name_of = {line: jobs_of(faces, "jobs.csv", HEADER + line)[0].name for line in lines}
    assert len(set(name_of.values())) == len(lines)
    random.Random(1).shuffle(lines)
    assert [job.name for job in jobs_of(faces, "jobs.csv", HEADER + "".join(lines))] == [
        name_of[line] for line in lines
    ]


def test_names_change_with_what_changes_the_result(faces: Path) -> None:
    content = f"text,image\n{TEXT},anna.png\n"
    name = jobs_of(faces, "jobs.csv", content)[0].name
    for changed in ({"preset": "sd15"}, {"photo_weight": 0.5}, {"settings": ("seid.steps=3",)}, {"seed": 2}):
        assert jobs_of(faces, "jobs.csv", content, **changed)[0].name != name
    assert jobs_of(faces, "jobs.csv", content, low_memory=True, force=True)[0].name == name


@given(st.text(max_size=300), st.text(max_size=80), st.integers(0, 2**63 - 1))
@settings(max_examples=200)
def test_derived_names_are_folders_everywhere(text: str, image: str, seed: int) -> None:
    name = derived_name(text, [image], seed, [])
    assert len(name) <= LONGEST_DERIVED and name.isascii() and name == name.lower()
    assert name_problem(name) == "" and name == derived_name(text, [image], seed, [])


@pytest.mark.parametrize(
    "name",
    [
        "a/b", "a\\b", "..", ".", ".lock", ".hidden", "con", "NUL.txt", "COM1", "lpt9.a", "trailing.", "a:b",
        "a?", "a\u202eb", "summary", "Summary", "index.html", "summary.csv", "batch.jsonl", "unfinished-3",
        "x" * (LONGEST_BYTES + 1), "é" * LONGEST_BYTES,
    ],
)  # fmt: skip
def test_names_that_folders_cannot_have(faces: Path, name: str) -> None:
    (fault,) = faults_of(faces, "jobs.jsonl", json.dumps({"text": TEXT, "image": "anna.png", "name": name}))
    assert fault.startswith("jobs.jsonl, line 1: name ")


@pytest.mark.parametrize(
    "name", ["red", "Rot 2", "ünï", "红", "console", "summary-2", "a.b", "x" * LONGEST_BYTES]
)
def test_names_that_folders_can_have(faces: Path, name: str) -> None:
    (job,) = jobs_of(faces, "jobs.csv", f'text,image,name\n{TEXT},anna.png," {name} "\n')
    assert job.name == name


def test_names_that_some_systems_take_for_the_same(faces: Path) -> None:
    rows = [
        {"text": TEXT, "image": face, "name": name} for face, name in zip(FACES, ("Zoë", "ZOE\u0308", "zoe"))
    ]
    (fault,) = faults_of(faces, "jobs.jsonl", "\n".join(map(json.dumps, rows)))
    assert fault.startswith("jobs.jsonl, line 2: ") and "is that of jobs.jsonl, line 1" in fault
    assert folded("Zoë") != folded("zoe")


def test_a_job_twice(faces: Path) -> None:
    (faces / "link.png").unlink(missing_ok=True)
    (faces / "link.png").symlink_to(faces / "anna.png")
    lines = [f"{TEXT},anna.png,,0\n", f"{TEXT},ben.png,,\n", f" {TEXT} ,./link.png,,\n"]
    (fault,) = faults_of(faces, "jobs.csv", HEADER + "".join(lines))
    assert fault == ("jobs.csv, line 4: is the same job as jobs.csv, line 2: remove one, or give each a name")
    lines[2] = lines[0].replace(",,", ",again,")
    assert len(jobs_of(faces, "jobs.csv", HEADER + "".join(lines))) == 3


def test_jobs_on_one_line_are_told_apart(faces: Path) -> None:
    one = f"text: {TEXT}, image: anna.png"
    found = faults_of(faces, "jobs.yaml", f"[{{{one}}}, {{{one}}}, {{{one}, name: a}}, {{{one}, name: A}}]")
    assert found == (
        "jobs.yaml, line 1: the name 'A' is that of jobs.yaml, line 1, 'a', which is the same to some "
        "systems: give another",
        "jobs.yaml, line 1: is the same job as jobs.yaml, line 1: remove one, or give each a name",
    )


# Faults


def test_every_fault_is_told_with_its_line(faces: Path) -> None:
    content = f"""text,image,seed,photo_weight,preset,seid.steps,seid.stepps,low_memory
{TEXT},anna.png,x,,,,,
{TEXT},no.png,,,,,,
,anna.png,,,,,,
"A woman
in red",ben.png,-1,2,full,0,,maybe
Xqzt bfrr,eva.png,,,,,,
{TEXT},,,"0,5",,many,,
{TEXT},eva.png,1,2,3,4,5,6,7
{TEXT},anna.png|anna.png,,,,,,
"""
    assert faults_of(faces, "jobs.csv", content) == (
        "jobs.csv, line 1: there is no column 'seid.stepps': did you mean seid.steps?",
        "jobs.csv, line 2: seed must be a whole number, got 'x'",
        f"jobs.csv, line 3: {faces / 'no.png'} does not exist: check the path of the photo",
        "jobs.csv, line 4: there is no text: describe the person, as in 'A woman in a red satin dress'",
        "jobs.csv, line 5: preset must be compact or sd15, got 'full'",
        "jobs.csv, line 5: seed must lie between 0 and 9223372036854775807, got -1",
        "jobs.csv, line 5: low_memory must be true or false, got 'maybe'",
        "jobs.csv, line 5: photo_weight must lie between 0 and 1, got 2",
        "jobs.csv, line 5: seid.steps must lie between 1 and 1000000, got 0",
        "jobs.csv, line 7: no word of 'Xqzt bfrr' is understood: describe in English the person, clothes, "
        "their colours and materials, and the hair, as in 'A woman in a red satin dress', or go on anyway "
        "with --force",
        "jobs.csv, line 8: photo_weight must be a number, with a decimal point, got '0,5'",
        "jobs.csv, line 8: there is no image: give the path of a photo of the person's face",
        "jobs.csv, line 8: seid.steps=many: must be a whole number",
        "jobs.csv, line 9: 9 cells, and the header names 8 columns: put a text that has commas in double "
        "quotes",
        f"jobs.csv, line 10: {faces / 'anna.png'} and {faces / 'anna.png'} are the same photo: give each "
        "only once",
    )


ONE = {"text": TEXT, "image": "anna.png"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"imgae": "x"}, "there is no key 'imgae': did you mean image?"),
        ({"steps": 3}, "there is no key 'steps': did you mean "),
        ({"\x1b[31m": 3}, r"there is no key '\x1b[31m': known are text, image"),
        ({"prompt": TEXT}, "text is given twice"),
        ({"settings": {"seid.steps": 3}, "seid.steps": 4}, "seid.steps is given twice"),
        ({"settings": {"seid.setps": 3}}, "there is no setting 'seid.setps': did you mean seid.steps?"),
        ({"settings": {"seed": 3}}, "seed is a key of its own"),
        ({"settings": ["seid.steps"]}, "settings must be a mapping, or a list of texts NAME=VALUE"),
        ({"settings": "seid.steps=3"}, "settings must be a mapping"),
        ({"seid.steps": "3.5"}, "seid.steps=3.5: must be a whole number"),
        ({"seid.steps": {"a": 1}}, "seid.steps must be a text"),
        ({"seid.orbit.distance": [1, 2]}, "seid.orbit.distance=1,2: 'orbit' has no settings in it"),
        ({"seid.top_timestep": 9, "seid.bottom_timestep": 9}, "seid.bottom_timestep must be below"),
        ({"expression": "smile"}, "expression=smile: must be neutral or photo"),
        ({"text": ["a", "b"]}, "text must be a text"),
        ({"text": " \n "}, "there is no text"),
        ({"text": f"{TEXT} \x00"}, "text holds a control character"),
        ({"text": f"{TEXT} " * 1000}, "characters: give at most 5,000"),
        ({"image": []}, "there is no image"),
        ({"image": {"a": 1}}, "image must be a text"),
        ({"image": ["anna.png", ""]}, "image must not be empty"),
        ({"image": ["anna.png"] * 9}, "9 photos: give 1 to 8 of one person"),
        ({"image": "."}, "is a folder: give an image file"),
        ({"image": "no image.png"}, "is damaged or not an image of a supported format"),
        ({"image": "tiny.png"}, "is only 20x20 pixels"),
        ({"image": "x" * 3000}, "cannot be read"),
        ({"image": "https://example.com/anna.jpg"}, "is an address: download it"),
        ({"image": "~nobody-by-this-name/anna.png"}, "the home folder is unknown"),
        ({"init": "no.ply"}, "no avatar there"),
        ({"init": "x" * 3000}, "cannot be read"),
        ({"init": ["a"]}, "init must be a text"),
        ({"seed": 1.5}, "seed must be a whole number, got '1.5'"),
        ({"seed": True}, "seed must be a whole number, got 'true'"),
        ({"seed": 2**63}, "seed must lie between 0 and"),
        ({"seed": float("inf")}, "seed must be a whole number"),
        ({"photo_weight": float("nan")}, "photo_weight must lie between 0 and 1, got nan"),
        ({"force": 2}, "force must be true or false, got '2'"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "yaml"])
def test_faults(faces: Path, changes: dict[str, Any], problem: str, form: str) -> None:
    write(faces, "no image.png", "hello")
    Image.new("RGB", (20, 20)).save(faces / "tiny.png")
    job = ONE | changes
    if form == "jsonl":
        content = "\n" + json.dumps(job)
    else:  # JSON in one line is YAML, but for the names of numbers that are none
        content = "\n- " + json.dumps(job).replace("Infinity", ".inf").replace("NaN", "nan")
    (fault,) = faults_of(faces, f"jobs.{form}", content)
    assert fault.startswith(f"jobs.{form}, line 2: ") and problem in fault, fault


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        ("", ["jobs.csv: holds no jobs"]),
        ("\n \n", ["jobs.csv: holds no jobs"]),
        ("text,image\n", ["jobs.csv: holds no jobs"]),
        (f"text\n{TEXT}\n", ["jobs.csv, line 1: there is no column image, only text"]),
        ("a,b\n1,2\n", ["line 1: there is no column 'a'", "column 'b'", "column image", "column text"]),
        (f"text,image,prompt\n{TEXT},anna.png,\n", ["line 1: there are two columns text"]),
        (f"text,image,seed,SEED\n{TEXT},anna.png,1,2\n", ["line 1: there are two columns seed"]),
        (f"text,image,set\n{TEXT},anna.png,\n", ["line 1: a setting is a column named as seid.steps is"]),
        (f'text,image\n"{TEXT},anna.png\n', ["line 2: a double quote is opened here or below"]),
        (f'text,image\n"{TEXT}" x,anna.png\n,anna.png\n', ["line 2: within a", "line 3: there is no"]),
        (f"text,image,\n{TEXT},anna.png,x\n", ["line 2: 3 cells, and the header names 2 columns"]),
        (f'text,image\n"{TEXT}{"x" * 140_000}\n', ["line 2: is no CSV"]),
        (f"text;image\n{TEXT};anna.png;red;long\n", ["line 2: 4 cells", ]),
        (b"text,image\ncaf\xe9,a\nb,\xe9\n", ["line 2: byte 0xe9 is not UTF-8", "line 3: byte 0xe9"]),
        (b"text,image\nb\0,a\n", ["line 2: holds a NUL character"]),
        (b"\xff\xfet\0e\0x", ["jobs.csv: is damaged UTF-16"]),
    ],
)  # fmt: skip
def test_faults_of_csv(faces: Path, content: str | bytes, faults: list[str]) -> None:
    found = faults_of(faces, "jobs.csv", content)
    assert len(found) == len(faults) and all(one in all_of_it for one, all_of_it in zip(faults, found)), found


@pytest.mark.parametrize(
    ("name", "content", "faults"),
    [
        ("jobs.jsonl", "\n\n", ["jobs.jsonl: holds no jobs"]),
        ("jobs.jsonl", '{"text": \n[1]\n3\n', ["line 1: is no JSON", "line 2: must be", "line 3: must"]),
        ("jobs.jsonl", r'{"text": "A man \ud800", "image": ""}', ["text holds", "there is no image"]),
        ("jobs.jsonl", "[" * 100_000, ["line 1: is nested too deeply"]),
        ("jobs.jsonl", '{"text":' * 100_000, ["line 1: is nested too deeply"]),
        ("jobs.jsonl", '{"seed": 1' + "0" * 9000 + "}", ["seed must be", "no text", "no image"]),
        ("jobs.jsonl", '{"text": "a", "text": "b"}', ["given twice", "no image", "no word of 'b'"]),
        ("jobs.yaml", "# nothing\n", ["jobs.yaml: holds no jobs"]),
        ("jobs.yaml", "jobs:\n", ["jobs.yaml: holds no jobs"]),
        ("jobs.yaml", "hello", ["line 1: must be a list of jobs"]),
        ("jobs.yaml", "- 3\n- [a]\n- a: [\n", ["line 1: must be", "line 2: must be", "line 4: is no YAML"]),
        ("jobs.yaml", "a: 3\njobs: 4\ndefaults: []\n", ["1: 'a' is", "2: jobs must", "3: defaults"]),
        ("jobs.yaml", "jobs: []\njobs: []\n", ["line 2: jobs is given twice"]),
        ("jobs.yaml", "defaults: {name: a, seed: x}\njobs: []", ["line 1: name cannot be the same"]),
        ("jobs.yaml", "- &a\n  text: *a\n", ["line 2: alias 'a' stands for nothing"]),
        ("jobs.yaml", "- text: !!python/object:os.system x\n", ["line 1: the tag 'tag:yaml.org,2002:python"]),
        ("jobs.yaml", "- {<<: {a: 1}}\n", ["line 1: << is not read: put what jobs share under defaults"]),
        ("jobs.yaml", "- {[a]: 1}\n", ["line 1: a key must be a text"]),
        ("jobs.yaml", "[" * 100_000, ["line 1: is nested too deeply"]),
        ("jobs.yaml", "- a: " + "{a: " * 100_000, ["line 1: is nested too deeply"]),
        ("jobs.yaml", "- text: a\n\n---\n- text: b\n", ["there is no image", "no word", "line 4: is a"]),
        ("jobs.yaml", "- text: 'a\n", ["line 2: is no YAML"]),
        ("jobs.yaml", "\n- text: \x07\n", ["line 2: is no YAML"]),
        ("jobs.yaml", '- text: "\\UFFFFFFFF"\n', ["is no YAML"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("loader", ["CSafeLoader", "SafeLoader"])
def test_faults_of_json_and_yaml(
    faces: Path, name: str, content: str, faults: list[str], loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(yaml, loader):
        pytest.skip("PyYAML was built without libyaml")
    monkeypatch.setattr(yaml_rows, "LOADER", getattr(yaml, loader))
    found = faults_of(faces, name, content)
    assert len(found) == len(faults) and all(one in all_of_it for one, all_of_it in zip(faults, found)), found


def test_a_fault_of_defaults_is_told_once(faces: Path) -> None:
    jobs = "".join(f"- {{image: {face}}}\n" for face in FACES)
    content = f"defaults: {{text: {TEXT}, seed: x,\n  seid.steps: 0}}\njobs:\n{jobs}"
    assert faults_of(faces, "jobs.yaml", content) == (
        "jobs.yaml, line 1: seed must be a whole number, got 'x'",
        "jobs.yaml, line 2: seid.steps must lie between 1 and 1000000, got 0",
    )


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"preset": "full"}, "there is no preset 'full'"),
        ({"seed": -1}, "--seed must lie between"),
        ({"photo_weight": 2.0}, "--photo-weight must lie between"),
        ({"settings": ("seid.setps=1",)}, "there is no setting 'setps'"),
        ({"settings": ("seid.steps=0",)}, "seid.steps must lie between"),
    ],
)
def test_faults_of_the_command(faces: Path, defaults: dict[str, Any], problem: str) -> None:
    content = f"text,image\n{TEXT},anna.png\n"
    with pytest.raises(UserError, match=problem) as caught:
        jobs_of(faces, "jobs.csv", content, **defaults)
    assert not isinstance(caught.value, JobFaults)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"jobs\.txtx is no job file by its name"):
        read_jobs(tmp_path / "jobs.txtx")
    with pytest.raises(UserError, match="does not exist"):
        read_jobs(tmp_path / "jobs.csv")
    with pytest.raises(UserError, match="cannot be read"):
        read_jobs(tmp_path / f"{'x' * 3000}.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read_jobs(tmp_path / "folder.csv")
    monkeypatch.setattr(text_files, "MOST_BYTES", 1 << 20)
    with pytest.raises(UserError, match="has more than 1 MB"):
        read_jobs(write(tmp_path, "large.csv", "x" * (1 << 20) + "x"))


def test_a_text_without_a_known_word_goes_on_with_force(faces: Path) -> None:
    content = "text,image,force\nXqzt,anna.png,yes\n"
    assert jobs_of(faces, "jobs.csv", content)[0].force
    assert jobs_of(faces, "jobs.csv", content.replace("yes", ""), force=True)[0].force


def test_aliases_cannot_blow_up(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = "".join(
        f"  l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 9)
    )
    monkeypatch.setattr(yaml_rows, "MOST_NODES", 100_000)
    found = faults_of(faces, "jobs.yaml", f"- l0: &l0 [{', '.join(['x'] * 9)}]\n{levels}")
    assert any("is too large, with its aliases" in fault for fault in found)


def test_bombs_end_soon(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little that becomes much: columns, jobs of pairs, lists of lists, and nothing but faults."""
    (fault,) = faults_of(faces, "jobs.csv", "text,image" + "," * 2_000_000 + "\n")
    assert fault.startswith("jobs.csv, line 1: 2,000,002 columns")
    columns = "".join(f",a{i}" for i in range(990)) + "\n" + "x," * 3_000_000
    assert "line 2: 3000001 cells" in faults_of(faces, "jobs.csv", f"text,image{columns}")[-1]
    (fault,) = faults_of(faces, "jobs.jsonl", '{"text": [' + "[]," * 2_000_000 + "[]]}")
    assert fault.startswith("jobs.jsonl, line 1: has more than 1,000,000 characters")
    monkeypatch.setattr(yaml_rows, "MOST_NODES", 50_000)
    assert "too large" in faults_of(faces, "jobs.yaml", "- text: [" + "[]," * 500_000 + "[]]")[0]
    assert len(faults_of(faces, "jobs.jsonl", "{}\n" * 1_000_000)) == MOST_FAULTS


def test_a_batch_has_an_end(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_jobs, "MOST_JOBS", 100)
    prompts = "\n".join(f"{TEXT} {i}" for i in range(10_000))
    (fault,) = pair_faults(faces, prompts, "\n".join(FACES), "product")
    assert fault == "texts.txt, line 34: is beyond 100 jobs: split them into several batches"


# Whatever the bytes


def damaged(form: str, sound: bytes, seed: int) -> bytes:
    return random.Random(seed).randbytes(seed % 200) if seed % 10 == 0 else mutate(sound, seed)


SOUND = {
    "csv": f'text,image,seed,seid.steps\n"{TEXT}, ""long""",anna.png,3,20\n{TEXT},ben.png|eva.png,,\n',
    "tsv": f"text\timage\tphoto_weight\n{TEXT}\tanna.png\t0.5\n",
    "jsonl": "".join(
        json.dumps({"text": TEXT, "image": face, "seed": 5, "set": {"expression": "photo"}}) + "\n"
        for face in FACES
    ),
    "yaml": f"""defaults: &a {{seed: 5, settings: {{seid.steps: 12}}}}
jobs:
  - text: {TEXT}
    image: &faces [anna.png, ben.png]
  - {{text: "{TEXT} \\u00e9", image: *faces, photo_weight: 0.25, name: 'x y'}}
""",
}


@pytest.mark.parametrize("form", SOUND)
def test_any_bytes_are_jobs_or_faults(faces: Path, form: str, seed: int) -> None:
    sound, read = SOUND[form].encode(), 0
    for one in range(seed % 10_000 * 1000, seed % 10_000 * 1000 + 400):
        content = damaged(form, sound, one)
        try:
            read += bool(jobs_of(faces, f"damaged.{form}", content))
        except JobFaults as error:
            assert error.faults and all(fault.isprintable() for fault in error.faults)
        except Exception as error:
            raise AssertionError(f"{form}, seed {one}: {error!r}: {content!r}") from error
    assert 0 < read < 400, "some damage does no harm, most does"


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl", "yaml"]))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_are_faults(faces: Path, content: bytes, form: str) -> None:
    with pytest.raises(JobFaults):
        jobs_of(faces, f"random.{form}", content)


# Ten thousand


def test_ten_thousand_jobs(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text, photo and set of settings is checked once."""
    asked: list[Path] = []
    check = JobChecks.image
    monkeypatch.setattr(JobChecks, "image", lambda self, path: asked.append(path) or check(self, path))
    opened: list[Path] = []
    look = job_checks.check_image_file
    monkeypatch.setattr(job_checks, "check_image_file", lambda path: opened.append(path) or look(path))
    rows = "".join(f"{TEXT},{FACES[i % 3]},,{i // 3}\n" for i in range(10_000))
    before = time.process_time()
    jobs = jobs_of(faces, "many.csv", HEADER + rows)
    assert time.process_time() - before < 10, "about 1 s"
    assert len({job.name for job in jobs}) == 10_000
    assert len(asked) >= 10_000 and len(opened) == 3


def test_all_options_of_generate_are_keys() -> None:
    elsewhere = {"out", "resume", "overwrite", "view", "settings", "tensorboard"}
    assert set(inspect.signature(generate).parameters) - elsewhere | {"name"} == set(FIELDS)
    assert {"seid.steps", "expression", "prior.sources.base", "seid.orbit.distance"} <= setting_names()
