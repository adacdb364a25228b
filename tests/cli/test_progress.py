"""Progress where there is no terminal: nothing of short jobs, a line every half minute of long ones."""

import pytest

from qmnv3.cli import progress as shown


def test_lines_come_every_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(shown.time, "monotonic", lambda: now)
    with shown.progress("reconstructing", 10) as advance:
        for now in (5.0, 29.0, 31.0, 45.0, 60.0, 62.0):  # noqa: B007
            advance(1)
    printed = capsys.readouterr()
    assert printed.err == "reconstructing: 3 of 10\nreconstructing: 6 of 10\n"
    assert printed.out == ""
