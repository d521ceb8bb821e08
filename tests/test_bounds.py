"""Bounds of settings: every number has some, and what lies outside is refused before anything starts."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import FACE, TEXT

from specularip.bounds import Range, Seed, as_option, check_settings, check_value, hints_of, unwrapped
from specularip.diffusion.settings import GuidanceConfig
from specularip.diffusion.timesteps import ahds_bounds
from specularip.errors import UserError
from specularip.fitting.fit import resolved
from specularip.fitting.settings import FitConfig
from specularip.inputs import check_run
from specularip.options import AnimateOptions, RenderOptions, check_animate, check_render
from specularip.pipeline import generate
from specularip.presets import preset_config, with_low_memory
from specularip.stages.scr import cropped, orbits
from specularip.stages.seid import timestep_range
from specularip.stages.settings import Config
from specularip.stages.views import step_views

ROOTS = {
    "compact": preset_config("compact"),
    "sd15": preset_config("sd15"),
    "fit": FitConfig(iterations=100, points=1000),
    "render": RenderOptions(distance=1.0, fov_y_deg=40.0),
    "animate": AnimateOptions(seconds=1.0, file_fps=30.0),
}


def numbers(kind: Any, marks: tuple[Any, ...] = ()) -> Iterator[tuple[type, tuple[Any, ...]]]:
    """The types of the numbers in a field's type, each with what is annotated."""
    kind, marks, _ = unwrapped(kind, marks)
    if kind in (int, float):
        yield kind, marks
    elif typing.get_origin(kind) is tuple:
        for option in typing.get_args(kind):
            if option is not ... and not is_dataclass(option):
                yield from numbers(option, marks)


def fields_of(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, value, type) of all fields that are no dataclasses themselves."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            yield from fields_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, hints_of(type(settings))[field.name]


def changed(settings: Any, name: str, value: Any) -> Any:
    """`settings` with the setting of this dotted name changed."""
    first, _, rest = name.partition(".")
    return replace(settings, **{first: changed(getattr(settings, first), rest, value) if rest else value})


def bounded() -> list[tuple[str, str, Any, type, Range]]:
    """(root, name, value, type, bounds) of every number of every configuration."""
    found = []
    for root, settings in ROOTS.items():
        for name, value, kind in fields_of(settings):
            for number, marks in numbers(kind):
                found += [(root, name, value, number, mark) for mark in marks if isinstance(mark, Range)]
    return found


def filled(value: Any, number: float) -> Any:
    """A value of the same shape: the number, or a tuple of it."""
    return tuple([number] * len(value)) if isinstance(value, tuple) else number


@pytest.mark.parametrize("root", ROOTS)
def test_every_number_has_bounds(root: str) -> None:
    without = [
        name
        for name, _, kind in fields_of(ROOTS[root])
        for _, marks in numbers(kind)
        if not any(isinstance(mark, Range) for mark in marks)
    ]
    assert not without, f"give them bounds with Annotated[..., Range(low, high)]: {without}"
    assert len(list(fields_of(ROOTS[root]))) > 5
    check_settings(ROOTS[root])


def refused(settings: Any, tmp_path: Path) -> str:
    """The message with which the command that these settings belong to refuses them, before it starts."""
    with pytest.raises(UserError) as caught:
        if isinstance(settings, Config):
            generate(TEXT, tmp_path / "no.jpg", out=tmp_path / "run", config=settings)
        elif isinstance(settings, FitConfig):
            resolved(settings, torch.device("cpu"))
        elif isinstance(settings, RenderOptions):
            check_render(tmp_path / "x.png", settings)
        else:
            check_animate(tmp_path / "x.mp4", settings)
    assert not (tmp_path / "run").exists() and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("root", ROOTS)
def test_what_lies_outside_is_refused_by_name(root: str, tmp_path: Path) -> None:
    tried = 0
    for where, name, value, kind, bounds in bounded():
        if where != root or value == ():
            continue
        below = bounds.low - 1 if kind is int else math.nextafter(bounds.low, -math.inf)
        above = bounds.high + 1 if kind is int else math.nextafter(bounds.high, math.inf)
        wrong: list[Any] = [below, above, "7", True, math.nan, math.inf, -math.inf]
        for number in wrong if kind is float else [*wrong, 1.5]:
            if root in ("compact", "sd15") and name == "seed":
                continue  # `generate` has an argument for it
            message = refused(changed(ROOTS[root], name, filled(value, number)), tmp_path)
            spelled = as_option(name) if root in ("render", "animate") else name
            assert message.startswith((f"{spelled} must", f"{as_option(name)} must")), message
            if number is below or number is above:
                assert "lie between" in message and "got" in message, message
            tried += 1
    assert tried > 30


@pytest.mark.parametrize("root", ROOTS)
def test_the_bounds_themselves_are_accepted(root: str, tmp_path: Path) -> None:
    """Or contradict another setting, in which case the message says so. What a configuration computes from
    them works."""
    accepted = 0
    for where, name, value, _, bounds in bounded():
        if where != root:
            continue
        for number in (bounds.low, bounds.high):
            settings = changed(ROOTS[root], name, filled(value, number))
            try:
                check_settings(settings)
            except UserError as error:
                assert "lie between" not in str(error), error
                continue
            accepted += 1
            if isinstance(settings, Config):
                use(settings)
            elif isinstance(settings, FitConfig):
                resolved(settings, torch.device("cpu"))
    assert accepted >= 10


