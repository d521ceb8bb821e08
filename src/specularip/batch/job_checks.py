"""What a job names, checked without decoding or loading anything: photos, settings, the text's words.

Each photo, preset with its settings, and text is checked once, however many jobs share it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from specularip.bounds import problems_of
from specularip.errors import UserError
from specularip.faces.image_file import check_image_file
from specularip.inputs import check_words, file_to_start_from, file_version
from specularip.overrides import with_settings
from specularip.presets import preset_config

Version = tuple[int, ...]
Problems = tuple[tuple[str, str], ...]


@dataclass
class JobChecks:
    _images: dict[Path, tuple[Version, str]] = field(default_factory=dict)
    _starts: dict[Path, str] = field(default_factory=dict)
    _settings: dict[tuple[str, tuple[str, ...], float | None], tuple[Problems, str]] = field(
        default_factory=dict
    )
    _texts: dict[tuple[str, str], str] = field(default_factory=dict)

    def image(self, path: Path) -> tuple[Version, str]:
        """Which file it is, the same for links to it, and what is wrong with it or ""."""
        if path not in self._images:
            problem = ""
            try:
                check_image_file(path)
            except UserError as error:
                problem = str(error)
            self._images[path] = file_version(path), problem
        return self._images[path]

    def init(self, path: Path) -> str:
        """What is wrong with a file to start from, or ""."""
        if path not in self._starts:
            problem = ""
            try:
                file_to_start_from(path)
            except UserError as error:
                problem = str(error).removeprefix("--")
            except OSError as error:  # a name that is too long, a folder that may not be entered
                problem = f"init {path} cannot be read: {error.strerror or error}"
            self._starts[path] = problem
        return self._starts[path]

    def settings(
        self, preset: str, settings: tuple[str, ...], photo_weight: float | None
    ) -> tuple[Problems, str]:
        """(name of the setting, what is wrong) of each that is wrong, and the prior that the job loads.

        settings: "NAME=VALUE", the names known. preset: known.
        """
        key = preset, settings, photo_weight
        if key not in self._settings:
            config, problems = preset_config(preset), []
            for setting in settings:
                try:
                    config = with_settings(config, (setting,))
                except UserError as error:
                    problems.append((setting.partition("=")[0], str(error).removeprefix("--set ")))
            if photo_weight is not None:
                config = replace(config, photo_weight=photo_weight)
            problems += [(name, f"{name} {problem}") for name, problem in problems_of(config)]
            self._settings[key] = tuple(problems), config.prior.path
        return self._settings[key]

    def words(self, text: str, prior: str) -> str:
        """What is wrong with a text of which no word is understood, or ""."""
        if (text, prior) not in self._texts:
            problem = ""
            try:
                check_words(text, prior)
            except UserError as error:
                problem = str(error)
            self._texts[text, prior] = problem
        return self._texts[text, prior]
