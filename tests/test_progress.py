"""What a run says, line by line."""

import pytest

from inception_jax.system.progress import Progress

RECORD = {
    **{"step": 5, "epoch": 0.5, "loss": 2.0, "top1_error": 0.75, "seconds": 107.0},
    **{"images_per_second": 80.0, "data_wait_share": 0.02},
}


@pytest.fixture
def progress():
    progress = Progress("run", start=0, total=10)
    yield progress
    progress.close()


def test_a_training_line_gives_speed_wait_and_time_left(progress, capfd):
    progress.restart(1, 99.0)
    progress.training(RECORD)
    # Four steps in the 8 s since the step that compiled, and five steps more.
    expected = "step 5/10  epoch 0.50  loss 2.000  top-1 error 75.0%  80.0 images/s  data wait 2%  00:10 left\n"
    assert capfd.readouterr().err == expected


def test_the_first_step_says_nothing_of_speed(progress, capfd):
    progress.restart(5, 107.0)
    progress.training({k: v for k, v in RECORD.items() if k not in ("images_per_second", "data_wait_share")})
    assert capfd.readouterr().err == "step 5/10  epoch 0.50  loss 2.000  top-1 error 75.0%\n"


def test_a_starved_run_is_warned_once_and_not_at_its_first_line(progress, capfd):
    starved = {**RECORD, "data_wait_share": 0.37}
    progress.training(starved)
    assert "warning" not in capfd.readouterr().err
    progress.training({**RECORD, "data_wait_share": 0.1})
    assert "warning" not in capfd.readouterr().err
    for _ in range(3):
        progress.training(starved)
    said = capfd.readouterr().err
    assert said.count("warning: the devices waited 37% of the time for images; give the run more cores") == 1


def test_all_processes_but_the_first_are_quiet(capfd):
    progress = Progress("run", start=0, total=10, quiet=True)
    for _ in range(3):
        progress.training({**RECORD, "data_wait_share": 0.9})
    progress.validation({"raw": {**RECORD, "top5_error": 0.2}})
    progress.close()
    assert capfd.readouterr().err == ""
