"""``aimwrap train folder --help`` was the general help of 110 lines, without the layout and ``masks=``."""

from inspect import signature

import pytest
from typer.testing import CliRunner

from aimwrap._choices import DATA_SETS
from aimwrap.cli import app
from aimwrap.data.registry import READERS


def help_of(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--help"], env={"COLUMNS": "100"}, prog_name="aimwrap")
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", DATA_SETS)
def test_help_after_a_data_set_is_about_it(name: str) -> None:
    text = help_of("train", name)
    assert len(text.splitlines()) <= 40
    assert "--hold-out" not in text
    arguments = list(signature(READERS[name]).parameters)[1:]
    assert all(f"\n{each}=VALUE: " in text for each in arguments if each not in ("split", "transform"))
    assert f"Example: aimwrap train {name} data/mine" in text
    assert "All other options: aimwrap train --help" in text


def test_a_folder_s_layout_and_masks_are_said() -> None:
    text = help_of("train", "folder")
    assert "root/train/class/*.jpg" in text
    assert "aimwrap train folder data/mine masks=data/masks" in text


def test_the_doctor_and_the_report_say_it_too() -> None:
    assert "Check it: aimwrap data doctor data/mine --as imagenet-100 --class-list" in help_of(
        "data", "doctor", "imagenet-100"
    )
    assert "All other options: aimwrap report --help" in help_of("report", "runs/model", "folder")


def test_help_without_a_data_set_is_the_command_s_own() -> None:
    assert "--hold-out" in help_of("train")
    assert "--subset" in help_of("data", "doctor", "digits95")
