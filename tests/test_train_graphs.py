"""Which passes of a step are CUDA graphs. What a graph computes only a card can tell: test_gpu_runs.py."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from training import tiny_config

from streamgan.core.errors import ConfigError
from streamgan.train import build, graphs
from streamgan.train.terms import build_losses

pytestmark = pytest.mark.usefixtures("fresh_accelerator")
SHORT = ["run.steps=2", "loss.warmup_steps=0", "loss.ramp_steps=0", "data.batch=2"]
ZHANG = [
    "model.generator=zhang", "model.width=null", "model.depth=null", "model.norm=null",
    "loss.rec=cross_entropy", "data.size=32",
]  # fmt: skip


@pytest.fixture
def caught(monkeypatch):
    """What takes a graph: (images, wants a gradient, options)."""
    taken = []

    def graph(network, one):
        plain = network.forward

        def call(images):
            taken.append((len(images), images.requires_grad, one.options))
            return plain(images, **one.options)

        return call

    monkeypatch.setattr(graphs, "_graph", graph)
    return taken


def start(*words: str):
    config = tiny_config("none", "none", *SHORT, *words)
    accelerator = build.start_accelerator(config)
    networks = build.build_networks(config, accelerator)
    losses = build_losses(config)
    train_step = build.build_step(config, accelerator, networks, losses)
    graphs.use_graphs(config, networks, losses, train_step, accelerator.device)
    side = config.data.size
    color = torch.randint(0, 256, (config.data.batch, 3, side, side), dtype=torch.uint8)

    def step(number: int = 1, **options):
        given = {"adversarial_weight": 0.1, **options}
        return train_step(color, None, step=number, **given)

    return networks, step, color


OF_G, OF_D, JUDGE = (2, False, {}), (4, False, {"full_precision": False, "parts": 2}), (2, True, {})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [OF_G, OF_D, JUDGE]),
        (["loss.judge=photo"], [OF_G, OF_D, JUDGE]),
        (["loss.gan_weight=0"], [OF_G]),
        (["loss.gan=wgan"], [OF_G, JUDGE]),
        (ZHANG, [(2, False, {"with_logits": True}), OF_D, JUDGE]),
    ],
    ids=["pair", "photo", "no-gan", "wgan", "zhang"],
)
def test_each_pass_of_a_step_takes_its_graph(caught, words, expected):
    _, step, _ = start(*words)
    step(adversarial_weight=0.0 if words == ["loss.gan_weight=0"] else 0.1)
    assert caught == expected


def test_a_penalty_goes_on_kernel_by_kernel(caught):
    _, step, _ = start("loss.r1_weight=1", "loss.r1_every=2")
    step(0)
    assert caught == [OF_G, JUDGE]
    step(1)
    assert caught[2:] == [OF_G, OF_D, JUDGE]


def test_what_is_no_training_step_goes_on_kernel_by_kernel(caught):
    networks, step, color = start("loss.n_critic=2")
    step(train_generator=False)  # G makes photos without a gradient
    assert caught == [OF_D]
    network, gray = networks.plain_generator, color[:, :1] / 255
    network(gray[:1])
    network.eval()(gray)
    with torch.no_grad():
        network.train()(gray)
    assert caught == [OF_D]


def test_a_network_that_no_graph_can_hold_is_one_line(monkeypatch):
    def refuse(network, one):
        raise RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(graphs, "_graph", refuse)
    with pytest.raises(ConfigError, match=r"unet .*not permitted when stream is capturing\)") as caught_error:
        start()
    assert caught_error.value.where == "run.cuda_graphs"
    assert "run.cuda_graphs=false" in str(caught_error.value)
    monkeypatch.setattr(graphs, "_graph", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        start()


def test_a_pass_without_a_graph_is_compiled_if_the_run_is(caught, monkeypatch):
    compiled = []

    def compiler(function):
        return lambda *given, **options: compiled.append(function) or function(*given, **options)

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)
    _, step, _ = start("run.compile=true", "loss.n_critic=2")
    step(train_generator=False)
    assert caught == [OF_D]
    assert len(compiled) == 1  # G; D never is


@pytest.mark.parametrize(
    ("device", "kind", "words", "expected"),
    [
        ("cuda", DistributedType.NO, [], True),
        ("cuda", DistributedType.NO, ["run.cuda_graphs=false"], False),
        ("cuda", DistributedType.NO, ["optim.accumulate=2"], False),
        ("cuda", DistributedType.MULTI_GPU, [], False),
        ("cpu", DistributedType.NO, [], False),
        ("mps", DistributedType.NO, [], False),
    ],
)
def test_graphs_are_for_one_cuda_device_without_micro_batches(device, kind, words, expected):
    accelerator = SimpleNamespace(device=torch.device(device), distributed_type=kind)
    assert graphs.wanted(tiny_config("none", "none", *SHORT, *words), accelerator) == expected
