"""A description in, the model out (encoders, projections, fusion, heads); a model in, files out.

Saving writes the weights (safetensors) and the description (JSON), and loading needs nothing else:
the pattern grid, the Magpie standardisation and the units of the outputs travel with the weights.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unimat_lib.alignment import AlignmentLoss
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.encoders.composition import CompositionEncoder
from unimat_lib.encoders.pattern import PatternEncoder
from unimat_lib.files import file_hash, replacing
from unimat_lib.fusion import make_fusion
from unimat_lib.heads import CellScaler, Head
from unimat_lib.views.batch import MODALITIES, CrystalViews
from unimat_lib.views.composition import MAGPIE_FEATURES
from unimat_lib.views.graphs import PeriodicGraph
from unimat_lib.views.grid import Grid

FORMAT_VERSION = 1

MAX_PARAMETERS = 30_000_000
"""Largest model that :func:`load_model` builds; those of the book have 3 to 6 million."""

# Settings that need not be whole numbers, and those that count layers and basis functions.
_FRACTIONS = {"cutoff", "dropout", "fwhm", "start_scale"}
_FRACTIONS |= {"two_theta_min", "two_theta_max", "wavelength"}
_COUNTS = {"blocks", "depth", "depths", "num_radial", "num_spherical"}


@dataclass(frozen=True)
class UniMatConfig:
    """Everything that fixes the shape of a model.

    Attributes:
        modalities: Modalities that have an encoder.
        inputs: Those that the fusion and the heads see; the others are only aligned.
        dim: Width of the embeddings.
        projection_dim: Width of the shared space in which modalities are aligned.
        fusion: One of ``unimat_lib.fusion.FUSIONS``.
        alignment: One of ``unimat_lib.alignment.ALIGNMENT_KINDS``.
        start_scale: Inverse temperature at the start of the alignment, ``None`` for its papers'.
        grid, cutoff, max_neighbors, fwhm: Of the views that it reads, see :class:`.CrystalViews`.
        structure, xrd, composition: Further arguments of :class:`.StructureEncoder`,
            :class:`.PatternEncoder` and :class:`.CompositionEncoder`.

    Raises:
        ValueError: Unknown or inconsistent modalities, or a number that no model has.
    """

    modalities: tuple[str, ...]
    inputs: tuple[str, ...]
    dim: int = 256
    projection_dim: int = 128
    fusion: str = "concat"
    alignment: str = "clip"
    start_scale: float | None = None
    grid: Grid = field(default_factory=lambda: Grid(5.0, 90.0, 4096))
    cutoff: float = 5.0
    max_neighbors: int | None = 12
    fwhm: float = 0.1
    structure: Mapping[str, object] = field(default_factory=dict)
    xrd: Mapping[str, object] = field(default_factory=dict)
    composition: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what describes no model."""
        for what, names, known in (
            ("one or more modalities", self.modalities, MODALITIES),
            ("inputs among the modalities", self.inputs, self.modalities),
        ):
            if not names or not set(names) <= set(known) or len(set(names)) != len(names):
                raise ValueError(f"expected {what} {known}, every modality once, got {names}")
        _check_numbers(dataclasses.asdict(self))

    def to_dict(self) -> dict[str, object]:
        """The settings in plain JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> UniMatConfig:
        """The inverse of :meth:`to_dict`; a name that no field has is a ``ValueError``."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown model settings {unknown}: expected some of {sorted(known)}")
        names = {key: tuple(values[key]) for key in ("modalities", "inputs")}
        return cls(**dict(values) | names | {"grid": Grid(**values["grid"])})


