"""Progress of a command: lines, and a bar on a terminal."""

import math

import pytest

from inception_jax.system import progress
from inception_jax.system.progress import Progress
from inception_jax.train.progress import RunProgress

RECORD = {
    **{"step": 5, "epoch": 0.5, "loss": 2.0, "top1_error": 0.75, "seconds": 107.0},
    **{"images_per_second": 80.0, "data_wait_share": 0.02},
}


class Terminal:
    """A stream that records what is written and reports to be a terminal."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that reads `clock[0]`."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    return clock


def test_without_a_terminal_lines_give_speed_and_time_left(clock, capfd):
    shown = Progress("evaluation", 400, "images", start=100)
    others = [
        Progress("evaluation", 400, "images", start=100, quiet=True),
        Progress("evaluation", 400, "images", start=100, every_seconds=math.inf),
    ]
    for clock[0], images in ((10.0, 10), (20.0, -10), (30.0, 60), (40.0, 10), (50.0, 30)):
        for one in (shown, *others):
            one.advance(images)
            one.show()
    assert capfd.readouterr().err.splitlines() == [
        "evaluation: 160 of 400 images  2.0 images/s  02:00 left",
        "evaluation: 200 of 400 images  2.0 images/s  01:40 left",
    ]
    assert (shown.count, shown.seconds) == (200, 50.0)


def test_a_terminal_has_a_bar_with_the_count_and_the_time_left(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    shown = Progress("train", 100, "images")
    shown.advance(40)
    clock[0] = 20.0
    shown.close()
    last = terminal.text.strip().rpartition("\r")[2]
    assert last.startswith("train:  40%|") and "| 40/100 [" in last and "2.0 images/s  00:30 left]" in last


@pytest.fixture
def run():
    run = RunProgress("run", start=0, total=10)
    yield run
    run.close()


def test_a_training_line_gives_speed_wait_and_time_left(run, capfd):
    run.restart(1, 99.0)
    run.training(RECORD)
    # Four steps in the 8 s since the step that compiled, and five steps more.
    expected = "step 5/10  epoch 0.50  loss 2.000  top-1 error 75.0%  80.0 images/s  data wait 2%  00:10 left\n"
    assert capfd.readouterr().err == expected


def test_the_first_line_has_no_speed(run, capfd):
    run.restart(5, 107.0)
    run.training({k: v for k, v in RECORD.items() if k not in ("images_per_second", "data_wait_share")})
    assert capfd.readouterr().err == "step 5/10  epoch 0.50  loss 2.000  top-1 error 75.0%\n"


def test_a_starved_run_is_warned_once_and_not_at_its_first_line(run, capfd):
    starved = {**RECORD, "data_wait_share": 0.37}
    run.training(starved)
    assert "warning" not in capfd.readouterr().err
    run.training({**RECORD, "data_wait_share": 0.1})
    assert "warning" not in capfd.readouterr().err
    for _ in range(3):
        run.training(starved)
    err = capfd.readouterr().err
    assert err.count("warning") == 1 and "37%" in err and "data.threads" in err


def test_all_processes_but_the_first_are_quiet(capfd):
    run = RunProgress("run", start=0, total=10, quiet=True)
    for _ in range(3):
        run.training({**RECORD, "data_wait_share": 0.9})
    run.validation({"raw": {**RECORD, "top5_error": 0.2}})
    run.close()
    assert capfd.readouterr().err == ""


def test_validation_shows_no_top_5_error_where_there_is_none(capfd):
    run = RunProgress("run", start=0, total=10)
    for more in ({"top5_error": 0.2}, {}):
        run.validation({name: {**RECORD, **more} for name in ("averaged", "raw")})
    run.close()
    lines = [line for line in capfd.readouterr().err.splitlines() if "validation" in line]
    assert lines[0].endswith("top-1 / top-5 error: averaged 75.00% / 20.00%, raw 75.00% / 20.00%")
    assert lines[1].endswith("top-1 error: averaged 75.00%, raw 75.00%") and "top-5" not in lines[1]


def test_on_a_terminal_a_record_stands_beside_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    run = RunProgress("run", start=0, total=10)
    run.training(RECORD)
    run.step(6)
    run.close()
    last = terminal.text.strip().rpartition("\r")[2]
    assert last.startswith("run:  60%|") and "| 6/10 [" in last and "loss 2.000  top-1 error 75.0%" in last
