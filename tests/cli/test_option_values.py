"""What options may be is written out a second time, away from torch: the two are the same."""

from __future__ import annotations

import ast
import inspect
from typing import Any, get_args

import pytest

pytest.importorskip("typer")
import timm
import torchvision

import aimwrap
from aimwrap.cli import options as choices
from aimwrap.cli.data import COLUMNS as COLUMN_OPTIONS
from aimwrap.cli.options import backbone_names, complete_backbone
from aimwrap.cli.train import parse_selection
from aimwrap.data import READERS
from aimwrap.data.builder.draw import Placement
from aimwrap.data.builder.write import FileFormat
from aimwrap.data.doctor.examine import COLUMNS
from aimwrap.export.formats import Format
from aimwrap.loss import AreaPer
from aimwrap.top_down import Head
from aimwrap.train import PRESETS, settings


@pytest.mark.parametrize(
    ("option", "library"),
    [
        (choices.Data, READERS),
        (choices.Preset, PRESETS),
        (choices.Head, get_args(Head)),
        (choices.AreaPer, get_args(AreaPer)),
        (choices.Frozen, get_args(settings.Frozen)),
        (choices.Optimizer, get_args(settings.OptimizerName)),
        (choices.Schedule, get_args(settings.Schedule)),
        (choices.Precision, get_args(settings.Precision)),
        (choices.Augmentation, get_args(settings.AugmentationName)),
        (choices.ExportFormat, get_args(Format)),
        (choices.FileFormat, get_args(FileFormat)),
        (choices.Placement, get_args(Placement)),
    ],
)
def test_choices_are_the_library_s(option: Any, library: Any) -> None:
    assert sorted(get_args(option)) == sorted(library)


def test_selections_and_columns_are_the_library_s() -> None:
    assert {parse_selection(rule) for rule in get_args(choices.Selection)} == set(get_args(settings.Selection))
    assert COLUMN_OPTIONS == COLUMNS


def test_backbone_names_are_those_that_the_libraries_list() -> None:
    assert backbone_names("timm") == sorted(timm.list_models())
    assert backbone_names("torchvision") == sorted(torchvision.models.list_models(module=torchvision.models))


def test_completed_backbones_can_be_built_by_these_names() -> None:
    assert complete_backbone("convnext_atto_") == ["convnext_atto_ols", "convnext_atto_rms"]
    assert "googlenet" in complete_backbone("goog") and "torchvision/googlenet" in complete_backbone("torchvision/g")
    assert "timm/resnet50" in complete_backbone("timm/resnet") and not complete_backbone("no_such")


def test_public_names_are_there_when_asked_for() -> None:
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(aimwrap))) if isinstance(node, ast.ImportFrom)]
    homes: dict[str, tuple[str, ...]] = {}
    for node in imports:
        if node.level and node.module:
            homes[node.module] = (*homes.get(node.module, ()), *(name.name for name in node.names))
    assert homes == aimwrap._HOMES
    assert all(getattr(aimwrap, name).__module__ == f"aimwrap.{module}" for module in homes for name in homes[module])
    assert set(aimwrap.__all__) <= set(dir(aimwrap))
    with pytest.raises(AttributeError, match="has no attribute 'Aim'"):
        aimwrap.Aim  # noqa: B018