def _check_numbers(settings: Mapping[str, object]) -> None:
    """Refuse numbers, at any depth, that would build a giant model or none."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            _check_numbers(value)
            continue
        limit = 64 if name in _COUNTS else 2**20
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and not 0 <= number <= limit:
                raise ValueError(f"expected {name} between 0 and {limit}, got {number}")
            if isinstance(number, float) and name not in _FRACTIONS:
                raise ValueError(f"expected {name} to be a whole number, got {number}")


@dataclass(frozen=True)
class UniMatOutput:
    """What a forward pass returns, for ``B`` crystals.

    Attributes:
        embeddings: Encoder outputs by modality, ``[B, dim]``.
        projections: Points of the shared space, ``[B, projection_dim]``, not normalised.
        cell: Standardised cell predictions ``[B, 9]``.
        system_log_probs: Log-probabilities of the crystal systems ``[B, 7]``.
    """

    embeddings: dict[str, Tensor]
    projections: dict[str, Tensor]
    cell: Tensor
    system_log_probs: Tensor


class UniMat(nn.Module):
    """Encoders, projections, fusion and heads, as ``config`` describes them.

    Attributes:
        optional_inputs: Inputs that the model was trained to do without (modality dropout).
    """

    def __init__(self, config: UniMatConfig) -> None:
        super().__init__()
        self.config = config
        names, sizes = config.modalities, (config.dim, config.projection_dim)
        self.encoders = nn.ModuleDict({name: _make_encoder(name, config) for name in names})
        self.projections = nn.ModuleDict({name: nn.Linear(*sizes) for name in names})
        self.alignment = AlignmentLoss(kind=config.alignment, start_scale=config.start_scale)
        self.fusion = make_fusion(config.fusion, num_modalities=len(config.inputs), dim=config.dim)
        self.cell_head = Head(dim=config.dim, size=9)
        self.system_head = Head(dim=config.dim, size=len(CRYSTAL_SYSTEMS))
        self.cell_scaler = CellScaler()
        self.optional_inputs: tuple[str, ...] = ()
        self.register_buffer("magpie_mean", torch.zeros(len(MAGPIE_FEATURES)))
        self.register_buffer("magpie_std", torch.ones(len(MAGPIE_FEATURES)))

    def fit_scalers(self, views: CrystalViews, train: Tensor) -> None:
        """Take units of inputs and outputs from rows ``train``, int64; none is a ``ValueError``."""
        if len(train) == 0:
            raise ValueError("expected at least one training crystal to take the units from")
        self.cell_scaler.fit(views.targets.select(train))
        if views.magpie is not None:
            values = views.magpie[train]
            self.magpie_mean.copy_(values.mean(dim=0))
            correction = min(1, len(values) - 1)  # the spread of one crystal is zero, not NaN
            self.magpie_std.copy_(values.std(dim=0, correction=correction).clamp(min=1e-6))

    def encode(self, name: str, view: PeriodicGraph | Tensor) -> Tensor:
        """Embedding ``[B, dim]`` of one modality's view; ``ValueError`` where none encodes it."""
        if name not in self.encoders:
            raise ValueError(f"expected a view of {self.config.modalities}, got {name!r}")
        if name == "composition":
            # Clamped: a feature that is nearly constant in training may be huge elsewhere.
            view = ((view - self.magpie_mean) / self.magpie_std).clamp(-10, 10)
        return self.encoders[name](view)

    def forward(
        self, views: Mapping[str, PeriodicGraph | Tensor], mask: Mapping[str, Tensor] | None = None
    ) -> UniMatOutput:
        """Encode the given views and predict from the inputs among them.

        Args:
            views: Modality name to view. A missing input modality counts as absent everywhere.
            mask: Modality name to bool ``[B]``, false where a crystal lacks the modality.

        Raises:
            ValueError: If no input modality is given.
        """
        embeddings = {name: self.encode(name, view) for name, view in views.items()}
        projections = {name: self.projections[name](x) for name, x in embeddings.items()}
        features, weights = self.fusion(*self._tokens(embeddings, mask))  # [B, K, d], [B, K]
        cell = (weights[..., None] * self.cell_head(features).float()).sum(dim=1)  # [B, 9]
        # The mean of the candidates' probabilities, taken among logarithms to keep its gradient.
        log_probs = self.system_head(features).float().log_softmax(dim=-1)  # [B, K, 7]
        log_weights = weights.float().clamp_min(1e-30).log()  # a masked candidate has weight zero
        system = (log_weights[..., None] + log_probs).logsumexp(dim=1)
        return UniMatOutput(embeddings, projections, cell, system)

    def _tokens(
        self, embeddings: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens ``[B, M, d]`` of the inputs; their mask ``[B, M]`` where any can be absent."""
        inputs = self.config.inputs
        if not (given := [name for name in inputs if name in embeddings]):
            raise ValueError(f"expected at least one view of {inputs}, got {sorted(embeddings)}")
        like = embeddings[given[0]]
        tokens = [embeddings.get(name, torch.zeros_like(like)) for name in inputs]
        if mask is None and len(given) == len(inputs):
            return torch.stack(tokens, dim=1), None
        everywhere = torch.ones(len(like), dtype=torch.bool, device=like.device)
        known = dict.fromkeys(given, everywhere) | dict(mask or {})
        present = [known[name] if name in given else ~everywhere for name in inputs]
        return torch.stack(tokens, dim=1), torch.stack(present, dim=1)


def check_views(config: UniMatConfig, views: CrystalViews) -> None:
    """Raise ``ValueError`` for views with another grid, peak width, cutoff or cap of neighbours."""
    settings = {"xrd": ("grid", "fwhm"), "structure": ("cutoff", "max_neighbors")}
    both = [name for name in settings if name in config.modalities and name in views.modalities]
    for name in (setting for modality in both for setting in settings[modality]):
        expected, came = getattr(config, name), getattr(views, name)
        if expected != came:
            what = f"the model expects views with {name}={expected}, these were built with {came}"
            raise ValueError(f"{what}: pass the same value to UniMatConfig and build_views")


def _make_encoder(name: str, config: UniMatConfig) -> nn.Module:
    if name == "structure":
        # Here, because PyTorch Geometric takes seconds to import.
        from unimat_lib.encoders.structure import StructureEncoder

        return StructureEncoder(dim=config.dim, cutoff=config.cutoff, **config.structure)
    if name == "xrd":
        return PatternEncoder(num_points=config.grid.num_points, dim=config.dim, **config.xrd)
    if name == "composition":
        size = len(MAGPIE_FEATURES)
        return CompositionEncoder(num_features=size, dim=config.dim, **config.composition)
    raise ValueError(f"expected a modality of {MODALITIES}, got {name!r}: give it an encoder here")


def num_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def save_model(model: UniMat, path: str | os.PathLike[str], *, half: bool = False) -> Path:
    """Write a model to ``path`` (``*.safetensors``) and its description beside it (``*.json``).

    The folder is made; the path is returned. ``half`` stores the weight matrices in float16, which
    halves the file. Vectors stay as they are: they are small, and the shift and scale of the cell
    need their digits.

    Raises:
        ValueError: If ``path`` does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path}")
    tensors = {
        name: (x.half() if half and x.is_floating_point() and x.ndim > 1 else x).contiguous().cpu()
        for name, x in model.state_dict().items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)
    description = {"format": FORMAT_VERSION, "sha256": file_hash(path)}
    description |= {"config": model.config.to_dict()}
    description |= {"optional_inputs": list(model.optional_inputs)}
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return path


