"""The command that measures all of streamgan on a card, rehearsed on a CPU."""

import json
import os
import subprocess
import sys

import pytest
import torch
from training import ROOT

from streamgan.models import channels_last, decoder

sys.path.append(str(ROOT / "benchmarks"))
from common import in_turn
from gpu_parts import candidates
from gpu_parts.memory import batch_that_fits, parts, report

PARTS = ["environment", "tests", "step", "memory", "feed", "decode", "paper", "resume", "learn", "colorize"]


def measure(source, tmp_path, *options: str) -> subprocess.CompletedProcess:
    words = ["--photos", str(source), "--tiny", str(source), "--out", str(tmp_path / "out"), "--rehearse"]
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/gpu.py"), *words, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.mark.slow
def test_every_part_of_the_gpu_benchmark_can_be_rehearsed_on_a_cpu(source_folder, tmp_path):
    done = measure(source_folder, tmp_path, "--minutes", "20")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert list(found) == PARTS
    assert {name: part["error"] for name, part in found.items()} == dict.fromkeys(PARTS)
    assert found["environment"]["result"]["bf16_tflops"] > 0
    assert {test["result"] for test in found["tests"]["result"]["tests"]} <= {"passed", "skipped"}
    models = found["step"]["result"]["models"]
    assert list(models) == ["default", "ddcolor"]
    assert "bf16, compiled" in models["default"]
    for arms in models.values():
        assert all(speed > 0 for arm in arms.values() for speed in arm["images_per_s"])
    assert [row["workers"] for row in found["feed"]["result"]["rows"]] == [1, 2]
    (resumed,) = found["resume"]["result"]["rows"].values()
    assert resumed["steps"] == list(range(1, 61))
    assert resumed["identical"] is True
    assert found["learn"]["result"]["scores"]["model"]["psnr"] > 10
    assert all(row["photos_per_s"] > 0 for row in found["colorize"]["result"]["rows"])
    page = (tmp_path / "out/gpu.md").read_text()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == PARTS
    assert page.count("A rehearsal with tiny networks") == page.count("On the CPU: ") == len(PARTS)


@pytest.mark.slow
def test_a_part_that_runs_out_of_time_or_fails_costs_neither_the_others_nor_what_it_had(
    source_folder, tmp_path
):
    (tmp_path / "out").mkdir()
    kept = {
        "environment": {"result": {"versions": {"torch": "1"}, "card": "kept", "machine": ""}, "error": None}
    }
    (tmp_path / "out/gpu.json").write_text(json.dumps(kept))
    done = measure(source_folder, tmp_path, "--minutes", "0.02", "--only", "step,feed")
    assert done.returncode == 1
    found = json.loads((tmp_path / "out/gpu.json").read_text())
    assert found["environment"] == kept["environment"]
    assert found["step"]["error"].startswith("cut off after 1 s")
    assert found["feed"]["error"].startswith("cut off after 1 s")
    assert "kept" in (tmp_path / "out/gpu.md").read_text()


def test_the_batch_that_fits_a_card_follows_from_two_peaks():
    fixed, per_image = parts([4, 16], [3.0, 6.0])
    assert (fixed, per_image) == (2.0, 0.25)
    assert batch_that_fits(8, fixed, per_image) == 20  # 2 + 20 * 0.25 = 7 of the 7.2 GB that may be taken
    assert batch_that_fits(24, fixed, per_image) == 76
    assert batch_that_fits(2, fixed, per_image) == 0
    row = {"batches": [4, 16], "peak_gb": [3.0, 6.0]}
    page = report({"rows": {"default": row, "ddcolor": {**row, "peak_gb": []}}, "context_gb": 0.4})
    assert "| `default.yaml`, 256 px | 4: 3.00, 16: 6.00 | 2.00 | 0.250 | 16 | 48 | 76 | 276 |" in page
    assert "| `ddcolor.yaml`, 256 px | not measured: no card | - |" in page
    cut = report({"rows": {"default": {"batches": [4], "peak_gb": [3.0], "error": "out of memory"}}})
    assert "| out of memory | - |" in cut


def test_an_unknown_part_is_refused(source_folder, tmp_path):
    done = measure(source_folder, tmp_path, "--only", "steps")
    assert done.returncode == 2
    assert "no part 'steps' (choose from environment, tests, step," in done.stderr


def test_every_round_has_every_arm_once():
    rounds = [in_turn("abc", number) for number in range(8)]
    assert rounds[:4] == [list("abc"), list("bca"), list("cab"), list("abc")]
    assert all(sorted(one) == list("abc") for one in rounds)
    assert in_turn([], 3) == []  # no arm could be made


def test_a_candidate_blurs_like_the_decoder():
    for shape in ((2, 3, 5, 4), (1, 2, 1, 6), (1, 1, 1, 1)):
        image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        made = candidates.pooled_blur(image), decoder.blur(image)
        torch.testing.assert_close(*made)
        passed = torch.randn_like(image)
        torch.testing.assert_close(*(torch.autograd.grad(one, image, passed) for one in made))


@pytest.mark.parametrize("groups", [2, 8])
def test_a_candidate_normalises_like_group_norm(groups):
    x = (2 + torch.randn(3, 8, 6, 5)).bfloat16().contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    weight, bias = (torch.randn(8, requires_grad=True) for _ in range(2))
    given = (groups, weight, bias, 1e-5)
    made = candidates.mixed_group_norm(x, *given), channels_last.group_norm_nhwc(x, *given)
    torch.testing.assert_close(*made, rtol=0.01, atol=0.01)
    assert made[0].is_contiguous(memory_format=torch.channels_last)
    passed = torch.randn_like(made[0])
    ours, theirs = (torch.autograd.grad(one, (x, weight, bias), passed) for one in made)
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)
