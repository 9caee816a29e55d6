"""What can be configured: frozen models of `federation.yaml` and `site.yaml`, and of their parts.

Unknown keys are refused. `config_files` reads the files.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    ValidationInfo,
    model_validator,
)

from stic_core.system.names import SITE_NAME
from stic_core.system.notifier import EVENTS, Event
from stic_core.tasks import TASKS, ClassName, Task

SiteName = Annotated[str, Field(pattern=SITE_NAME)]
BackboneName = Literal[
    "vgg16",
    "resnet18",
    "resnet50",
    "densenet121",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "inception_v3",
    "convnext_tiny",
    "tiny",
]
Architecture = Literal["stic", "naive-joint", "naive-rgb"]
BatchNorm = Literal["average", "local", "frozen"]
Normalise = Literal["none", "imagenet"]
Transport = Literal["float32", "float16", "int8"]
Release = Literal[
    "training-loss",
    "validation",
    "accuracy",
    "auc",
    "confusion",
    "histograms",
    "calibration",
    "comparison",
    "privacy-audit",
]
"""What a site may be asked to say of its patients, beside the weights and the numbers of patients."""

RELEASES: tuple[Release, ...] = get_args(Release)

ASKED: tuple[Release, ...] = tuple(kind for kind in RELEASES if kind != "privacy-audit")
"""What a run asks for; the privacy audit's figures leave only if a site's operator wants them to."""
Address = Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$")]
"""host:port"""


def _https(address: SecretStr) -> SecretStr:
    """It may hold a secret: no line that a program says has it, and no run keeps it."""
    if not re.fullmatch(r"https://[^\s/@]+(/\S*)?", address.get_secret_value()):
        raise ValueError("an address that begins with https://, with a host name and without a user")
    return address


def _tracking_uri(uri: SecretStr) -> SecretStr:
    """It may hold a password: no line that a program says has it, and no run keeps it."""
    if not re.fullmatch(r"(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://\S+", uri.get_secret_value()):
        raise ValueError(
            "MLflow's address, such as https://mlflow.example.org, or a database, such as sqlite:///mlflow.db"
        )
    return uri


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    path = path.expanduser()
    return path if base is None or path.is_absolute() else Path(base) / path


def _task_of(data: object) -> object:
    """A task spelled out, or the known one of a name."""
    if not isinstance(data, str):
        return data
    if data not in TASKS:
        near = get_close_matches(data.lower().replace("_", "-"), TASKS, n=1)
        question = f". Did you mean {near[0]}?" if near else ""
        raise ValueError(f"{' or '.join(TASKS)}, or a name and classes{question}")
    return TASKS[data]


FilePath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path that is relative to the configuration file; absolute once it is loaded."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class ImageConfig(_Frozen):
    """How a slice becomes the model's image; every site of a federation prepares alike.

    Args:
        crop_mm: side of the square around the lesion, mm, where its place is known;
            None takes the whole slice.
    """

    crop_mm: Annotated[float, Field(gt=0)] | None = None


class ModelConfig(_Frozen):
    """The model that every site builds.

    Args:
        architecture: `stic`, `naive-joint` or `naive-rgb`, the paper's three.
        backbone: the CNN that an image goes through; `tiny` is the demo's own.
        recurrent_activation: the GRU's gates, as Keras names them.
        pretrained: begin with the backbone's weights file; false needs all blocks to train.
        trainable_blocks: how many of the backbone's last blocks train; 0 keeps it frozen, and
            its features are cached; what trains travels.
        batch_norm: statistics in the blocks that train. `average` pools them as the weights
            are averaged; `local` keeps each site's own, estimated from its training images
            (Andreux et al. 2020, SiloBN); `frozen` keeps the pretrained ones.
        normalise: `none` is the authors' choice, grey / 255; `imagenet` also subtracts
            ImageNet's mean and divides by its deviation, as torchvision's weights were trained.
    """

    architecture: Architecture = "stic"
    backbone: BackboneName = "vgg16"
    recurrent_activation: Literal["sigmoid", "hard_sigmoid"] = "sigmoid"
    pretrained: bool = True
    trainable_blocks: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    batch_norm: BatchNorm = "average"
    normalise: Normalise = "none"

    @model_validator(mode="after")
    def _scratch_trains(self) -> ModelConfig:
        if not self.pretrained and self.trainable_blocks != "all":
            raise ValueError(
                "pretrained: false needs trainable_blocks: all; frozen random layers learn nothing"
            )
        return self


class TrainingPrivacyConfig(_Frozen):
    """Patient-level differential privacy of a site's training: DP-SGD (Abadi et al. 2016).

    Args:
        epsilon: what the plan may cost each training patient of a site, over all rounds and the site's own
            model; each site computes its noise from it. Give this or `noise_multiplier`.
        noise_multiplier: standard deviation of the noise, in units of `max_grad_norm`; what it costs depends
            on a site's number of patients.
        delta: the probability with which epsilon may not hold; below 1 / training patients of every site.
        max_grad_norm: what one patient may contribute to a step: the norm that its gradient is cut to.
    """

    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    noise_multiplier: Annotated[float, Field(ge=0.1, le=1000)] | None = None
    delta: Annotated[float, Field(gt=0, le=0.01)] = 1e-5
    max_grad_norm: Annotated[float, Field(ge=1e-6, le=1e6)] = 1.0

    @model_validator(mode="after")
    def _one_of_two(self) -> TrainingPrivacyConfig:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("either epsilon or noise_multiplier")
        return self


class TrainingConfig(_Frozen):
    """Training at one site; by default with the paper's optimiser, and long enough to converge.

    Args:
        batch_size: patients per step; with `views`, one of a patient's views is drawn for it.
        learning_rate: of Adam, the highest one where a schedule changes it.
        local_epochs: passes over the site's training patients per round.
        local_steps: optimiser steps per round, instead of epochs: the same amount of work at every site.
        schedule: the learning rate by round; the server sends it with each round. `plateau`
            divides it by ten after `plateau_rounds` rounds without a better pooled validation
            loss (Keras' ReduceLROnPlateau, the authors' choice).
        plateau_rounds: how many, for `plateau`.
        warmup_rounds: rounds over which the rate rises to its value.
        early_stopping: stop after so many rounds (or epochs, in training at one site) without
            a better validation loss; None never does.
        gradient_clip: largest norm of a step's gradient; None does not clip.
        views: augmented views per patient, cached beside the plain one.
        class_balanced: weigh the loss by the inverse of the site's own class counts.
        weight_decay: decoupled (AdamW).
        l2: penalty on the naive models' last hidden layer, the authors' `l2_rate`.
        rotation_degrees, shift, zoom: the augmentation's half ranges; shift and zoom as
            fractions. One draw serves all three phases.
        privacy: patient-level noise in training; None adds none. `batch_size` is then the expected number of
            patients per step, who are drawn independently.
    """

    batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 2
    local_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None
    schedule: Literal["constant", "cosine", "plateau"] = "constant"
    plateau_rounds: Annotated[int, Field(ge=1)] = 5
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    early_stopping: Annotated[int, Field(ge=1)] | None = 20
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    l2: Annotated[float, Field(ge=0)] = 0.0
    views: Annotated[int, Field(ge=0, le=64)] = 8
    class_balanced: bool = False
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.1
    privacy: TrainingPrivacyConfig | None = None

    @model_validator(mode="after")
    def _private_of_counts(self) -> TrainingConfig:
        if self.privacy is not None and self.class_balanced:
            raise ValueError(
                "class_balanced: true does not go with privacy: its weights are the site's exact class counts, "
                "which no noise covers; set it to false"
            )
        return self


def check_private_model(model: ModelConfig, training: TrainingConfig) -> str | None:
    """Why a model cannot be trained with `training.privacy`; None where it can, or where there is none."""
    if training.privacy is not None and model.trainable_blocks != 0:
        return (
            "a backbone that trains does not go with training.privacy (it sees the three phases as three patients, and "
            "batch-norm statistics get no noise); set model.trainable_blocks to 0"
        )
    return None


class FedAvgConfig(_Frozen):
    """FedAvg (McMahan et al. 2017): the mean of the sites' weights by their training patients.

    Args:
        name: `fedavg`.
    """

    name: Literal["fedavg"] = "fedavg"


AlgorithmConfig: TypeAlias = FedAvgConfig
"""How the sites' updates become the next global model, with the parameters of each algorithm."""


