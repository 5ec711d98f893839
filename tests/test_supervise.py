"""The README's supervisor script, with a command that exits with given codes."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from conftest import PATIENCE

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("codes", "last"),
    [([0], 0), ([75, 0], 0), ([137, 143, 134, 75, 0], 0), ([75, 1], 1), ([2, 0], 2), ([130, 0], 130), ([137, 1, 0], 1)],
)
def test_the_supervisor_restarts_after_a_preemption_and_stops_after_a_failure(tmp_path, codes, last):
    script = re.search(r"<!-- supervise -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    (tmp_path / "codes").write_text("".join(f"{code}\n" for code in codes))
    fake = tmp_path / "inception-jax"
    fake.write_text(
        "#!/bin/sh\nread code < codes\nsed -i 1d codes\n[ $code -lt 128 ] || kill -$((code - 128)) $$\nexit $code\n"
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script.replace("sleep 5", ":")], cwd=tmp_path, env=environment, timeout=PATIENCE)
    assert done.returncode == last
    assert (tmp_path / "codes").read_text().split() == [str(code) for code in codes[codes.index(last) + 1 :]]
