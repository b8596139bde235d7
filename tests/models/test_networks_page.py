"""docs/networks.md: what it shows runs as it stands, and its table is of today's networks."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parent.parent.parent / "docs" / "networks.md"
page = runpy.run_path(str(PAGE.with_suffix(".py")))["page"]


@pytest.mark.release
def test_the_table_is_of_todays_networks():
    assert PAGE.read_text() == page(PAGE.read_text())


def test_every_snippet_runs_as_it_stands(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat.png")
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S))
    shown = "print(label, pooled.shape, side_logits.shape, cam.shape, bool(cam.any()))"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{shown}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    *stages, last = run.stdout.splitlines()
    assert stages == [f"torch.Size([1, {c}, {s}, {s}])" for c, s in ((16, 32), (32, 16), (64, 8))]
    assert re.fullmatch(r"\w+ torch\.Size\(\[1, 64\]\) torch\.Size\(\[3, 1, 10\]\) .*", last)
    assert last.endswith("torch.Size([1, 8, 8]) True")
