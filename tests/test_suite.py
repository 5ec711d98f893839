"""The suite itself ends if a test hangs or its worker is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE

ROOT = Path(__file__).parents[1]
LOST = {
    "blocked": ("threading.Event().wait()", "Timeout (0:00:02)!", "in test_lost"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)",),
}


@pytest.mark.parametrize("how", LOST)
def test_a_lost_worker_ends_the_run(tmp_path, how):
    statement, *expected = LOST[how]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_lost.py").write_text(
        f"import os, signal, threading\n\ndef test_lost():\n    {statement}\n\ndef test_after():\n    pass\n"
    )
    (tmp_path / "tests" / "test_sound.py").write_text("def test_sound():\n    pass\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    command = [sys.executable, "-m", "pytest", "-o", "faulthandler_timeout=2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert "crashed while running 'tests/test_lost.py::test_lost'" in done.stdout
    for words in expected:
        assert words in done.stderr