class SecureAggregationConfig(_Frozen):
    """The server learns the sum of the hospitals' updates, and none of them. `true` takes the defaults.

    Args:
        threshold: share of the plan's hospitals, above a half, that must be left after a round and agree on who is;
            fewer, and the round is repeated. A larger share withstands more hospitals in league with the server.
        clip: largest change of one value in a round; larger ones are clipped, and counted.
        max_update_norm: largest norm of a site's update, times the norm of the model that the round began with; each
            site scales its own down to it, since the server cannot see it.
    """

    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.667
    clip: Annotated[float, Field(gt=0, le=1000)] = 8.0
    max_update_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0


def _secure_aggregation_of(data: object) -> object:
    return {True: {}, False: None}[data] if isinstance(data, bool) else data


SecureAggregation = Annotated[SecureAggregationConfig | None, BeforeValidator(_secure_aggregation_of)]

EvaluationMode: TypeAlias = Literal["per-site", "pooled"]
"""Held-out figures of each site, or of all of them together alone."""

POOLED_SITES = 3
"""Fewest hospitals of a pooled evaluation: of two, each knows the other's counts as the sum less its own."""


class ListenConfig(_Frozen):
    """Where the server listens, and what its certificate is for.

    Args:
        host: address to bind; 0.0.0.0 is every interface.
        port: TCP port; sites need this one and no other.
        names: host names and addresses that sites use; the certificate carries them.
        max_body_mb: a request with a larger body is refused, and a site whose unread answers are larger.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8443
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("localhost", "127.0.0.1")
    max_body_mb: Annotated[int, Field(ge=1, le=4096)] = 256


class MonitoringConfig(_Frozen):
    """Ports that machines ask for a program's health and metrics, without TLS; none is open by default.

    Args:
        host: address to bind; loopback by default. Whoever reaches it reads names of sites, versions and times.
        health_port: TCP port of gRPC's health protocol (`grpc.health.v1`), which the command `health` asks; null
            opens none.
        metrics_port: TCP port of Prometheus metrics, with nothing of a patient; null opens none.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    health_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None


