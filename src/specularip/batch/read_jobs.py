"""The jobs of a batch, read from a file or made from prompts and photos, and checked before the first starts.

docs/batch.md describes the files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from specularip.batch.csv_rows import PHOTO_SEPARATOR, csv_table
from specularip.batch.faults import Faults, Place
from specularip.batch.job_checks import JobChecks, Version
from specularip.batch.job_names import derived_name, folded, name_problem
from specularip.batch.jobs import Job
from specularip.batch.jsonl_rows import jsonl_table
from specularip.batch.keys import FIELDS, keyed
from specularip.batch.rows import Entry, Row, Table, Value
from specularip.batch.text_files import read_text
from specularip.batch.yaml_rows import yaml_table
from specularip.bounds import Seed, as_option, check_settings, check_value
from specularip.errors import UserError, quoted
from specularip.inputs import MAX_PHOTOS, OPTIONS
from specularip.overrides import with_settings
from specularip.presets import PRESETS, preset_config

FORMATS = {
    ".csv": csv_table,
    ".tsv": csv_table,
    ".txt": csv_table,  # "Unicode text" of spreadsheets
    ".jsonl": jsonl_table,
    ".ndjson": jsonl_table,
    ".yaml": yaml_table,
    ".yml": yaml_table,
}
MOST_JOBS = 100_000
"""Of a batch."""
MOST_TEXT = 5_000
"""Characters of a text. The priors' text encoders read some hundred."""
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")
"""No characters of a text or a name: control characters, and halves of characters, which no file can hold."""
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Defaults:
    """What holds for jobs that do not say it themselves: the options of the command.

    settings: "NAME=VALUE", as `--set` takes them.
    """

    preset: str = "compact"
    seed: int = 0
    photo_weight: float | None = None
    low_memory: bool = False
    force: bool = False
    settings: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UserError for a value that no job could have."""
        config = replace(with_settings(preset_config(self.preset), self.settings), seed=self.seed)
        if self.photo_weight is not None:
            config = replace(config, photo_weight=self.photo_weight)
        check_settings(config, lambda name: as_option(name) if name in OPTIONS else name)


def read_jobs(path: str | Path, defaults: Defaults | None = None) -> list[Job]:
    """The jobs of a file, in its order: of CSV, JSON Lines or YAML, by its suffix.

    Relative paths are relative to the file's folder. Raises UserError for a file that cannot be read and for
    wrong defaults, and JobFaults with all that is wrong with its jobs.
    """
    path, defaults = Path(path), defaults or Defaults()
    defaults.check()
    table_of = FORMATS.get(path.suffix.lower())
    if table_of is None:
        raise UserError(f"{path} is no job file by its name: end it in .csv, .jsonl or .yaml")
    faults = Faults()
    text = read_text(path, faults)
    table = Table([]) if text is None else table_of(text, path.name, faults)
    jobs = _JobReader(defaults, faults, _folder(path)).jobs(table)
    if not jobs and not faults.found:
        faults.add(Place(path.name, 0), "holds no jobs: give one with text and image for each avatar")
    faults.check()
    return jobs


def pair_jobs(
    texts: str | Path,
    images: str | Path,
    pair: Literal["zip", "product"] = "zip",
    defaults: Defaults | None = None,
) -> list[Job]:
    """Jobs of two files with a prompt, and with the photo of a person, on each line.

    pair: "zip" pairs first with first, second with second; "product" every prompt with every person, all
    persons of a prompt in turn. Blank lines and those that start with # are skipped. Several photos of a
    person are separated by "|", and relative to the folder of `images`. Raises as `read_jobs` does, and for
    lists of different lengths with "zip".
    """
    texts, images, defaults = Path(texts), Path(images), defaults or Defaults()
    defaults.check()
    faults = Faults()
    prompts, people = _lines(texts, "text", faults), _lines(images, "image", faults)
    pairs: Iterable[tuple[Entry, Entry]]
    if pair == "product":
        prompts, people = _without_repeats(prompts, faults), _without_repeats(people, faults)
        pairs = ((prompt, person) for prompt in prompts for person in people)
    else:
        pairs = zip(prompts, people)
        if prompts and people and len(prompts) != len(people):
            faults.add(
                Place(images.name, 0),
                f"{len(people)} photos for the {len(prompts)} prompts of {texts.name}: give as many of both, "
                "or pair every prompt with every photo by --pair product",
            )
    rows = (
        Row((prompt, person), prompt.place, f"{prompt.place} and {person.place}") for prompt, person in pairs
    )
    jobs = _JobReader(defaults, faults, _folder(images)).jobs(Table(rows))
    faults.check()
    return jobs


def _folder(path: Path) -> Path:
    return Path(os.path.abspath(path)).parent


def _lines(path: Path, key: str, faults: Faults) -> list[Entry]:
    text = read_text(path, faults)
    if text is None:
        return []
    found: list[Entry] = []
    for number, line in enumerate(re.split("\r\n|\n|\r", text), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            parts = [part.strip() for part in line.split(PHOTO_SEPARATOR)]
            several = key == "image" and len(parts) > 1
            found.append(Entry(key, list(parts) if several else line, Place(path.name, number)))
    if not found:
        faults.add(Place(path.name, 0), f"holds no {'prompts' if key == 'text' else 'paths of photos'}")
    return found


def _without_repeats(entries: list[Entry], faults: Faults) -> list[Entry]:
    first: dict[str, Entry] = {}
    for entry in entries:
        before = first.setdefault(repr(entry.value), entry)
        if before is not entry:
            faults.add(entry.place, f"is the same as line {before.place.line}: give it once")
    return list(first.values())


class _Wrong(Exception):
    """What is wrong with one value."""


@dataclass
class _JobReader:
    """Makes jobs of rows, and keeps what rows have in common. folder: of relative paths."""

    defaults: Defaults
    faults: Faults
    folder: Path
    checks: JobChecks = field(default_factory=JobChecks)
    names: dict[str, tuple[str, Row]] = field(default_factory=dict)
    """Each name and its row, by the folded name."""
    twins: dict[Hashable, Row] = field(default_factory=dict)
    """Rows without a given name, by all that determines what becomes of the job."""

    def jobs(self, table: Table) -> list[Job]:
        """Those with which nothing is wrong; what is wrong with others is among the faults."""
        common = keyed(table.defaults, self.faults)
        if "name" in common:
            self.faults.add(common.pop("name").place, "name cannot be the same for all jobs: leave it out")
        found: list[tuple[Job, list[str], Row] | None] = []
        for row in table.rows:
            if len(found) == MOST_JOBS:
                self.faults.add(row.place, f"is beyond {MOST_JOBS:,} jobs: split them into several batches")
                break
            found.append(self._job(row, common, table.missing))
        return [self._named(*one) for one in found if one is not None]

    def _job(
        self, row: Row, common: dict[str, Entry], missing: frozenset[str]
    ) -> tuple[Job, list[str], Row] | None:
        """The job of a row, its paths as written, and the row; None if something is wrong with it."""
        before = self.faults.told
        given = common | keyed(row.entries, self.faults)
        name = self._take(given, "name", _name, "")
        if name:
            self._claim(name, given["name"].place, row)
        preset = self._take(given, "preset", _preset, self.defaults.preset)
        seed = self._take(given, "seed", _seed, self.defaults.seed)
        weight = self._take(given, "photo_weight", _number, self.defaults.photo_weight)
        low_memory = self._take(given, "low_memory", _truth, self.defaults.low_memory)
        force = self._take(given, "force", _truth, self.defaults.force)
        paths = self._take(given, "image", _texts, [])
        start = self._take(given, "init", _text, "")
        text = self._take(given, "text", _prompt, "")
        for key, advice in (
            ("text", "describe the person, as in 'A woman in a red satin dress'"),
            ("image", "give the path of a photo of the person's face"),
        ):
            if key not in given and key not in missing:
                self.faults.add(row.place, f"there is no {key}: {advice}")
        settings, prior = self._settings(given, preset, weight, row)
        if text and not force and (problem := self.checks.words(text, prior)):
            self.faults.add(given["text"].place, problem)
        images = self._images(given["image"].place, paths) if paths else ()
        init = self._path(start, given["init"].place) if start else None
        if init is not None and (problem := self.checks.init(init)):
            self.faults.add(given["init"].place, problem)
        if self.faults.told > before or not (text and images):
            return None
        job = Job(name, text, images, preset, seed, init, weight, low_memory, force, settings, row.source)
        return job, [*paths, start], row

    def _take(self, given: dict[str, Entry], key: str, read: Callable[[Value], Any], default: Any) -> Any:
        """The value of a key; the default if it is not given or wrong, which is told."""
        if key not in given:
            return default
        try:
            return read(given[key].value)
        except _Wrong as problem:
            self.faults.add(given[key].place, f"{key} {problem}")
            return default

    def _settings(
        self, given: dict[str, Entry], preset: str, photo_weight: float | None, row: Row
    ) -> tuple[tuple[str, ...], str]:
        """The job's settings, the command's first, and the prior that they load."""
        texts = {setting.partition("=")[0]: setting for setting in self.defaults.settings}
        for name in given:
            if name not in FIELDS and (value := self._take(given, name, _setting, None)) is not None:
                texts[name] = f"{name}={value}"
        settings = tuple(texts[name] for name in sorted(texts))
        problems, prior = self.checks.settings(preset, settings, photo_weight)
        for name, problem in problems:
            self.faults.add(given[name].place if name in given else row.place, problem)
        return settings, prior

    def _images(self, place: Place, written: list[str]) -> tuple[Path, ...]:
        if len(written) > MAX_PHOTOS:  # before a long list is looked at
            self.faults.add(place, f"{len(written)} photos: give 1 to {MAX_PHOTOS} of one person")
            return ()
        seen: dict[Version, Path] = {}
        for path in (self._path(one, place) for one in written):
            if path is None:
                continue
            version, problem = self.checks.image(path)
            if problem:
                self.faults.add(place, problem)
            elif version in seen:
                self.faults.add(place, f"{seen[version]} and {path} are the same photo: give each only once")
            seen[version] = path
        return tuple(seen.values())

    def _path(self, written: str, place: Place) -> Path | None:
        if "://" in written:
            self.faults.add(place, f"{written} is an address: download it, and give the file")
            return None
        try:
            return self.folder / Path(written).expanduser()
        except RuntimeError:  # no such user, or no home
            self.faults.add(place, f"{written}: the home folder is unknown: write the whole path")
            return None

    def _claim(self, name: str, place: Place, row: Row) -> None:
        """Take a name, unless another job has it."""
        other, first = self.names.setdefault(folded(name), (name, row))
        if first is not row:
            alike = "" if other == name else f", {quoted(other)}, which is the same to some systems"
            self.faults.add(place, f"the name {quoted(name)} is that of {first.source}{alike}: give another")

    def _named(self, job: Job, written: list[str], row: Row) -> Job:
        """The job with a name. written: its photos, and the file to start from or "", as in the job file."""
        if job.name:
            return job
        rest = (job.preset, job.photo_weight, *job.settings)
        versions = tuple(self.checks.image(path)[0] for path in job.images)
        twin = self.twins.setdefault((job.text, versions, job.seed, job.init, rest), row)
        if twin is not row:
            which = "" if row.source == str(row.place) else f"{row.source}: "
            problem = f"{which}is the same job as {twin.source}: remove one, or give each a name"
            self.faults.add(row.place, problem)
            return job
        *images, start = written
        job = replace(job, name=derived_name(job.text, images, job.seed, [start, *rest]))
        self._claim(job.name, row.place, row)
        return job


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise _Wrong("must be a text")
    if CONTROL.search(value := value.strip()):
        raise _Wrong("holds a control character: remove it")
    return value


def _texts(value: Value) -> list[str]:
    texts = [_text(item) for item in value] if isinstance(value, list) else [_text(value)]
    if not all(texts):
        raise _Wrong("must not be empty")
    return texts


def _prompt(value: Value) -> str:
    """On one line, as `generate` takes it."""
    text = _text(" ".join(value.split()) if isinstance(value, str) else value)
    if len(text) > MOST_TEXT:
        raise _Wrong(f"has {len(text):,} characters: give at most {MOST_TEXT:,}")
    return text


def _name(value: Value) -> str:
    name = _text(value)
    if problem := name_problem(name):
        raise _Wrong(f"{quoted(name)} {problem}")
    return name


def _preset(value: Value) -> str:
    preset = _text(value)
    if preset not in PRESETS:
        raise _Wrong(f"must be {' or '.join(PRESETS)}, got {quoted(preset)}")
    return preset


def _seed(value: Value) -> int:
    text = _text(value)
    if not re.fullmatch("[+-]?[0-9]{1,30}", text):
        raise _Wrong(f"must be a whole number, got {quoted(text)}")
    try:
        check_value("seed", int(text), Seed)
    except UserError as error:
        raise _Wrong(str(error).removeprefix("seed ")) from None
    return int(text)


def _number(value: Value) -> float:
    text = _text(value)
    try:
        return float(text)
    except ValueError:
        point = ", with a decimal point" if "," in text else ""
        raise _Wrong(f"must be a number{point}, got {quoted(text)}") from None


def _truth(value: Value) -> bool:
    text = _text(value).lower()
    if text not in TRUE + FALSE:
        raise _Wrong(f"must be true or false, got {quoted(text)}")
    return text in TRUE


def _setting(value: Value) -> str:
    """As `--set` takes it: numbers of a list with commas, truth values in lower case (spreadsheets: TRUE)."""
    text = ",".join(_texts(value))
    return text.lower() if text.lower() in ("true", "false") else text
