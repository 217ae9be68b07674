"""What an operator reads: each alarm once, and again when it is over; plain lines where nobody sits at a terminal."""

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
STORY = (STATUS, replace(STATUS, reason="It is dark."), replace(STATUS, reason="It is dark."),
         replace(STATUS, alarms=(LOST,)), replace(STATUS, alarms=(replace(LOST, flag=LONGER),)),
         replace(STATUS, alarms=(replace(LOST, since=(8, 30)),)),
         replace(STATUS, alarms=(replace(LOST, since=(8, 30), flag=BACK, over=True),)),
         replace(STATUS, state="waiting", sentence="no new pattern for 7 s"), STATUS,
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
    numbers = "998/s, lag 10, drift (+0.31, -0.18) px, 2,979 e, sigma 0.05 px, a/b 1.0300 +- 0.0010 at 29 degrees"
    assert lines[0].endswith(f"  890 of 2304 patterns, {numbers}")
    assert [line[10:] for line in lines if "no new pattern" in line] == [
        "890 of 2304 patterns, no new pattern for 7 s, " + numbers[numbers.index("drift"):]]
    assert sum("It is dark." in line for line in lines) == 1
    assert lines.count("This is another scan.") == lines.count("The end.") == 1
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
    assert any(" 890 of 2304, 998/s, lag 10, drift (+0.31, -0.18)" in line for line in shown)
    assert any(" 890 of 2304, no new pattern for 7 s" in line for line in shown)
    assert "ALARM" in capsys.readouterr().out
