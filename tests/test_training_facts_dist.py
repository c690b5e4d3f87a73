"""Facts about the launcher and the distributed wrapper that the training is built around, seen again.

A test that fails here after an upgrade says that a precaution of ours may have become needless.
"""

import json
from pathlib import Path

import pytest
import yaml
from training import ACCELERATE, COMMON, launch, processes

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def facts(options: list[str], out: Path) -> list[dict]:
    done = launch(options, "tests/dist/facts.py", str(out))
    assert done.returncode == 0, done.stderr
    return [json.loads(path.read_text()) for path in sorted(out.glob("rank-*.json"))]


def test_two_processes_on_a_cpu_become_one_without_a_word(tmp_path):
    (found,) = facts([*COMMON, "--cpu", "--num_processes", "2", "--mixed_precision", "no"], tmp_path)
    assert (found["world"], found["num_processes"]) == (1, 1)


def test_a_multi_gpu_file_with_use_cpu_gives_two_processes_that_each_believe_to_be_alone(
    tmp_path, monkeypatch
):
    file = tmp_path / "two.yaml"
    common = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2}
    file.write_text(yaml.safe_dump({**common, "distributed_type": "MULTI_GPU", "use_cpu": True}))
    import training

    monkeypatch.setattr(training, "ON_CPU", {"OMP_NUM_THREADS": "1"})
    found = facts(["--config_file", str(file), "--main_process_port", "0"], tmp_path)
    assert [(one["world"], one["num_processes"]) for one in found] == [(2, 1), (2, 1)]


def test_r1_has_one_gradient_on_all_ranks_through_the_wrapper_only(tmp_path):
    first, second = facts(processes(2), tmp_path)
    assert first["num_processes"] == second["num_processes"] == 2
    assert first["plain"] != pytest.approx(second["plain"], rel=1e-3)
    assert first["wrapped"] == second["wrapped"]
    mean = [(a + b) / 2 for a, b in zip(first["plain"], second["plain"], strict=True)]
    assert first["wrapped"] == pytest.approx(mean, rel=1e-4, abs=1e-8)


def test_the_launcher_makes_every_exit_code_1():
    assert ACCELERATE
    for options in (processes(1), processes(2)):
        assert launch(options, "tests/dist/facts.py", "exit", "4").returncode == 1
