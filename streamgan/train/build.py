"""From a TrainConfig to the objects that training needs; the one place here that picks by name."""

import copy
import os
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import AdamW

from streamgan.core.color import HEADS, Head
from streamgan.core.errors import ConfigError
from streamgan.core.machine import usable_cores
from streamgan.core.seeding import torch_seed
from streamgan.core.settings import ModelConfig, TrainConfig
from streamgan.data.loader import Loader, evaluation_loader, training_loader
from streamgan.data.plan import Shuffle
from streamgan.data.reading import Ranks, Reading, Source, Weighted
from streamgan.models import build_discriminator, build_generator
from streamgan.models.zhang import ZhangClassifier

from .class_prior import PRIOR_IMAGES, rebalance
from .networks import Networks, ema_copy
from .process import keep_freed_memory
from .step import GanStep
from .terms import Losses, build_losses, generator_options

_INIT = 10  # hash key of the initial weights
_OTHERS = {"generator", "discriminator", "d_width", "head", "pretrained"}
GENERATOR_OPTIONS = tuple(name for name in ModelConfig.model_fields if name not in _OTHERS)


def start_accelerator(config: TrainConfig) -> Accelerator:
    """The Accelerator of this process, after the guard against processes that silently train alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)])
    if accelerator.num_processes != world:
        raise ConfigError(
            "launcher",
            f"{world} processes were started but this one trains alone",
            "on CPUs set ACCELERATE_USE_CPU=1; launch/README.md has the command for every machine",
        )
    threads = config.run.threads
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "fp16":  # would train in fp32, silently
            what = "fp16 mixed precision needs a GPU (got a CPU)"
            raise ConfigError("launcher", what, "launch with --mixed_precision bf16 or no")
        local_world = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = threads or max(1, usable_cores() // local_world)
        keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high")
    return accelerator


def build_head(config: TrainConfig) -> Head:
    return HEADS[config.model.head]


def check_models(config: TrainConfig) -> None:
    """ConfigError if a model, an option of it or a loss does not exist, or does not take the images.

    Nothing here takes memory.
    """
    world, size = int(os.environ.get("WORLD_SIZE", "1")), config.data.size
    micro = max(1, config.data.batch // config.optim.accumulate)
    of_rank = max(1, micro // world)
    on_gpu = torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU")
    with torch.device("meta"), torch.no_grad():
        generator = _build_generator(config)
        build_losses(config)
        seen = micro if on_gpu else of_rank
        try:
            generator(torch.empty(seen, 1, size, size))
            if config.loss.gan_weight > 0:
                seen = of_rank if _has_penalty(config) else seen
                _build_discriminator(config)(torch.empty(seen, 3, size, size))
        except ValueError as error:
            if "1 value per channel" not in str(error):
                raise
            where = f"a micro-batch of {seen}" + (f" on each of {world} ranks" if seen < micro else "")
            what = f"batch norm is left with one value per channel (got {where}, {size} pixels)"
            todo = "give a larger data.batch or data.size, a smaller optim.accumulate, or choose another norm"
            raise ConfigError("data.batch", what, todo) from error


def _build_generator(config: TrainConfig) -> nn.Module:
    model = config.model
    options = generator_spec(config)["options"] | {"variant": model.variant, "pretrained": model.pretrained}
    generator = build_generator(model.generator, **options)
    _check_encoder(config, _encoder(generator))
    by_class = isinstance(generator, ZhangClassifier)
    if by_class and model.head != generator.only_head:
        what = f"{model.generator} predicts classes of Lab ab (got {model.head!r})"
        raise ConfigError("model.head", what, f"choose model.head={generator.only_head}")
    if config.loss.rec == "cross_entropy" and not by_class:
        what = f"cross_entropy needs classes, which {model.generator} does not predict"
        raise ConfigError("loss.rec", what, "choose model.generator=zhang, or another loss.rec")
    return generator


def _encoder(generator: nn.Module) -> nn.Module | None:
    """What `model.pretrained` and the settings of an encoder are about, if there is one."""
    return getattr(generator, "embedder", None) or getattr(generator, "encoder", None)


def _check_encoder(config: TrainConfig, encoder: nn.Module | None) -> None:
    """ConfigError if settings of an encoder have nothing to act on."""
    learns = encoder is not None and any(one.requires_grad for one in encoder.parameters())
    moving = encoder is not None and any(isinstance(m, _BatchNorm) and m.training for m in encoder.modules())
    lacks = {
        "lr_encoder": config.optim.lr_encoder is not None and not learns and "encoder that learns",
        "freeze_norm": config.optim.freeze_norm and not moving and "encoder with batch norm that moves",
    }
    for setting, lacking in lacks.items():
        if lacking:
            what = f"{config.model.generator} has no {lacking} here"
            raise ConfigError(f"optim.{setting}", what, "leave it out, or choose another model.generator")


def _build_discriminator(config: TrainConfig) -> nn.Module:
    return build_discriminator(config.model.discriminator, width=config.model.d_width)


def generator_spec(config: TrainConfig) -> dict[str, Any]:
    """How to build the generator without this configuration: travels inside every weights file."""
    model, size, head = config.model, config.data.size, HEADS[config.model.head]
    options = {"out_channels": head.channels, "size": size, "bounded": head.bounded}
    options |= {name: getattr(model, name) for name in GENERATOR_OPTIONS}
    if model.variant is None or model.variant.endswith(".npy"):  # bins are among the weights
        del options["variant"]
    return {"generator": model.generator, "head": model.head, "size": size, "options": options}


def build_networks(config: TrainConfig, accelerator: Accelerator) -> Networks:
    """Generator, discriminator, EMA and optimizers on the device, wrapped for all ranks."""
    torch.manual_seed(torch_seed(config.run.seed, _INIT))
    on_gpu = accelerator.device.type != "cpu"  # oneDNN has layouts of its own, and copies weights to and fro
    layout = torch.channels_last if config.run.channels_last and on_gpu else torch.preserve_format
    generator = _build_generator(config)
    if accelerator.num_processes > 1:
        _freeze_unused(config, generator)
    generator = generator.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
    ema = ema_copy(generator)
    generator = _for_ranks(generator, accelerator)
    _hold_encoder(config, generator)
    if config.run.compile:
        generator.compile()  # in place: names of weights stay
    optimizer_g = _optimizer(
        config, _groups(config, generator), lr=config.optim.lr_g, weight_decay=config.optim.weight_decay
    )
    wrapped_g, prepared_g = accelerator.prepare(generator, optimizer_g)
    networks = Networks(wrapped_g, accelerator.unwrap_model(wrapped_g), ema, prepared_g)
    if config.loss.gan_weight > 0:
        discriminator = _build_discriminator(config)
        if not _has_penalty(config):
            discriminator = _for_ranks(discriminator, accelerator)
        discriminator = discriminator.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        optimizer_d = _optimizer(
            config, [{"params": discriminator.parameters()}], lr=config.optim.lr_d, weight_decay=0.0
        )
        networks.discriminator, networks.optimizer_d = accelerator.prepare(discriminator, optimizer_d)
        networks.plain_discriminator = accelerator.unwrap_model(networks.discriminator)
    return networks


def balance_classes(config: TrainConfig, networks: Networks) -> None:
    """Give a classifier the class weights of the training split; the EMA copies all buffers in each step."""
    if config.loss.rec == "cross_entropy":
        assert isinstance(networks.plain_generator, ZhangClassifier)
        reading = replace(build_reading(config), gray=None)
        most = min(PRIOR_IMAGES, config.data.max_samples or PRIOR_IMAGES)
        loader = evaluation_loader(reading, "train", batch=32, num_images=most)
        rebalance(networks.plain_generator, loader, uniform_share=config.loss.uniform_share)


def build_step(config: TrainConfig, accelerator: Accelerator, networks: Networks, losses: Losses) -> GanStep:
    return GanStep(
        accelerator,
        networks,
        build_head(config),
        losses,
        seed=config.run.seed,
        accumulate=config.optim.accumulate,
        clip_g=config.optim.clip_g,
        clip_d=config.optim.clip_d,
    )


def _has_penalty(config: TrainConfig) -> bool:
    return config.loss.r1_weight > 0 or config.loss.gan == "wgan"


def _for_ranks(module: nn.Module, accelerator: Accelerator) -> nn.Module:
    """With batch norm over the global batch; on GPUs only, torch has none for CPUs.

    It has no second derivative, so a discriminator with a gradient penalty keeps the statistics of each rank.
    """
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def _freeze_unused(config: TrainConfig, generator: nn.Module) -> None:
    """Freeze parameters that no output depends on, in place: DDP would wait for their gradients."""
    twin, size = copy.deepcopy(generator).eval().to("meta"), config.data.size
    options = generator_options(by_class=config.loss.rec == "cross_entropy")
    with torch.device("meta"):
        made = twin(torch.empty(1, 1, size, size), **options)
        outputs = made if isinstance(made, tuple) else (made,)
        torch.stack([one.sum() for one in outputs]).sum().backward()
    for parameter, reached in zip(generator.parameters(), twin.parameters(), strict=True):
        if reached.grad is None:
            parameter.requires_grad_(False)


def _hold_encoder(config: TrainConfig, generator: nn.Module) -> None:
    """Freeze what `optim.lr_encoder` and `optim.freeze_norm` say, in place; nothing calls train() later."""
    optim, encoder = config.optim, _encoder(generator)
    if encoder is not None and optim.lr_encoder == 0:
        encoder.requires_grad_(False)
    if encoder is not None and optim.freeze_norm:
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _groups(config: TrainConfig, generator: nn.Module) -> list[dict[str, Any]]:
    """The generator's parameters; those of its encoder apart if they have a learning rate of their own."""
    module = _encoder(generator)
    if module is None or config.optim.lr_encoder is None:
        return [{"params": generator.parameters()}]
    encoder = list(module.parameters())
    inside = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in generator.parameters() if id(parameter) not in inside]
    return [{"params": rest}, {"params": encoder}]


