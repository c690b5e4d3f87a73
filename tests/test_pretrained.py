"""Encoders against torchvision's own networks, and weights from files, downloads and neither."""

import pickle
import shutil
import socket
from urllib.error import URLError

import pytest
import torch
import torchvision
from marks import slow
from safetensors.torch import save_file
from torch import nn

from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import TIMEOUT_S, cache_place, cached_weights, load_pretrained
from streamgan.models import GENERATORS
from streamgan.models.gray import GrayToImageNet
from streamgan.models.resnet import ResNetFeatures
from streamgan.models.vgg_unet import VggFeatures
from streamgan.train import build

SETTING = "model.pretrained"


def disturb(model: nn.Module) -> nn.Module:
    """Parameters and running statistics away from their start."""
    torch.manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            nn.init.normal_(tensor, 1.0 if name.endswith("weight") else 0.0, 0.1)
    return model


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """torchvision's ResNet-18 with weights of its own, and the file of them."""
    torch.manual_seed(0)
    model = disturb(torchvision.models.resnet18(weights=None)).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("name", ["resnet18", slow("resnet34"), slow("resnet50")])
def test_resnet_features_are_torchvisions(name):
    theirs = disturb(getattr(torchvision.models, name)(weights=None)).eval()
    ours = ResNetFeatures(name, width=64, norm="batch").eval()
    given = theirs.state_dict()
    ours.load_state_dict({key: given[key] for key in ours.state_dict()})
    image = torch.rand(1, 3, 64, 96)
    x = theirs.relu(theirs.bn1(theirs.conv1(image)))
    expected = [x]
    x = theirs.maxpool(x)
    for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4):
        x = stage(x)
        expected.append(x)
    with torch.no_grad():
        for mine, yours in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(mine, yours)
    assert ours.widths == [yours.shape[1] for yours in expected]
    assert {key for key in given if key not in ours.state_dict()} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["vgg16", slow("vgg19")])
def test_vgg_features_are_torchvisions(name):
    with torch.device("meta"):  # the classifier, 120 M parameters, is never filled
        theirs = getattr(torchvision.models, f"{name}_bn")(weights=None).features
    ours = disturb(VggFeatures(name, width=64, norm="batch")).eval()
    theirs.to_empty(device="cpu").eval()
    theirs.load_state_dict({k.removeprefix("features."): v for k, v in ours.state_dict().items()})
    x, expected = torch.rand(1, 3, 32, 48), []
    image = x
    with torch.no_grad():
        for layer in theirs:
            if isinstance(layer, nn.MaxPool2d):
                expected.append(x)
            x = layer(x)
        for mine, yours in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(mine, yours)


def test_resnet_starts_like_torchvisions():
    theirs, ours = (
        torchvision.models.resnet18(weights=None),
        ResNetFeatures("resnet18", width=64, norm="batch"),
    )
    for name, tensor in ours.state_dict().items():
        if tensor.ndim == 4:
            assert tensor.std().item() == pytest.approx(theirs.state_dict()[name].std().item(), rel=0.1), name


def test_gray_becomes_three_normalised_channels():
    gray = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    weights = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    expected = torchvision.transforms.functional.normalize(
        ((gray + 1) / 2).repeat(1, 3, 1, 1), weights.mean, weights.std
    )
    torch.testing.assert_close(GrayToImageNet()(gray), expected)


@pytest.mark.parametrize("kind", ["safetensors", slow("pth")])
def test_a_local_file_fills_the_encoder_and_leaves_the_start_gray(resnet18, tmp_path, kind):
    theirs, path = resnet18
    if kind == "safetensors":
        path = tmp_path / "resnet18.safetensors"
        save_file(theirs.state_dict(), path)
    model = GENERATORS["resnet18_unet"](out_channels=2, pretrained=str(path)).eval()
    for key, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[key]), key
    assert not model(torch.rand(1, 1, 32, 32)).any()


def test_the_configuration_takes_a_file_or_true(resnet18):
    more = ["run.steps=1", "model.generator=resnet18_unet"]
    config = load_config(None, [*more, f"model.pretrained={resnet18[1]}"])
    assert config.model.pretrained == str(resnet18[1])
    build.check_models(config)
    assert load_config(None, [*more, "model.pretrained=true"]).model.pretrained is True
    with pytest.raises(ConfigError, match=r"model\.pretrained: no such file \(got nowhere\.pth\)"):
        build.check_models(load_config(None, [*more, "model.pretrained=nowhere.pth"]))


def test_checking_the_models_downloads_nothing(monkeypatch):
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    build.check_models(
        load_config(None, ["run.steps=1", "model.generator=vgg19_unet", "model.pretrained=true"])
    )


@pytest.mark.parametrize("error", [URLError("no route to host"), RuntimeError("invalid hash value\n(got x)")])
def test_a_failed_download_is_one_line_that_says_where_the_file_belongs(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        GENERATORS["resnet34_unet"](out_channels=2, pretrained=True)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("model.pretrained: https://download.pytorch.org/models/resnet34-")
    assert str(tmp_path / "checkpoints" / "resnet34-") in text


@pytest.mark.slow
def test_a_download_is_checked_by_hash_used_and_kept(monkeypatch, resnet18, tmp_path):
    asked = []

    def download(url, place, hash_prefix, progress):
        assert socket.getdefaulttimeout() == TIMEOUT_S
        asked.append((url.rsplit("/", 1)[-1], hash_prefix))
        shutil.copy(resnet18[1], place)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    for _ in range(2):
        model = GENERATORS["resnet18_unet"](out_channels=2, pretrained=True)
        assert torch.equal(model.encoder.conv1.weight, resnet18[0].conv1.weight)
    assert asked == [("resnet18-f37072fd.pth", "f37072fd")]
    assert socket.getdefaulttimeout() is None


def test_a_silent_server_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("streamgan.core.pretrained.TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection, and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/weights-0123abcd.pth"
        with pytest.raises(OSError, match=r"^cannot be downloaded \(.*timed out"):
            cached_weights(url)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_cached_download_that_would_run_code_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    place = cache_place(torchvision.models.ResNet18_Weights.DEFAULT.url)
    place.parent.mkdir()
    place.write_bytes(pickle.dumps(GENERATORS["unet"], protocol=2))
    with pytest.raises(ConfigError, match=r"model\.pretrained: .*is no state dict"):
        GENERATORS["resnet18_unet"](out_channels=2, pretrained=True)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused_by_name(resnet18):
    _, path = resnet18
    with pytest.raises(ConfigError, match=r"conv1\.weight has shape \(64, 3, 7, 7\), not \(8, 3, 7, 7\)"):
        GENERATORS["resnet18_unet"](out_channels=2, width=8, pretrained=str(path))
    with pytest.raises(ConfigError, match=r"layer1\.2\.conv1\.weight is missing"):
        GENERATORS["resnet34_unet"](out_channels=2, pretrained=str(path))


@pytest.mark.parametrize("kind", ["cut", "pickle", "list", "safetensors"])
def test_a_file_that_is_no_state_dict_is_one_line(resnet18, tmp_path, kind):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(GENERATORS["unet"], protocol=2))  # a function, not tensors
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(resnet18[1].read_bytes()[:1000])
    with pytest.raises(ConfigError) as caught:
        load_pretrained(resnet18[0], "resnet18", str(path), setting=SETTING)
    assert str(caught.value).startswith(f"{SETTING}: {path} ")
    assert "\n" not in str(caught.value)


def test_counters_that_old_files_lack_stay_as_they_are(resnet18, tmp_path):
    model, _ = resnet18
    old = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth")
    ours = ResNetFeatures("resnet18", width=64, norm="batch")
    load_pretrained(ours, "resnet18", str(tmp_path / "old.pth"), setting=SETTING)
    assert torch.equal(ours.conv1.weight, model.conv1.weight)
    assert ours.bn1.num_batches_tracked == 0


@pytest.mark.slow
def test_convnext_features_are_torchvisions(tmp_path):
    theirs = disturb(torchvision.models.convnext_tiny(weights=None)).eval()
    for name, tensor in theirs.state_dict().items():
        if name.endswith("layer_scale"):  # 1e-6 at the start: the blocks would do nothing
            tensor.fill_(0.3)
    torch.save(theirs.state_dict(), tmp_path / "convnext.pth")
    model = GENERATORS["ddcolor"](out_channels=2, depth=1, pretrained=str(tmp_path / "convnext.pth"))
    encoder, image = model.encoder.eval(), torch.rand(1, 3, 64, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(image)[-1], encoder.norms[-1](theirs.features(image)), atol=1e-5, rtol=1e-5
        )
    assert encoder.widths == [96, 192, 384, 768]


def test_the_embedder_of_koalarization_gives_torchvisions_class_scores(resnet18):
    model = GENERATORS["koalarization"](out_channels=2, pretrained=str(resnet18[1])).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.embedder.scores(image), resnet18[0](image))