def use(config: Config) -> None:
    """What the stages compute from a configuration alone."""
    with_low_memory(config)
    seid, scr = config.seid, config.scr
    assert all(count >= 4 for _, count in orbits(scr)) and scr.target_pixels > 0
    steps = min(seid.steps, 100)
    for bound in ahds_bounds(steps, top=seid.top_timestep, bottom=seid.bottom_timestep).tolist():
        for share in (0.0, 0.5, 1.0):
            lowest, highest = timestep_range(seid, share, bound)
            assert 0 <= lowest <= 999 and highest <= 999
    views = step_views(seid, seid.steps - 1, 1.7, torch.Generator().manual_seed(0))
    assert len(views.cameras) == seid.views_per_step and bool(views.cameras.viewmats.isfinite().all())
    size = scr.refine_size or 256
    cameras = views.cameras[:1].resized(64, 64)
    part, images = cropped(cameras, torch.zeros(1, 1, size, size), scr)
    assert min(part.width, part.height, *images.shape[2:]) > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seid.densify_from": 0.9}, "seid.densify_from must not exceed densify_until, got 0.9 and 0.7"),
        ({"seid.bottom_timestep": 300}, "seid.bottom_timestep must not exceed top_timestep"),
        ({"seid.bottom_timestep": 250}, "seid.bottom_timestep must be below top_timestep"),
        ({"seid.timestep_slack": 900}, "seid.timestep_slack above a top_timestep of 250 must not exceed 749"),
        ({"seid.framing_weights": (0, 0, 0, 0)}, "seid.framing_weights must not all be 0"),
        ({"seid.framing_weights": (1, 1)}, "seid.framing_weights must be 4 values"),
        (
            {"seid.render_size": 4096, "seid.views_per_step": 64},
            "seid.render_size must not exceed 1024 for 64",
        ),
        ({"scr.refine_steps": 26}, "scr.refine_steps must not exceed ddim_steps, got 26 and 25"),
        ({"scr.crop": (0.6, 0.2, 0.0, 1.0)}, "scr.crop must be top, bottom, left and right"),
        ({"scr.shrink": 0.05}, "scr.shrink must leave 32 pixels"),
        ({"scr.refine_size": 100}, "scr.refine_size must be a multiple of 64"),
        ({"scr.render_size": 8}, "scr.render_size must be 0 or at least 16"),
        ({"scr.orbit_views": 256, "seid.render_size": 1024}, "seid.render_size must not exceed 512 for 256"),
        ({"start.last_timesteps": (20, 40)}, "start.last_timesteps must fall, got 20, 40"),
        ({"start.fusion.neighbours": 3}, "start.fusion.least_neighbours must not exceed neighbours"),
        (
            {"scr.guidance": GuidanceConfig(negative_face="a.png")},
            "scr.guidance.negative_face must be empty: guidance.negative_face counts for both stages",
        ),
        ({"guidance.kind": "sds"}, "guidance.kind must be anpg or cfg, got 'sds'"),
        ({"scr.close_ups": "no"}, "scr.close_ups must be true or false"),
        ({"seid.rates": None}, "seid.rates must be a RateConfig"),
        ({"body": 3}, "body must be a text"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    config = preset_config("compact")
    for name, value in changes.items():
        config = changed(config, name, value)
    assert refused(config, tmp_path).startswith(words)


def test_ranges_must_rise_and_windows_too(tmp_path: Path) -> None:
    config = changed(preset_config("sd15"), "seid.orbit.distance", (1.0, 0.5))
    assert "seid.orbit.distance must not fall, got 1, 0.5" in refused(config, tmp_path)
    check_settings(changed(preset_config("sd15"), "seid.orbit.distance", (0.5, 0.5)))
    windows = preset_config("sd15").seid.timestep_windows
    wrong = changed(preset_config("sd15"), "seid.timestep_windows", (replace(windows[0], lowest=900),))
    assert "lowest must not exceed highest, got 900 and 800" in refused(wrong, tmp_path)


def test_values_of_their_own() -> None:
    with pytest.raises(UserError, match=r"^--seed must lie between 0 and 9223372036854775807, got -1$"):
        check_value("--seed", -1, Seed)
    check_value("--seed", 2**63 - 1, Seed)


def test_views_divide_among_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_run(preset_config("sd15"), tmp_path)
    with pytest.raises(UserError, match=r"scr.views_per_step must be a multiple of the 2 .*=4$"):
        check_run(preset_config("compact"), tmp_path)


def test_the_seed_is_checked_too(tmp_path: Path) -> None:
    for seed in (-1, 2**63, 1.5):
        with pytest.raises(UserError, match="--seed must"):
            generate(TEXT, FACE, out=tmp_path / "run", seed=seed)  # type: ignore[arg-type]