def load_model(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> UniMat:
    """Read a model that :func:`save_model` wrote, in evaluation mode, float32.

    Nothing is built before the file has the hash and the shapes that the description asks for, so
    files from elsewhere run nothing and take no more memory than they have a right to.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If they are damaged, do not belong together or describe no model.
    """
    path = Path(path)
    description_path = path.with_suffix(".json")
    for file in (path, description_path):
        if not file.is_file():
            raise FileNotFoundError(f"{file} of the model is missing: write it with save_model")
    try:
        with open(description_path, encoding="utf-8") as handle:
            description = json.loads(handle.read(2**20))  # what is longer is no description
        if description["format"] != FORMAT_VERSION:
            raise ValueError(f"format {description['format']!r}, expected {FORMAT_VERSION}")
        config = UniMatConfig.from_dict(description["config"])
        optional = tuple(description["optional_inputs"])
        if not set(optional) <= set(config.inputs):
            raise ValueError(f"optional inputs {optional} are none of {config.inputs}")
        expected = _expected_tensors(config)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        what = f"{description_path} describes no model ({error!r}): save it again"
        raise ValueError(what) from error
    tensors = _read_weights(path, expected, sha256=description.get("sha256"))
    model = UniMat(config)
    model.optional_inputs = optional
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _expected_tensors(config: UniMatConfig) -> dict[str, Tensor]:
    """The tensors of a model without their content, which takes no memory."""
    if "structure" in config.modalities:  # here, lest what it imports makes its tensors there
        import unimat_lib.encoders.structure  # noqa: F401
    with torch.device("meta"):
        tensors = UniMat(config).state_dict()
    size = sum(x.numel() for x in tensors.values())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size:,} parameters, at most {MAX_PARAMETERS:,} are built")
    return tensors


def _read_weights(path: Path, expected: Mapping[str, Tensor], *, sha256: str) -> dict[str, Tensor]:
    """Weights in float32 that have the expected names, shapes and kinds, and the named hash."""
    if path.stat().st_size > 4 * sum(x.numel() for x in expected.values()) + 2**20:
        raise ValueError(f"{path} does not fit its description: it is larger than such a model")
    if file_hash(path) != sha256:
        what = f"{path} is damaged: its sha256 is not the {sha256} that its description names"
        raise ValueError(f"{what}; get both files again, or save the model again")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): save it again") from error
    for name in expected.keys() | tensors.keys():
        x, model = (each.get(name, torch.empty(0)) for each in (tensors, expected))
        if x.shape != model.shape or x.is_floating_point() != model.is_floating_point():
            came, wanted = (f"{t.dtype} {tuple(t.shape)}" for t in (x, model))
            what = f"{path} does not fit its description"
            raise ValueError(f"{what}: expected {wanted} for {name!r}, got {came}")
        if not torch.isfinite(x).all():
            raise ValueError(f"{path} holds what is not finite in {name!r}: train it again")
    return {name: x.float() for name, x in tensors.items()}
