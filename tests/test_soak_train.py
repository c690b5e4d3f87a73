"""The soak of training, at a minute's length."""

import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.slow
def test_a_run_that_was_killed_three_times_ends_with_the_bits_of_one_that_never_was(source_folder, tmp_path):
    import soak_train

    root = soak_train.make_set(tmp_path, source_folder, 80)
    words = [*soak_train.SETTINGS, f"data.shards={root}", "run.steps=40"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert soak_train.Life([*words, f"run.dir={whole}"]).end() == 0
    done = soak_train.run_with_kills([*words, f"run.dir={killed}"], killed, steps=40, kills=3, seed=1)
    assert len(done.steps) == 3
    assert soak_train.differences(killed, whole, 40) == []
    path = killed / "checkpoints" / "step-00000040" / "ema.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights[name].view(-1)[0] += 1e-6
    save_file(weights, path)
    assert soak_train.differences(killed, whole, 40) == [f"ema.{name}"]  # one bit more or less is seen
