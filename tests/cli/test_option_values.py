"""The values of options are those of the library."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from typing import Any

import pytest

pytest.importorskip("typer")
import timm
import torchvision
import typer

import aimwrap
from aimwrap.cli import app
from aimwrap.cli.options import backbone_names, complete_backbone
from aimwrap.train import Settings


def test_every_setting_has_an_option_under_both_spellings() -> None:
    """But the data set, whose options are arguments, and the seed, which is one of ``--seeds``."""
    command = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = {parameter.name for parameter in command.params}
    assert {field.name for field in fields(Settings)} - options == {"reader", "seed"}
    for spelling in ("--mask-weight", "--mask_weight"):
        with command.make_context("train", ["cub", "data/cub", spelling, "2.5"], parent=_context()) as context:
            assert context.params["mask_weight"] == 2.5 and context.params["hold_out"] is None


def _context() -> Any:
    return typer.main.get_command(app).make_context("aimwrap", ["train"])


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
    classes = {module: names for module, names in homes.items() if module != "_choices"}  # PAPER is a mapping
    assert all(getattr(aimwrap, name).__module__ == f"aimwrap.{module}" for module in classes for name in homes[module])
    assert aimwrap.PAPER is aimwrap._choices.PAPER
    assert set(aimwrap.__all__) <= set(dir(aimwrap))
    with pytest.raises(AttributeError, match="has no attribute 'Aim'"):
        aimwrap.Aim  # noqa: B018