class LogConfig(_Frozen):
    """The file that has everything that the program says while it runs, with the time of each line.

    Args:
        file: beside this configuration unless absolute; null writes none. Mode 0600, nothing of a patient.
        max_mb: size at which a new file is begun.
        keep: how many older files are kept, as `.1`, `.2` and so on.
    """

    file: Path | None = Path("server.log")
    max_mb: Annotated[int, Field(ge=1, le=1000)] = 5
    keep: Annotated[int, Field(ge=0, le=100)] = 4


class SiteLogConfig(LogConfig):
    """The same of a site.

    Args:
        file: beside this configuration unless absolute; null writes none. Mode 0600, nothing of a patient.
        max_mb: size at which a new file is begun.
        keep: how many older files are kept, as `.1`, `.2` and so on.
    """

    file: Path | None = Path("client.log")


class NotifyConfig(_Frozen):
    """Who is told of what somebody has to do or wants to know, without looking at a screen.

    Args:
        command: a program and its arguments as a list; it is started without a shell, with the event as JSON
            on its stdin.
        webhook: an https address that gets the event as JSON in a POST; redirects are not followed.
        events: `approval-waiting`, `site-gone`, `site-back`, `run-over`, `run-failed`; all of them by default.
        timeout_s: how long one command or one POST may take; then it is ended, and that is said.
    """

    command: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    webhook: Annotated[SecretStr, AfterValidator(_https)] | None = None
    events: tuple[Event, ...] = EVENTS
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0

    @model_validator(mode="after")
    def _somebody(self) -> NotifyConfig:
        if not self.command and self.webhook is None:
            raise ValueError("a command or a webhook")
        return self


