"""Mixed precision on the CPU: bf16 as it is, fp16 with the loss scaler's CPU implementation."""

import copy

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from test_train_step import SMALL, images, weights
from training import COMMON, launch, losses, read_metrics, settings, tiny_config

from streamgan.core.color import HEADS
from streamgan.core.config import load_config
from streamgan.core.errors import ConfigError
from streamgan.train import build
from streamgan.train.loop import train
from streamgan.train.step import GanStep
from streamgan.train.terms import build_losses

SCALE = 1024.0


def fp16_accelerator(*, growth_interval: int = 2000) -> Accelerator:
    """What accelerate sets up for fp16 on a GPU; for a CPU it leaves out autocast and the scaler."""
    accelerator = Accelerator(cpu=True, mixed_precision="fp16")
    assert accelerator.scaler is None
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=growth_interval)
    return accelerator


class Trainer:
    """Both networks and their step, small."""

    def __init__(self, accelerator: Accelerator, *words: str, **more):
        self.config = load_config(None, [*SMALL, *words])
        self.networks = build.build_networks(self.config, accelerator)
        self._step = GanStep(
            accelerator, self.networks, HEADS["lab"], build_losses(self.config), seed=0, **more
        )

    def __call__(self, number: int = 0) -> dict[str, torch.Tensor]:
        return self._step(images(), None, step=number, adversarial_weight=0.1)


def test_fp16_gives_the_losses_and_gradients_of_fp32_without_reading_a_value(fresh_accelerator, monkeypatch):
    words = ["loss.r1_weight=1.0", "loss.r1_every=2"]
    exact = Trainer(Accelerator(cpu=True), *words)()
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(fp16_accelerator(), *words)
    dtypes = set()
    inner = next(m for m in trainer.networks.plain_generator.modules() if isinstance(m, torch.nn.Conv2d))
    inner.register_forward_hook(lambda module, given, made: dtypes.add(made.dtype))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "item", lambda self: pytest.fail("waits for the device"))
        rounded = trainer()
    assert dtypes == {torch.float16}
    assert rounded.pop("grad/scale") == SCALE
    assert rounded["grad/skipped"] == 0
    assert rounded.keys() == exact.keys()
    for tag, value in rounded.items():
        torch.testing.assert_close(value, exact[tag].to(value.dtype), rtol=0.02, atol=2e-3, msg=tag)


@pytest.mark.parametrize("bad", ["generator", "discriminator"])
def test_an_overflow_in_one_network_skips_its_step_alone_and_halves_the_scale(fresh_accelerator, bad):
    trainer = Trainer(fp16_accelerator())
    networks = trainer.networks
    trainer(0)
    models = {"generator": networks.plain_generator, "discriminator": networks.plain_discriminator}
    optimizer = networks.optimizer_g if bad == "generator" else networks.optimizer_d
    moments = copy.deepcopy(optimizer.state_dict()["state"])
    before = {name: weights(model) for name, model in models.items()}
    handle = next(models[bad].parameters()).register_hook(lambda gradient: gradient * float("inf"))
    scalars = trainer(1)
    handle.remove()
    assert scalars["grad/skipped"] == 1
    assert scalars["grad/scale"] == SCALE / 2
    assert [name for name, model in models.items() if torch.equal(weights(model), before[name])] == [bad]
    after = optimizer.state_dict()["state"]
    assert all(
        torch.equal(value, after[key][name]) for key in moments for name, value in moments[key].items()
    )
    scalars = trainer(2)
    assert (scalars["grad/skipped"], scalars["grad/scale"]) == (0, SCALE / 2)
    assert not any(torch.equal(weights(model), before[name]) for name, model in models.items())


def test_gradients_are_clipped_after_the_scale_is_taken_out(fresh_accelerator):
    trainer, seen = Trainer(fp16_accelerator(), clip_g=1e-3, clip_d=2e-3), {}

    def keep(name):
        def hook(optimizer, *_):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            seen[name] = torch.nn.utils.get_total_norm(gradients).item()

        return hook

    trainer.networks.optimizer_g.optimizer.register_step_pre_hook(keep("g"))
    trainer.networks.optimizer_d.optimizer.register_step_pre_hook(keep("d"))
    scalars = trainer(0)
    assert seen == pytest.approx({"g": 1e-3, "d": 2e-3}, rel=1e-3)
    assert 1e-3 < scalars["grad/g_norm"] < 10  # before the clipping, without the scale


def test_a_run_in_fp16_continues_with_its_scale_and_tells_it(
    shard_set, tmp_path, fresh_accelerator, monkeypatch
):
    def start(config):
        AcceleratorState._reset_state(reset_partial_state=True)
        return fp16_accelerator(growth_interval=4)

    monkeypatch.setattr(build, "start_accelerator", start)
    for name, parts in (("whole", [7]), ("cut", [4, 7])):
        for steps in parts:
            words = [f"run.steps={steps}", "run.validate_every=100", "loss.warmup_steps=1"]
            train(tiny_config(shard_set, tmp_path / name, *words))
    scales = {line["step"]: line["grad/scale"] for line in read_metrics(tmp_path / "whole") if "lr/g" in line}
    # one good step in the warm-up, then two in a step of both networks: four make it double
    assert scales == {
        1: SCALE,
        2: SCALE,
        3: SCALE * 2,
        4: SCALE * 2,
        5: SCALE * 4,
        6: SCALE * 4,
        7: SCALE * 8,
    }
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    monkeypatch.undo()  # and goes on without a scaler, if that is asked for
    AcceleratorState._reset_state(reset_partial_state=True)
    longer = tiny_config(
        shard_set, tmp_path / "cut", "run.steps=8", "run.validate_every=100", "loss.warmup_steps=1"
    )
    assert train(longer, allow_changed=True)["steps"] == 8


def test_fp16_on_a_cpu_is_refused(fresh_accelerator, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pytest.raises(ConfigError, match="fp16 mixed precision needs a GPU"):
        build.start_accelerator(load_config(None, ["run.steps=1"]))


@pytest.mark.slow
@pytest.mark.dist
def test_the_launcher_hands_its_precision_on(shard_set, tmp_path):
    options = [*COMMON, "--cpu", "--num_processes", "1", "--mixed_precision"]
    words = settings(shard_set, tmp_path / "run", "run.steps=3")
    done = launch([*options, "bf16"], "launch/train.py", *words)
    assert done.returncode == 0, done.stderr
    assert "1 x cpu, mixed precision bf16" in done.stderr
    assert len(losses(tmp_path / "run")) == 3
    refused = launch(
        [*options, "fp16"], "launch/train.py", *settings(shard_set, tmp_path / "no", "run.steps=3")
    )
    assert refused.returncode != 0
    assert "launch with --mixed_precision bf16 or no" in refused.stderr
    assert "Traceback" not in refused.stderr.partition("error:")[0]
    assert not (tmp_path / "no" / "config.yaml").exists()