def _optimizer(config: TrainConfig, groups: list[dict[str, Any]], *, lr: float, weight_decay: float) -> AdamW:
    # The fused implementation takes `found_inf`: a non-finite step is skipped without a host sync.
    optim = config.optim
    return AdamW(groups, lr=lr, betas=optim.betas, eps=optim.eps, weight_decay=weight_decay, fused=True)


def build_reading(config: TrainConfig, *, pin_memory: bool = False) -> Reading:
    """Where and how every loader of a run reads its photos."""
    data = config.data
    sets = data.shards
    if not isinstance(sets, str):
        sets = [Weighted(one.path, one.weight) for one in sets]
    return Reading(
        Source(sets, data.cache, data.cache_gb),
        data.size,
        gray="twin" if data.gray == "twin" else None,
        workers=data.workers,
        on_bad=data.on_bad,
        max_bad=data.max_bad,
        stall_s=data.stall_s,
        pin_memory=pin_memory,
    )


def build_shuffle(config: TrainConfig) -> Shuffle:
    """What the order of the training samples depends on."""
    data, seed = config.data, config.run.seed
    return Shuffle(data.batch, seed, data.lanes, data.window, data.reshuffle, data.max_samples)


def build_train_loader(
    config: TrainConfig, accelerator: Accelerator, *, start_step: int, stop_step: int
) -> Loader:
    """This rank's batches from `start_step` on; ConfigError where the batch cannot be shared out."""
    data, world = config.data, accelerator.num_processes
    accumulate = config.optim.accumulate
    if data.batch % (world * accumulate):
        what = f"{data.batch} does not divide into {world} ranks x {accumulate} micro-batches"
        if data.batch % accumulate:
            todo = f"choose another data.batch, or optim.accumulate out of {_divisors(data.batch)}"
        else:
            ranks = _divisors(data.batch // accumulate)
            todo = f"choose a number of ranks out of {ranks}, or another data.batch or optim.accumulate"
        raise ConfigError("data.batch", what, todo)
    node_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    return training_loader(
        build_reading(config, pin_memory=accelerator.device.type == "cuda"),
        "train",
        build_shuffle(config),
        ranks=Ranks(accelerator.process_index, world, node_ranks),
        start_step=start_step,
        stop_step=stop_step,
    )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