class TrackingConfig(_Frozen):
    """Which programs follow a run, beside its folder: they get the report's figures by round and at the end.

    Args:
        mlflow: MLflow's tracking URI, a server or a database; it may contain a password, which no message
            and no run keeps. The experiment is called like the federation.
        tensorboard: true writes event files into the run's folder, under `tensorboard`; a folder gets one
            subfolder per run.
    """

    mlflow: Annotated[SecretStr, AfterValidator(_tracking_uri)] | None = None
    tensorboard: StrictBool | FilePath = False

    @model_validator(mode="after")
    def _somebody(self) -> TrackingConfig:
        if self.mlflow is None and self.tensorboard is False:
            raise ValueError("mlflow or tensorboard")
        return self


def unmasked_part(transport: Transport, local_only: bool) -> str:  # noqa: FBT001 - two keys of a plan, in its words
    """Why secure aggregation does not go with the rest of a configuration; "" where it does."""
    if transport != "float32":
        return f"secure_aggregation needs transport: float32; masked values cannot be sent as {transport}"
    if local_only:
        return "secure_aggregation needs local_only: false; a site's own model would leave its hospital without masks"
    return ""


class FederationConfig(_Frozen):
    """`federation.yaml`: what the sites compute together, and how long the server waits.

    Args:
        name: how runs are called: their names begin with it.
        task: what is told apart: the name of one of the paper's tasks, or a name and classes.
        image: how a slice becomes the model's image; every site prepares alike.
        model: the model that every site builds.
        training: how a site trains in a round.
        algorithm: how the sites' updates become the next global model.
        rounds: how many rounds at most; `training.early_stopping` ends the training before.
        min_sites: fewer reports than this and a round fails.
        join_timeout_s: how long to wait for `min_sites` to come online, and then for what they describe.
        join_grace_s: how much longer to wait for the other admitted sites, once there are enough.
        round_timeout_s: how long a site may take over one round.
        max_patients: a site that claims more patients in a split is excluded: their number is its weight.
        max_update_ratio: a site's update whose norm is more than so many times the other sites' is
            refused; None takes any.
        seed: of the model's first weights and of every site's shuffling.
        determinism: bit-equal results for equal seeds on a CPU.
        local_only: also train each site's own model, for comparison.
        transport: how weights travel in a round. `float16` halves the bytes; `int8` sends what
            training changed in 8 bits per value with the rounding error carried over to the next
            round, and the global model as float16.
        secure_aggregation: the server sees only the sum of the sites' updates; `true`, or the keys below.
        evaluation: `per-site` shows where the model fails at one hospital, each hospital's small counts withheld;
            `pooled` sums the counts of at least three hospitals under masks: complete, and nobody's own.
            `pooled` needs `secure_aggregation`.
            Needs `local_only: false` and `transport: float32`; `max_update_ratio` does not apply.
        warm_start: a model's folder (`runs/<run-id>/model`) to begin with instead of fresh weights.
        backbone_weights: weights file by backbone; the server needs one only where a pretrained
            backbone trains, for the first global model.
        listen: where the server listens, and what its certificate is for.
        runs: folder of the runs.
        log: the file that has everything that `start` and its like say.
        notify: who is told when a site waits for an approval, is gone or back, and when a run ends.
        monitoring: ports of this server that machines ask for its health and its metrics.
        tracking: MLflow and TensorBoard, which follow a run and cannot disturb it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = "stic"
    task: Annotated[Task, BeforeValidator(_task_of)] = TASKS["malignant"]
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    algorithm: AlgorithmConfig = FedAvgConfig()
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 100
    min_sites: Annotated[int, Field(ge=1, le=1000)] = 2
    join_timeout_s: Annotated[float, Field(gt=0)] = 86_400.0
    join_grace_s: Annotated[float, Field(ge=0)] = 60.0
    round_timeout_s: Annotated[float, Field(gt=0)] = 3_600.0
    max_patients: Annotated[int, Field(ge=1)] = 100_000
    max_update_ratio: Annotated[float, Field(gt=1)] | None = 100.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    determinism: bool = True
    local_only: bool = True
    transport: Transport = "float32"
    secure_aggregation: SecureAggregation = None
    evaluation: EvaluationMode = "per-site"
    warm_start: FilePath | None = None
    backbone_weights: dict[str, FilePath] = Field(default_factory=dict)
    listen: ListenConfig = ListenConfig()
    runs: FilePath = Path("runs")
    log: Annotated[LogConfig, Field(exclude=True)] = LogConfig()
    notify: Annotated[NotifyConfig | None, Field(exclude=True)] = None
    monitoring: Annotated[MonitoringConfig, Field(exclude=True)] = MonitoringConfig()
    tracking: Annotated[TrackingConfig | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _private_model(self) -> FederationConfig:
        if fault := check_private_model(self.model, self.training):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _goes_with_masks(self) -> FederationConfig:
        if self.secure_aggregation is not None and (why := unmasked_part(self.transport, self.local_only)):
            raise ValueError(why)
        if self.evaluation == "pooled" and self.secure_aggregation is None:
            raise ValueError("evaluation: pooled needs secure_aggregation: true, whose masks it uses")
        return self


DecimalMark = Literal["comma", "point"]
MarkerName = Literal["plt", "tbil", "afp", "ca199", "cea", "ca125"]


class DatasetConfig(_Frozen):
    """Where a site's files lie and how they are read.

    Args:
        root: folder that every path of the manifest is relative to, and never leaves.
        manifest: the manifest, relative to `root`.
        prepared: folder for the prepared dataset and the cached features.
        image: how a slice becomes the model's image, as the federation prepares it.
        labels: labels of the manifest beside the classes of the known tasks, so that they are not taken for slips.
        units: unit by laboratory value, where it is not the default one.
        decimal: the laboratory's decimal mark, `comma` or `point`, for all values or by value; it says
            what `1,210` and `1.210` are, which are refused without it if that makes a difference.
        compat: how censored laboratory values are read.
        max_quarantined: more patients than this that cannot be used, and preparation fails.
        seed: draws `val` from `train` where the manifest has no `val`.
        val_share: the share drawn.
    """

    root: FilePath = Path("data")
    manifest: Path = Path("manifest.csv")
    prepared: FilePath = Path("prepared")
    image: ImageConfig = ImageConfig()
    labels: tuple[ClassName, ...] = ()
    units: dict[str, str] = Field(default_factory=dict)
    decimal: DecimalMark | dict[MarkerName, DecimalMark] | None = None
    compat: Literal["strict", "authors"] = "strict"
    max_quarantined: Annotated[int, Field(ge=0)] = 10
    seed: Annotated[int, Field(ge=0)] = 0
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2


class ServerAddress(_Frozen):
    """The coordinator's server.

    Args:
        address: host:port.
        ca: certificate of the CA that the server's certificate must come from.
    """

    address: Address
    ca: FilePath = Path("ca.crt")


class PrivacyBudget(_Frozen):
    """What all runs together may cost a training patient of this site.

    Args:
        epsilon: at most, of all runs together.
        delta: the probability with which epsilon may not hold.
    """

    epsilon: Annotated[float, Field(gt=0, le=1000)]
    delta: Annotated[float, Field(gt=0, le=0.01)] = 1e-5


class PolicyConfig(_Frozen):
    """What this site agrees to.

    Args:
        plans: `approved` takes part only in runs whose plan the site's operator approved
            (`stic-client --site SITE approve`); `any` in all within the bounds below.
        approved: digests of plans that are approved here, beside those of the command.
        tasks: names of tasks it takes part in.
        architectures, backbones: models that it trains; None is every one.
        max_rounds, max_local_epochs, max_local_steps: bounds on the work of one run.
        max_learning_rate, max_batch_size: bounds on the optimiser.
        release: what may be released about the patients; what is not listed is answered as suppressed.
            `privacy-audit` is not listed by default: see `stic-client privacy-audit --release`.
        local_only: also train a model of its own for comparison; its weights leave as a round's.
        secure_aggregation: `required` takes part only in plans with it; `optional` in both.
        evaluation: `pooled` takes part only in plans whose held-out counts are summed under masks, `per-site` only
            in those with figures of each site; `any` in both.
        max_update_norm: the same as a plan's; the smaller one is kept to. None adds no bound.
        min_cell: counts of fewer patients than this are not released.
        min_class: an AUC needs this many patients of the class and this many others.
        held_out_models: how many models may ever be looked at on the same held-out patients, in all runs.
        max_epsilon: a plan that costs a training patient more than this by itself is refused, and so is one
            without `training.privacy`; None takes any.
        privacy_budget: what all runs together may cost a training patient of this site (`stic-client --site
            SITE privacy`); a plan that would exceed it is refused, and so is one without `training.privacy`.
    """

    plans: Literal["approved", "any"] = "approved"
    approved: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    tasks: tuple[str, ...] = ("malignant", "hcc-icc", "benign-malignant")
    architectures: tuple[Architecture, ...] | None = None
    backbones: tuple[BackboneName, ...] | None = None
    max_rounds: Annotated[int, Field(ge=1)] = 1000
    max_local_epochs: Annotated[int, Field(ge=1)] = 20
    max_local_steps: Annotated[int, Field(ge=1)] = 10_000
    max_learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    max_batch_size: Annotated[int, Field(ge=1)] = 1024
    release: tuple[Release, ...] = ASKED
    local_only: bool = True
    secure_aggregation: Literal["optional", "required"] = "optional"
    evaluation: Literal["any", "per-site", "pooled"] = "any"
    max_update_norm: Annotated[float, Field(gt=0)] | None = None
    min_cell: Annotated[int, Field(ge=1)] = 5
    min_class: Annotated[int, Field(ge=1)] = 10
    held_out_models: Annotated[int, Field(ge=1)] = 40
    max_epsilon: Annotated[float, Field(gt=0, le=1000)] | None = None
    privacy_budget: PrivacyBudget | None = None


class SiteConfig(_Frozen):
    """`site.yaml`: one hospital.

    Args:
        site: the site's name, as the operator admits it.
        server: the coordinator's server, and whom this site trusts to be it.
        key: the site's private key, mode 0600.
        dataset: where the site's files lie and how they are read.
        device: `auto` takes CUDA where there is one.
        precision: of the backbone's arithmetic; `auto` takes bfloat16 where the hardware has it.
        cache_limit_gb: most that the cached features of one plan may take on the disk.
        backbone_weights: weights file by backbone, where it is not in torchvision's cache.
        audit: the log of every message in and out.
        policy: what this site agrees to.
        models: where the final model of each run is kept, for `predict`.
        plans: where approved and waiting plans lie.
        between_rounds: what a run keeps here from one round to the next, such as int8's rounding error.
        held_out: what was told of the held-out patients, and which models a run showed.
        privacy: what training cost its patients in all runs, and the secret that noise comes from.
        log: the file that has everything that the client says while it serves.
        notify: who is told when a plan waits for approval, and when a run ends.
        monitoring: ports of this client that machines ask for its health and its metrics.
    """

    site: SiteName
    server: ServerAddress
    key: FilePath = Path("site.key")
    dataset: DatasetConfig = DatasetConfig()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache_limit_gb: Annotated[float, Field(gt=0)] = 50.0
    backbone_weights: dict[str, FilePath] = Field(default_factory=dict)
    policy: PolicyConfig = PolicyConfig()
    audit: FilePath = Path("audit.jsonl")
    models: FilePath = Path("models")
    plans: FilePath = Path("plans")
    between_rounds: FilePath = Path("between-rounds")
    held_out: FilePath = Path("held-out")
    privacy: FilePath = Path("privacy")
    log: SiteLogConfig = SiteLogConfig()
    notify: NotifyConfig | None = None
    monitoring: MonitoringConfig = MonitoringConfig()
