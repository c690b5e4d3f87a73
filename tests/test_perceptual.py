"""FID, KID and LPIPS: against torch-fidelity and torchmetrics, over ranks, and without their weights."""

import json
import pickle
import re
import sys
from urllib.error import URLError

import pytest
import torch
import torch_fidelity
import torchvision
from dist.scores import features, main
from torch.utils.data import TensorDataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

from streamgan.core.errors import ConfigError
from streamgan.core.pretrained import cache_place
from streamgan.metrics.networks import ALEXNET_URL, build_inception, build_lpips
from streamgan.metrics.perceptual import PerceptualScores
from streamgan.models import GENERATORS
from streamgan.train.perceptual_scores import find_networks


class TinyExtractor(FeatureExtractorBase):
    """The twelve means of `features`, as torch-fidelity calls an extractor."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list():
        return ("12",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "12"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, color_B3HW):
        return (features(color_B3HW),)


class Images(TensorDataset):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


@pytest.fixture(scope="module")
def sets() -> list[torch.Tensor]:
    """Two sets of 40 images, uint8 (40, 3, 16, 20)."""
    noise = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, bound, (40, 3, 16, 20), dtype=torch.uint8, generator=noise) for bound in (256, 200)
    ]


def test_fid_and_kid_are_those_of_torch_fidelity(sets):
    torch_fidelity.register_feature_extractor("tiny", TinyExtractor)
    made, real = sets
    expected = torch_fidelity.calculate_metrics(
        input1=Images(made), input2=Images(real), feature_extractor="tiny", cuda=False, fid=True, kid=True,
        kid_subsets=1, kid_subset_size=40, verbose=False, cache=False, batch_size=8, save_cpu_ram=True,
    )  # fmt: skip
    scores = PerceptualScores(num_features={"": 12}, with_kid=True, means=[], device=torch.device("cpu"))
    for part in (slice(0, 7), slice(7, 7), slice(7, 40)):
        scores.update({"": (features(made[part]), features(real[part]))}, {})
    ours = scores.compute()
    assert set(ours) == {"fid", "kid"}
    assert ours["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-5)
    assert ours["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-4)
    assert min(ours.values()) > 0.01


@pytest.mark.slow
@pytest.mark.dist
def test_two_processes_score_like_one(template, tmp_path):
    template.run_ranks([str(tmp_path / "two.json")], script="tests/dist/scores.py")
    main(str(tmp_path / "one.json"))
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert (one.pop("world"), two.pop("world")) == (1, 2)
    assert one["num_images"] == 11
    assert {"psnr", "psnr_pooled", "ssim", "psnr_at_cf50", "fid", "kid_lite0", "lpips", "semantic"} < set(one)
    assert 0 < one["semantic"] < 1
    assert one["fid"] != one["fid_lite0"]
    curves = [result.pop("sweep") for result in (one, two)]
    assert two == pytest.approx(one, rel=1e-6, nan_ok=True)
    for name, values in curves[0].items():
        assert curves[1][name] == pytest.approx(values, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("net", "backbone"), [("alex", "alexnet"), ("vgg", "vgg16")])
def test_lpips_is_that_of_torchmetrics(net, backbone, tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, backbone)(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "backbone.pth")
    made, real = torch.rand(2, 3, 3, 64, 64)
    network = build_lpips(str(tmp_path / "backbone.pth"))
    assert network.net == net
    ours = network(made, real)
    monkeypatch.setattr(torchvision.models, backbone, lambda **_: theirs)
    expected = learned_perceptual_image_patch_similarity(
        made, real, net_type=net, normalize=True, reduction="none"
    )
    assert ours.shape == (3,)
    torch.testing.assert_close(ours, expected)
    assert ours.min() > 0


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> str:
    """A file of untrained weights of torch-fidelity's InceptionV3."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patch.setattr(
            "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {}
        )
        empty = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    state = {
        name: torch.ones(t.shape, dtype=t.dtype) if t.ndim < 2 else torch.randn(t.shape) / t[0].numel() ** 0.5
        for name, t in empty.state_dict().items()
    }
    torch.save(state, path)
    return str(path)


@pytest.mark.slow
def test_inception_is_that_of_torch_fidelity(inception):
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], inception)
    images = torch.randint(0, 256, (2, 3, 40, 50), dtype=torch.uint8)
    ours = build_inception(inception)(images)
    assert torch.equal(ours, theirs(images)[0])
    assert ours.shape == (2, 2048)
    assert ours.std() > 0


@pytest.mark.slow
def test_weights_that_would_run_code_or_do_not_fit_are_refused(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(GENERATORS["unet"], protocol=2))
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    for build, option in ((build_inception, "--fid-weights"), (build_lpips, "--lpips-weights")):
        for name, what in (("evil", "is no state dict"), ("other", "does not fit"), ("none", "no such file")):
            with pytest.raises(ConfigError, match=f"^{option}: .*{what}"):
                build(str(tmp_path / f"{name}.pth"))


def test_a_download_that_does_not_fit_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    place = cache_place(ALEXNET_URL)
    place.parent.mkdir()
    torch.save({"x": torch.zeros(1)}, place)
    with pytest.raises(ConfigError, match=f"^--lpips-weights: {re.escape(str(place))} does not fit"):
        build_lpips(None)


def test_what_is_absent_is_said_and_what_was_named_must_be_there(monkeypatch, tmp_path):
    def fail(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert find_networks(everything=False) is None
    found = find_networks(everything=True)
    assert found.inception is found.lpips is None
    assert found.absent["fid"].startswith("fid: no weights; give --fid-weights FILE, or put it at ")
    assert found.absent["lpips"].startswith("lpips: no weights; give --lpips-weights FILE")
    assert all("no route to host" in text and "\n" not in text for text in found.absent.values())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    text = "fid: not installed; pip install 'streamgan[fid]'; "
    assert find_networks(everything=True).absent["fid"].startswith(text)
    with pytest.raises(ConfigError, match="not installed"):
        find_networks(everything=False, fid_weights="x.pth")
    with pytest.raises(ConfigError, match=r"^--lpips-weights: no such file"):
        find_networks(everything=False, lpips_weights="x.pth")
