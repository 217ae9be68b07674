"""The terminal shows each alarm once, and again when it is over; files and pipes get plain lines."""

import io
import os
import re
import sys
from dataclasses import replace

import pytest

from py4dstem_prenet.core import Flag
from py4dstem_prenet.live import terminal
from py4dstem_prenet.live.alarms import Alarm
from py4dstem_prenet.live.terminal import Terminal
from py4dstem_prenet.live.watcher import Status

NUMBERS = {"count": 20, "look": "show no beam", "row": 9, "column": 0, "state": "it is not back"}
LOST = Alarm("beam lost", (9, 0), Flag("alarm_beam_lost", NUMBERS))
LONGER, BACK = (Flag("alarm_beam_lost", NUMBERS | changed) for changed in ({"count": 30}, {"state": "it is back"}))
STATUS = Status((48, 48), 900, 890, 10, 998.4, (0.31, -0.18), 17, 0.05, 2979.0, "a/b 1.0300 +- 0.0010 at 29 degrees",
                "plane", 500)
WAITING = replace(STATUS, state="waiting", sentence="no new pattern for 7 s")
STORY = (STATUS, replace(STATUS, reason="It is dark."), replace(STATUS, reason="It is dark."),
         replace(STATUS, alarms=(LOST,)), replace(STATUS, alarms=(replace(LOST, flag=LONGER),)),
         replace(STATUS, alarms=(replace(LOST, since=(8, 30)),)),
         replace(STATUS, alarms=(replace(LOST, since=(8, 30), flag=BACK, over=True),)),
         WAITING, STATUS,
         replace(STATUS, note="This is another scan."), replace(STATUS, note="This is another scan.", alarms=(LOST,)),
         *(replace(STATUS, note="This is another scan.", alarms=(replace(LOST, since=(0, 0)),), state=state,
                   sentence="The end.") for state in ("running", "ended", "calibrating", "done")))


class Screen(io.StringIO):
    def isatty(self):
        return True

    def fileno(self):
        return 2


def told(progress=True):
    with Terminal(2304, progress) as shown:
        for status in STORY:
            shown.show(status)


def test_into_a_file_go_lines_without_control_codes(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    told()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)
    assert [line for line in lines if line.startswith("ALARM")] == [f"ALARM  {alarm}" for alarm in (
        LOST, replace(LOST, flag=BACK, since=(8, 30)), LOST, replace(LOST, since=(0, 0)))]
    assert STATUS.line() in lines[0]
    assert sum(line.endswith(WAITING.line()) for line in lines) == 1
    for text in ("It is dark.", "This is another scan.", "The end."):
        assert sum(text in line for line in lines) == 1, text
    told(progress=False)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [60, 200])
def test_a_narrow_terminal_shows_what_is_most_urgent(monkeypatch, capsys, columns):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    told()
    shown = screen.getvalue().split("\r")
    assert max(map(len, shown)) <= columns
    for status in (STATUS, WAITING):  # the beginning of the line, the most urgent
        assert any(status.line()[:22] in line for line in shown)
    assert "ALARM" in capsys.readouterr().out
