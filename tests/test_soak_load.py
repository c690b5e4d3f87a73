"""The soak of reading, at a few seconds' length."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.slow
def test_faults_of_all_kinds_change_no_batch(source_folder, tmp_path, monkeypatch):
    import soak_load

    root = soak_load.make_set(tmp_path, source_folder, 200)
    kinds = [kind for kind in soak_load.FAULTS if kind != "stall"]  # half a minute each
    monkeypatch.setattr(soak_load, "FAULTS", kinds)
    soak = soak_load.Soak(root, tmp_path, steps=300, pause_s=0.05, every_s=3.0)
    soak.run()
    assert sum(soak.faults.values()) >= 3
    assert soak.failures == []
    assert soak_load.wrong_batches(soak.readers[0], root, 300) == 0
    log = soak.readers[0].log
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:100], *lines[101:]]) + "\n")
    assert soak_load.wrong_batches(soak.readers[0], root, 300) > 150  # one lost batch is seen


@pytest.mark.slow
def test_it_ends_when_its_time_is_over(source_folder, tmp_path):
    import soak_load

    root = soak_load.make_set(tmp_path, source_folder, 200)
    soak = soak_load.Soak(root, tmp_path, minutes=1.2, pause_s=0.05, every_s=1000.0, processes=2)
    soak.run()
    for reader in soak.readers:
        assert reader.process.poll() is not None
        read = len(soak_load.batches(reader))
        assert read > 0
        assert soak_load.wrong_batches(reader, root, read) == 0
