"""Every knob of a training run on one page; config.py reads it from YAML and KEY=VALUE.

A field's comment is its description in `streamgan train --settings` and in the JSON schema. A `MayChange` may
differ between the start of a run and its continuation; any other setting may not.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .setting_types import (
    CachePath,
    Count,
    CountOrZero,
    LocalPath,
    MayChange,
    PathOrTruth,
    PathText,
    Positive,
    PositiveOrZero,
    Seconds,
    Section,
    ShardSets,
    Text,
)

_Beta = Annotated[float, Field(ge=0, lt=1)]
_Width = Annotated[int, Field(ge=1, le=8192)]


class DataConfig(Section):
    shards: MayChange[ShardSets] = "shards/out"  # the digest of what it holds may not: a set may move
    """A shard set written by `streamgan shard`: a folder, or an address (s3://, gs://, https://, hf://); or
    several, mixed: [{path, weight}, ...]."""
    batch: int = Field(default=16, ge=1, le=1_000_000)
    """GLOBAL batch: images per optimizer step, over all ranks and micro-batches."""
    size: int = Field(default=256, ge=16, le=4096)
    """Training crops are size x size pixels."""
    workers: MayChange[int] = Field(default=2, ge=0, le=1024)
    """Loader processes per rank; 0 decodes in the training process. Does not change the batches."""
    lanes: Count | None = None
    """Independent streams that every batch draws equally from; None: the largest divisor of `batch` up to
    24."""
    window: Count | None = None
    """Shards of a lane that are shuffled together; None: 4, or as many as mix a batch about as well as a full
    shuffle does."""
    reshuffle: Literal["global", "lane"] = "global"
    """What each epoch shuffles: all shards over all lanes, or within each lane the shards that it always has
    (a machine then downloads only its own share of a remote set, once)."""
    gray: Literal["derive", "twin"] = "derive"
    """Where the network input comes from: the luminance of the colour image, or the set's own gray twin."""
    on_bad: MayChange[Literal["raise", "substitute"]] = "raise"
    """What happens when a sample is damaged: the run ends, or another sample takes its place."""
    max_bad: MayChange[CountOrZero] = 100
    """Damaged samples that a rank may replace; one more ends the run."""
    stall_s: MayChange[Seconds] = 8.0
    """Seconds without any progress after which a loader process counts as stuck, and the run ends."""
    max_samples: Count | None = None
    """Train on the first N samples of the (already shuffled) split; None: all of them."""
    cache: MayChange[CachePath] = "~/.cache/streamgan/shards"
    """Folder on a disk of this machine for shards that come from an address; any number of runs may share
    it. none: nothing is kept, each image is read by range."""
    cache_gb: MayChange[float] = Field(default=50.0, gt=0, le=1e9)
    """Size limit of the cache in GB; the shards needed last are evicted first."""


class ModelConfig(Section):
    generator: Text = "unet"
    """A name of streamgan.models.GENERATORS."""
    discriminator: Text = "patchgan"
    """A name of streamgan.models.DISCRIMINATORS."""
    head: Literal["lab", "ycbcr", "rgb", "rgb_as_published"] = "lab"
    """What the generator predicts: Lab ab, YCbCr CbCr, or the whole RGB image. rgb_as_published reproduces
    a BUG of the source paper, targets in [-1, 1] for a sigmoid in [0, 1]: to show its cost, not for use."""
    width: _Width | None = None
    """Channels of the first generator layer; None: as published."""
    depth: Annotated[int, Field(ge=1, le=100)] | None = None
    """Generator depth (down-sampling steps, or residual blocks); None: as published."""
    d_width: _Width | None = None
    """Channels of the first discriminator layer; None: as published."""
    norm: Literal["batch", "instance", "group", "none"] | None = None
    """Generator normalisation; None: as published. All but `batch` are independent of the number of ranks,
    and so is timm_unet, whose backbone keeps the norm that it has, with optim.freeze_norm."""
    dropout: _Beta | None = None
    """Rate of dropout in the three innermost up steps of a `unet` (None: as published, 0.5 from depth 7 on;
    none at depth 5 or less), or of channels after the innermost of a `timm_unet` (None: none). Its noise,
    and so the loss curve, depends on the number of ranks."""
    pretrained: PathOrTruth = False
    """Start the encoder from ImageNet weights: true downloads torchvision's, or for timm_unet takes those of
    an installed package (extra `pretrained`) or timm's; a path is a file of them."""
    variant: PathText | None = None
    """Another form of the model. unet, ddcolor, koalarization: published, the authors' network; timm_unet:
    any backbone of timm that gives a pyramid of maps; koalarization: inception_resnet_v2, the published
    embedder alone; zhang: a .npy file of ab bins, such as the authors' 313."""
    enlarge: Count | None = None
    """How many times (1, 2, 4, 8) a timm_unet enlarges photos for its backbone; None: to 128 pixels. To
    go on from weights of another data.size, give what their run had: 2 for the packaged model."""


class LossConfig(Section):
    gan: Literal["bce", "hinge", "lsgan", "wgan"] = "hinge"
    """Adversarial loss; wgan comes with the gradient penalty `gp_weight`."""
    rec: Literal["l1", "mse", "smooth_l1", "cross_entropy"] = "l1"
    """Reconstruction loss between predicted and true chroma (or RGB); cross_entropy: class-rebalanced, for
    generators that predict classes of colour."""
    uniform_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a uniform prior in the class weights of cross_entropy (lambda); 1: equal weights."""
    gan_weight: PositiveOrZero = 0.01
    """Weight of the generator's adversarial loss; 0: no discriminator is trained."""
    rec_weight: PositiveOrZero = 1.0
    """Weight of the reconstruction loss."""
    log_mse_weight: PositiveOrZero = 0.0
    """Weight of the mean over images of log(MSE + 0.001), which weights low-error photos as a mean PSNR does;
    0: off."""
    r1_weight: PositiveOrZero = 0.0
    """Weight (gamma) of the R1 gradient penalty on real images; 0: off."""
    r1_every: Count = 16
    """Lazy regularisation: R1 every k-th step, multiplied by k (Karras et al. 2020)."""
    gp_weight: PositiveOrZero = 10.0
    """Weight (lambda) of the gradient penalty of WGAN-GP; for `gan: wgan` alone."""
    n_critic: Count = 1
    """Discriminator steps per generator step: after the warm-up, the generator is updated in every n-th step
    of the run. Each step takes one global batch. Published for WGAN-GP: 5."""
    perceptual_weight: PositiveOrZero = 0.0
    """Weight of the perceptual loss, a distance of VGG features; 0: off."""
    perceptual: Literal["vgg16", "vgg19", "vgg16_bn"] = "vgg19"
    """Network of the perceptual loss; vgg16_bn: DDColor's, with batch norm and its own layers and weights."""
    perceptual_file: PathText | None = None
    """File of that network's weights, as torchvision's; None: download them."""
    colourfulness_weight: PositiveOrZero = 0.0
    """Weight of DDColor's colourfulness loss, which rewards any colour; 0: off."""
    judge: Literal["pair", "photo"] = "pair"
    """What the discriminator sees: gray and chroma side by side (of an rgb head, its RGB image), or the photo
    in sRGB that they make."""
    real_saturation: Positive = 1.0
    """Saturation of real photos in the perceptual loss and, with judge=photo, for D. DDColor: 1.2."""
    warmup_steps: CountOrZero | None = None
    """Steps without the adversarial loss; None: 15% of the length that the run was started with."""
    ramp_steps: CountOrZero | None = None
    """Steps over which the adversarial weight then rises linearly to `gan_weight`; None: as long as the
    warm-up."""

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        of_d = ("r1_weight", "gp_weight")
        if not any(weight for name, weight in self if name.endswith("_weight") and name not in of_d):
            raise ValueError("no loss of the generator has a weight above 0; give one, as loss.rec_weight=1")
        return self


class OptimConfig(Section):
    lr_g: Positive = 2e-4
    """Learning rate of the generator (AdamW)."""
    lr_encoder: PositiveOrZero | None = None
    """Learning rate of the generator's encoder (of koalarization, its embedder), lower for pretrained
    weights; None: lr_g; 0: the encoder is frozen."""
    freeze_norm: bool = False
    """Freeze the batch norm statistics of that encoder as it has them at the start, from model.pretrained or
    run.init_from."""
    lr_d: Positive = 2e-4
    """Learning rate of the discriminator (AdamW)."""
    betas: tuple[_Beta, _Beta] = (0.5, 0.999)
    """AdamW betas of both networks."""
    eps: Positive = 1e-6
    """AdamW's epsilon. At the usual 1e-8, gradients that are zero up to rounding errors cause full-size
    updates, and runs on different numbers of ranks diverge."""
    weight_decay: PositiveOrZero = 0.0
    """Decoupled weight decay of the generator; with 0, AdamW is Adam."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """Learning rate after the warm-up: constant, or, after `decay_after` steps more, falling to 0 at the last
    step (linear, cosine) or multiplied by `decay` every `decay_every` steps (step)."""
    decay_every: Count = 10_000
    """Steps between two decays of the learning rate (schedule step)."""
    decay_after: CountOrZero = 0
    """Steps at the full learning rate, after the warm-up, before it begins to fall (all but constant)."""
    decay: float = Field(default=0.5, gt=0, le=1)
    """Factor on the learning rates at each decay (schedule step)."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rates rise linearly from 0."""
    clip_g: PositiveOrZero = 0.0
    """Gradient norm at which the generator is clipped; 0: no clipping."""
    clip_d: PositiveOrZero = 0.0
    """Gradient norm at which the discriminator is clipped; 0: no clipping."""
    accumulate: Count = 1
    """Micro-batches per rank and step (gradient accumulation)."""
    ema_half_life_images: PositiveOrZero = 10_000
    """Half-life of the weight average (EMA), in images, but at most 5% of the images seen so far; 0: EMA =
    the weights."""


class RunConfig(Section):
    dir: MayChange[LocalPath] = "runs/default"
    """Run folder: checkpoints, TensorBoard logs, metrics.jsonl, sample grids."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of initial weights, sample order, augmentation and dropout."""
    steps: MayChange[Count | None] = None
    """Length of the run in optimizer steps; give this or `epochs`."""
    epochs: MayChange[Count | None] = None
    """Length of the run in passes over the training split."""
    log_every: MayChange[Count] = 20
    """Steps between two log lines: console, TensorBoard and metrics.jsonl."""
    validate_every: MayChange[CountOrZero] = 0
    """Steps between validations; 0: once per epoch. The last step always validates."""
    validate_images: MayChange[Count] = 256
    """Number of validation images, at most."""
    sample_every: MayChange[CountOrZero] = 0
    """Steps between sample grids; 0: with every validation."""
    sample_images: MayChange[int] = Field(default=8, ge=1, le=1024)
    """Columns of the sample grid."""
    checkpoint_every: MayChange[CountOrZero] = 0
    """Steps between checkpoints, in addition to those at the end of each epoch and after the best validation;
    0: no additional ones."""
    keep: MayChange[Count] = 3
    """Newest checkpoints kept, beside the best one."""
    keep_every: MayChange[CountOrZero] = 0
    """Checkpoints at multiples of this many steps are never deleted; 0: none."""
    best_metric: Literal["psnr", "ssim", "loss", "ab_error", "dcf"] = "psnr"
    """Validation metric that decides which checkpoint is the best one, and when to stop early. A validation
    that is the best so far writes a checkpoint, whether or not one is due."""
    patience: MayChange[CountOrZero] = 0
    """Validations without an improvement after which the run stops early; 0: never."""
    init_from: MayChange[PathText | None] = None
    """Run, checkpoint or bundle folder, or ORG/NAME on the Hub, whose networks a new run starts with
    (fine-tuning); also --init-from. ready: the model that comes with streamgan. A run that continues keeps
    its own."""
    max_bad_steps: MayChange[Count] = 20
    """Non-finite steps in a row (all are skipped) after which the run stops."""
    threads: MayChange[int] = Field(default=0, ge=0, le=4096)
    """CPU threads per training process; 0: on a CPU its share of the cores, whatever OMP_NUM_THREADS says,
    beside a GPU torch's default. Part of bit-exactness on CPU."""
    timeout_s: MayChange[Seconds] = 600.0
    """Seconds that a process waits for the others before it considers them lost, and ends."""
    profile_steps: MayChange[tuple[Count, Count] | None] = None
    """First and last step of a torch profiler trace in RUN/profile, [100, 110]; None: no trace."""
    compile: MayChange[bool] = False
    """torch.compile the generator: slow to start; what a card gains tells `benchmarks/gpu.py --only step`."""
    cuda_graphs: MayChange[bool] = True
    """Ask one GPU for the passes of a step as a whole, not kernel by kernel; changes no value. Without effect
    on CPUs, with several ranks and with optim.accumulate."""
    channels_last: bool = True
    """Keep weights and activations in NHWC order on a GPU. A CPU picks its own order, mostly faster there."""

    @model_validator(mode="after")
    def _one_length(self) -> "RunConfig":
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of run.steps and run.epochs")
        if self.profile_steps and self.profile_steps[0] > self.profile_steps[1]:
            raise ValueError("run.profile_steps ends before it begins")
        return self


class TrainConfig(Section):
    """The whole configuration; what `RUN/config.yaml` holds."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig
