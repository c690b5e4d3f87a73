"""Exported models: the same bits in a bundle, the same numbers in ONNX and torch.export at any size."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marks import slow
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_colorize import save_generator
from test_models import SMALL, disturb

import streamgan
from streamgan.cli.export import export
from streamgan.core.errors import CheckFailed, CheckpointError, ConfigError
from streamgan.core.run_folder import list_checkpoints
from streamgan.core.storage.local import temporary_path
from streamgan.inference.export import export_program
from streamgan.inference.weights import find_weights, load_weights
from streamgan.models import GENERATORS, build_generator
from streamgan.train.checkpoint_writer import rewrite_meta

SHAPES = ((1, 1, 64, 64), (3, 1, 97, 131), (1, 1, 33, 47))


def run(*arguments: object):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_generator(tmp_path_factory.mktemp("model") / "w.safetensors")


def small(name: str, path):
    """Weights of a generator of the zoo, none of whose layers gives zero."""
    options = {"out_channels": 2, "size": 64, **SMALL[name]}
    spec = {"generator": name, "head": "lab", "size": 64, "options": options}
    weights = disturb(build_generator(name, **options)).state_dict()
    save_file({key: value.contiguous() for key, value in weights.items()}, path, {"model": json.dumps(spec)})
    return path


def test_figures_that_are_no_numbers_are_null_in_a_bundle(whole_run, tmp_path):
    copy = shutil.copytree(whole_run, tmp_path / "run")
    checkpoint = list_checkpoints(copy)[-1]
    validation = {**checkpoint.meta["validation"], "val/chroma_ratio": float("nan"), "val/psnr": float("inf")}
    rewrite_meta(copy, checkpoint.step, {**checkpoint.meta, "validation": validation})
    for given, out in ((checkpoint.path, "first"), (tmp_path / "first", "second")):
        assert run(given, "--to", "bundle", "--out", tmp_path / out).exit_code == 0
        text = (tmp_path / out / "metrics.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["val/chroma_ratio"] is None


def test_a_bundle_is_the_run_to_the_bit_and_starts_another(whole_run, shard_set, tmp_path):
    from training import tiny_config

    from streamgan.train.loop import train

    out = tmp_path / "bundle"
    result = run(whole_run, "--to", "bundle", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    best = find_weights(whole_run).parent
    for name, origin in [("model", "ema"), ("generator", "generator"), ("discriminator", "discriminator")]:
        assert (out / f"{name}.safetensors").read_bytes() == (best / f"{origin}.safetensors").read_bytes()
    meta = json.loads((best / "meta.json").read_text())
    assert json.loads((out / "metrics.json").read_text()) == meta["validation"]
    config = json.loads((out / "config.json").read_text())
    assert (config["step"], config["training"]) == (meta["step"], meta["config"])
    card = (out / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert f"{meta['validation']['val/psnr']:.4g}" in card
    assert "Apache License" in (out / "LICENSE").read_text()

    again = tmp_path / "again"
    assert run(out, "--to", "bundle", "--out", again).exit_code == 0
    for name in ("model.safetensors", "generator.safetensors", "discriminator.safetensors", "metrics.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()

    settings = ("run.steps=1", "optim.lr_g=1e-12", "optim.lr_d=1e-12", f"run.init_from={out}")
    train(tiny_config(shard_set, tmp_path / "tuned", *settings))
    tuned = find_weights(tmp_path / "tuned", "last").parent
    for name in ("generator", "discriminator"):
        before = load_file(out / f"{name}.safetensors")
        after = load_file(tuned / f"{name}.safetensors")
        kept = [key for key in before if not key.endswith(("._u", "._v"))]  # estimates of spectral norm
        assert kept
        for key in kept:
            torch.testing.assert_close(before[key], after[key], atol=1e-9, rtol=1e-5)


def flipped(path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << at % 8
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["bundle", "safetensors"])
def test_half_the_size_is_the_same_model_but_for_rounding(model, tmp_path, kind):
    out = tmp_path / "half.safetensors"
    assert run(model, "--to", kind, "--out", out, "--half").exit_code == 0
    file = find_weights(out)
    assert file.stat().st_size < 0.6 * model.stat().st_size
    theirs, ours = load_file(file), load_file(model)
    for name, tensor in ours.items():
        stored = torch.float16 if tensor.is_floating_point() else tensor.dtype
        assert theirs[name].dtype == stored
        assert torch.equal(theirs[name], tensor.to(stored))
    assert {one.dtype for one in load_weights(file).generator.parameters()} == {torch.float32}
    with safe_open(file, "pt") as half, safe_open(model, "pt") as whole:
        assert half.metadata() == whole.metadata()


def test_weights_too_large_for_float16_are_not_stored_so(model, tmp_path):
    tensors, large = load_file(model), tmp_path / "large.safetensors"
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = 1e6
    with safe_open(model, "pt") as file:
        save_file(tensors, large, file.metadata())
    result = run(large, "--to", "safetensors", "--out", tmp_path / "out", "--half")
    assert f"--half: {name} does not fit into float16" in str(result.exception)
    assert not (tmp_path / "out").exists()
    result = run(model, "--to", "onnx", "--out", tmp_path / "out", "--half")
    assert "--half, --size and --saturation: are for a bundle or safetensors" in str(result.exception)


def test_an_exported_model_says_how_it_is_to_be_used(model, photo, tmp_path):
    out = tmp_path / "bundle"
    assert run(model, "--to", "bundle", "--out", out, "--size", 48, "--saturation", 1.5).exit_code == 0
    said = json.loads((out / "config.json").read_text())["model"]
    assert (said["size"], said["saturation"]) == (48, 1.5)
    ours, own = streamgan.Colorizer.load(out), streamgan.Colorizer.load(model)
    assert (ours.size, ours.weights.saturation, own.weights.saturation) == (48, 1.5, 1.0)
    image = photo(1)
    expected = streamgan.Colorizer.load(model, size=48, saturation=1.5)(image)
    assert np.array_equal(np.asarray(ours(image)), np.asarray(expected))
    assert not np.array_equal(np.asarray(own(image)), np.asarray(expected))
    gray = np.asarray(streamgan.Colorizer.load(out, saturation=0)(image)).astype(int)
    assert np.ptp(gray, axis=2).max() <= 1
    assert load_weights(find_weights(out)).generator.state_dict().keys() == load_file(model).keys()


@pytest.mark.parametrize("part", [0, 0.01, 0.3, 0.7, 0.999])
def test_one_flipped_byte_of_a_bundle_is_refused(model, tmp_path, part):
    bundle = tmp_path / "bundle"
    assert run(model, "--to", "bundle", "--out", bundle).exit_code == 0
    streamgan.Colorizer.load(bundle, device="cpu")
    weights = bundle / "model.safetensors"
    flipped(weights, int(weights.stat().st_size * part))
    for given in (bundle, weights):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged: .* config\.json") as caught:
            streamgan.Colorizer.load(given, device="cpu")
        assert "\n" not in str(caught.value)
        result = run(given, "--to", "bundle", "--out", tmp_path / "again")
        assert isinstance(result.exception, CheckpointError)
    assert not (tmp_path / "again").exists()


def test_a_flipped_byte_of_what_a_bundle_says_about_its_files_is_refused(model, tmp_path):
    assert run(model, "--to", "bundle", "--out", tmp_path / "bundle").exit_code == 0
    about = tmp_path / "bundle" / "config.json"
    about.write_bytes(about.read_bytes().replace(b'"files"', b'"filet"'))
    with pytest.raises(CheckpointError, match=r"config\.json: damaged: its digest is another"):
        streamgan.Colorizer.load(tmp_path / "bundle", device="cpu")


def test_a_changed_figure_of_a_bundle_is_not_shared(whole_run, tmp_path):
    bundle = tmp_path / "bundle"
    assert run(whole_run, "--to", "bundle", "--out", bundle).exit_code == 0
    figures = json.loads((bundle / "metrics.json").read_text())
    (bundle / "metrics.json").write_text(json.dumps({**figures, "val/psnr": 99.0}))
    result = run(bundle, "--to", "bundle", "--out", tmp_path / "again")
    assert isinstance(result.exception, CheckpointError)
    assert "metrics.json: damaged: its sha256 is not the one in config.json" in str(result.exception)
    assert not (tmp_path / "again").exists()


def test_the_card_of_a_bundle_may_be_edited(model, tmp_path):
    bundle = tmp_path / "bundle"
    assert run(model, "--to", "bundle", "--out", bundle).exit_code == 0
    (bundle / "README.md").write_text("Trained on old postcards.")
    streamgan.Colorizer.load(bundle, device="cpu")


@pytest.mark.parametrize("kind", ["bundle", "checkpoint"])
def test_a_folder_of_weights_without_its_list_is_refused_and_a_file_alone_is_taken(
    whole_run, shard_set, tmp_path, kind
):
    from training import tiny_config

    from streamgan.train.loop import train

    folder = tmp_path / "step-00000010"
    if kind == "bundle":
        assert run(whole_run, "--to", "bundle", "--out", folder).exit_code == 0
        (folder / "config.json").unlink()
    else:
        shutil.copytree(find_weights(whole_run).parent, folder)
        (folder / "meta.json").unlink()
    with pytest.raises(CheckpointError, match=r"has weights, but neither meta\.json nor") as caught:
        streamgan.Colorizer.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="has weights, but neither"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1", f"run.init_from={folder}"))
    alone = folder / ("model.safetensors" if kind == "bundle" else "ema.safetensors")
    streamgan.Colorizer.load(alone, device="cpu")


def test_a_flipped_byte_of_a_companion_is_neither_shared_nor_trained_on(whole_run, shard_set, tmp_path):
    from training import tiny_config

    from streamgan.train.loop import train

    bundle = tmp_path / "bundle"
    assert run(whole_run, "--to", "bundle", "--out", bundle).exit_code == 0
    flipped(bundle / "discriminator.safetensors", 5000)
    result = run(bundle, "--to", "bundle", "--out", tmp_path / "again")
    assert isinstance(result.exception, CheckpointError)
    assert "discriminator.safetensors: damaged" in str(result.exception)
    assert not (tmp_path / "again").exists()
    with pytest.raises(CheckpointError, match=r"discriminator\.safetensors: damaged"):
        train(tiny_config(shard_set, tmp_path / "run", "run.steps=1", f"run.init_from={bundle}"))


def test_a_flipped_byte_of_a_checkpoint_is_refused_by_all_who_load_it(whole_run, tmp_path):
    checkpoint = shutil.copytree(find_weights(whole_run).parent, tmp_path / "step-00000010")
    flipped(checkpoint / "ema.safetensors", 4000)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors: damaged: .* meta\.json"):
        load_weights(find_weights(checkpoint))


def test_a_bundle_without_digests_is_taken_as_it_is(model, tmp_path):
    bundle = tmp_path / "bundle"
    assert run(model, "--to", "bundle", "--out", bundle).exit_code == 0
    config = json.loads((bundle / "config.json").read_text())
    assert set(config.pop("files")) == {"model.safetensors"}
    del config["digest"]
    (bundle / "config.json").write_text(json.dumps(config))
    streamgan.Colorizer.load(bundle, device="cpu")
    (bundle / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        streamgan.Colorizer.load(bundle, device="cpu")
    (bundle / "config.json").write_text('{"format": "of another program", "files": 3}')
    streamgan.Colorizer.load(bundle, device="cpu")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("kind", ["safetensors", slow("onnx"), slow("torch")])
def test_a_full_disk_is_one_line_and_leaves_nothing(model, tmp_path, run_as_program, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    out = tmp_path / f"out.{kind}"
    temporary_path(out).symlink_to("/dev/full")  # every write to it fails as on a full disk
    done = run_as_program("export", model, "--to", kind, "--out", out, "--json")
    assert done.code == 3
    assert json.loads(done.stdout)["error"]["message"].startswith(
        f"{out}: No space left on device; make room"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_in_a_bundle_is_one_line_and_leaves_nothing(model, tmp_path, run_as_program, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = run_as_program("export", model, "--to", "bundle", "--out", tmp_path / "bundle")
    assert done.code == 3
    assert done.stderr.startswith(
        f"error: {tmp_path / 'bundle'}: cannot be written (No space left on device)"
    )
    assert "make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["bundle", "safetensors", "torch"])
@pytest.mark.parametrize(
    ("place", "code", "told"),
    [
        ("file", 2, "is there already"),
        ("file/below", 3, "a file is in the way"),
        ("file/deep/below", 3, "a file is in the way"),
        ("n" * 256, 3, "choose a shorter name"),
        ("link/out", 3, "it is a link to nowhere, which is not there"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_one_line(
    model, tmp_path, run_as_program, kind, place, code, told
):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    done = run_as_program("export", model, "--to", kind, "--out", tmp_path / place, "--json")
    error = json.loads(done.stdout)
    assert (done.code, error["exit_code"]) == (code, code)
    assert told in error["error"]["message"]
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]
    assert (tmp_path / "file").read_text() == "mine"


def test_the_methods_of_huggingface_hub_take_a_bundle(photo, model, tmp_path):
    colorizer = streamgan.Colorizer.load(model, device="cpu")
    colorizer.save_pretrained(tmp_path / "saved")
    loaded = streamgan.Colorizer.from_pretrained(tmp_path / "saved", device="cpu")
    gray = photo(0).convert("L")
    assert loaded(gray).tobytes() == colorizer(gray).tobytes()
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == model.read_bytes()
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["format"] == "streamgan-bundle"
    assert "Colours gray photos" in (tmp_path / "saved" / "README.md").read_text()


@pytest.mark.slow
def test_onnx_gives_what_the_network_gives_at_sizes_it_never_saw(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "model.onnx"
    result = run(model, "--to", "onnx", "--out", out, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["differences"]) == 3
    assert report["max_difference"] <= 1e-3
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert (about["head"], about["size"]) == ("lab", "64")
    generator = load_weights(model).generator
    for shape in SHAPES:
        image = torch.rand(shape) * 2 - 1
        (made,) = session.run(None, {"l": image.numpy()})
        assert made.shape == (shape[0], 2, *shape[2:])
        assert np.abs(made - generator(image).numpy()).max() < 1e-3
        assert np.abs(made).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(GENERATORS.keys() - {"vgg19_unet", "resnet34_unet"}), "ready"])
def test_every_generator_of_the_zoo_is_exported_with_any_size(name, tmp_path, monkeypatch):
    """But two that only have more of the same layers; a network is traced once for both formats."""
    traced = []
    monkeypatch.setattr(
        "streamgan.inference.export.export_program",
        lambda weights: traced[0] if traced else traced.append(export_program(weights)) or traced[0],
    )
    path = name if name == "ready" else small(name, tmp_path / "w.safetensors")
    for kind in ("torch", "onnx"):
        result = run(path, "--to", kind, "--out", tmp_path / kind, "--json")
        assert result.exit_code == 0, result.exception
        assert json.loads(result.stdout)["max_difference"] <= 1e-3


@pytest.mark.slow
def test_a_graph_of_torch_export_comes_back_from_its_file(model, tmp_path, recwarn):
    path, result = tmp_path / "model.pt2", run(model, "--to", "torch", "--out", tmp_path / "model.pt2")
    assert result.exit_code == 0
    assert result.stdout.endswith(f'\nfrom Python: torch.export.load("{path}").module(check_guards=False)\n')
    assert not recwarn.list
    graph = torch.export.load(path).module(check_guards=False)
    generator = load_weights(model).generator
    for shape in SHAPES:
        image = torch.rand(shape) * 2 - 1
        torch.testing.assert_close(graph(image), generator(image))


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(model, tmp_path, monkeypatch):
    def other(weights):
        program = export_program(weights)
        name = next(iter(program.state_dict))
        program.state_dict[name] = torch.nn.Parameter(program.state_dict[name] + 1)
        return program

    monkeypatch.setattr("streamgan.inference.export.export_program", other)
    result = run(model, "--to", "torch", "--out", tmp_path / "model.pt2")
    assert isinstance(result.exception, CheckFailed)
    assert "differs from the network by" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(model, tmp_path):
    assert run(model, "--to", "safetensors", "--out", tmp_path / "w.safetensors").exit_code == 0
    assert (tmp_path / "w.safetensors").read_bytes() == model.read_bytes()
    for kind in ("bundle", "safetensors", "onnx", "torch"):
        result = run(model, "--to", kind, "--out", tmp_path / "w.safetensors")
        assert isinstance(result.exception, ConfigError)
        assert "is there already" in str(result.exception)


def test_a_missing_extra_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    result = run(model, "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert isinstance(result.exception, ConfigError)
    assert "pip install 'streamgan[onnx]'" in str(result.exception)


def test_a_step_of_what_has_no_steps_is_refused(whole_run):
    checkpoint = find_weights(whole_run).parent
    for model in (checkpoint, checkpoint / "ema.safetensors"):
        assert find_weights(model, "last") == checkpoint / "ema.safetensors"
        with pytest.raises(ConfigError, match="without steps to choose from"):
            find_weights(model, "5")


def test_a_model_that_is_nowhere_is_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    def offline(*_: object, **__: object):
        raise OfflineModeIsEnabled("the Hub is switched off")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="no run or file here, and the Hub") as caught:
        find_weights("org/no-such-model")
    assert "\n" not in str(caught.value)
