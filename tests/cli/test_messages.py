"""Messages of the library in the words of the command line."""

import pytest

from aimwrap.cli.options import as_options


@pytest.mark.parametrize(
    ("message", "spoken"),
    [
        ("another runtime may do better; tolerance= allows more", "do better; in Python, tolerance= allows"),
        ("write a torch.export program instead (export_program; --format pt2)", "program instead (--format pt2)"),
        ("normalise and resize them, or pass image_size=", "normalise and resize them, or pass --image-size"),
    ],
)
def test_messages_as_options(message: str, spoken: str) -> None:
    assert spoken in as_options(message)
