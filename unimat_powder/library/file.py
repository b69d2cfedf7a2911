"""Known crystals with their lines in, one memory-mapped safetensors file out, and back.

The file holds structures (:meth:`Library.crystals`), the strains that keep their symmetry
(:mod:`.symmetry`), their lines (:mod:`.lines`) and which elements they consist of. Opening it maps
it into memory and checks its hash; pages that a search does not touch cost nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pandas as pd
import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unimat_lib.crystals.table import EXTRA_SPLIT, CrystalTable, gather_segments
from unimat_lib.files import replacing
from unimat_powder.library.lines import DELTA, G_MAX, G_START, KEPT, MERGE, SIGMA

FORMAT = 1
#: What lines of a file must have been made with.
LINES = {"delta": DELTA, "g_start": G_START, "g_max": G_MAX, "merge": MERGE, "sigma": SIGMA}
LINES |= {"kept": KEPT}
#: Coordinates are whole numbers of steps of 1 / STEPS: halves, thirds, fifths, eighths are exact.
STEPS = 65520
SUFFIX = ".library.safetensors"
#: Names another library than the one in the user's data folder.
VARIABLE = "UNIMAT_LIBRARY"
_KEY = "unimat_library"  # one entry, since safetensors writes several in any order
_TYPES = {
    **{"lattice": torch.float64, "atom_offsets": torch.int64, "atomic_numbers": torch.uint8},
    **{"frac_coords": torch.uint16, "space_group": torch.uint8, "element_mask": torch.int64},
    **{"strain": torch.float16, "line_offsets": torch.int64, "line_position": torch.uint16},
    **{"line_amplitude": torch.float16, "line_overlap": torch.float16, "source": torch.uint8},
    **{"material_id": torch.uint8, "material_id_offsets": torch.int64},
    **{"formula": torch.uint8, "formula_offsets": torch.int64},
}
_BITS = torch.tensor([1 << bit for bit in range(63)] + [-(1 << 63)])  # of an int64


def built_library(name: str) -> Path:
    """Where ``unimat library build NAME`` puts a library: in the user's data folder."""
    return Path(platformdirs.user_data_dir("unimat")) / f"{name}{SUFFIX}"


def embedded_library() -> Path:
    """The library of published prototypes that comes with this package."""
    return Path(__file__).with_name("embedded") / f"prototypes{SUFFIX}"


def default_library() -> Path:
    """What ``UNIMAT_LIBRARY`` names, else the library ``mp`` if it was built, else the embedded."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    return built if (built := built_library("mp")).is_file() else embedded_library()


def element_mask(atomic_numbers: Iterable[int]) -> Tensor:
    """int64 ``[2]``: a bit for each element, Z - 1 counting from the lowest of the first word."""
    words = torch.zeros(2, dtype=torch.int64)
    for z in set(atomic_numbers):
        words[(z - 1) // 64] |= _BITS[(z - 1) % 64]
    return words


def element_masks(table: CrystalTable) -> Tensor:
    """:func:`element_mask` of every crystal, int64 ``[C, 2]``."""
    pairs = torch.unique(table.atom_crystal * 128 + table.atomic_numbers - 1)  # [M], each once
    words = torch.zeros(2 * len(table), dtype=torch.int64)
    words.index_add_(0, pairs // 64, _BITS[pairs % 64])
    return words.reshape(-1, 2)


@dataclass(frozen=True, eq=False)
class Library:
    """Known crystals; ``Library.open(path)`` makes one. Tensors are on the CPU, not to be changed.

    Crystal ``i`` has the lines ``line_offsets[i]:line_offsets[i + 1]``, see :class:`.Lines`.
    """

    path: Path
    #: what the header says: ``format``, ``tables`` (name to content hash), ``sources``,
    #: ``attribution``, ``lines`` (what these were made with) and ``sha256``
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]  #: all of them, by their names in the file

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Library:
        """Map a file of :func:`write_library` into memory.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is damaged, of another format, or something else; one line says so.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no library at {path}; make one with: unimat library build mp")
        try:
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {}).get(_KEY)
                names = list(file.keys()) if text else []
                tensors = {name: file.get_tensor(name) for name in names}
            metadata = json.loads(text) if text else None
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is no library or truncated ({reason})") from None
        if not isinstance(metadata, dict):
            raise ValueError(f"{path} is a safetensors file, but not a library of crystals")
        if (metadata.get("format"), metadata.get("lines")) != (FORMAT, LINES):
            raise ValueError(f"{path} was built by another version of unimat: build it anew")
        library = cls(path, metadata, tensors)
        library.verify()
        return library

    def verify(self) -> None:
        """Compare all bytes with the hash in the header; ``ValueError`` if they differ."""
        types = {name: x.dtype for name, x in self.tensors.items() if name != "occupancy"}
        written = {**self.metadata, "sha256": None}
        if types != _TYPES or _hash(self.tensors, written) != self.metadata.get("sha256"):
            raise ValueError(f"{self.path} is damaged (its hash is wrong): build it anew")

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.tensors["lattice"])

    @property
    def space_group(self) -> Tensor:
        """International numbers, int64 ``[C]``."""
        return self.tensors["space_group"].long()

    @property
    def strain(self) -> Tensor:
        """Bases of :func:`.strain_basis`, float16 ``[C, 6, 6]``, filled up with zero rows."""
        return self.tensors["strain"]

    @property
    def line_offsets(self) -> Tensor:
        """int64 ``[C+1]``, where the lines of each crystal begin."""
        return self.tensors["line_offsets"]

    @property
    def line_position(self) -> Tensor:
        """uint16 ``[L]``, see :class:`.Lines`; so are the next two."""
        return self.tensors["line_position"]

    @property
    def line_amplitude(self) -> Tensor:
        """float16 ``[L]``."""
        return self.tensors["line_amplitude"]

    @property
    def line_overlap(self) -> Tensor:
        """float16 ``[L]``."""
        return self.tensors["line_overlap"]

    def material_id(self, i: int) -> str:
        """Name of crystal ``i`` where it comes from."""
        return self._text("material_id", i)

    def formula(self, i: int) -> str:
        """Reduced formula of crystal ``i``."""
        return self._text("formula", i)

    def _text(self, name: str, i: int) -> str:
        start, end = self.tensors[f"{name}_offsets"][i : i + 2].tolist()
        return self.tensors[name][start:end].numpy().tobytes().decode()

    def crystals(self, index: Tensor | Iterable[int]) -> CrystalTable:
        """The structures of some crystals, ``[B]`` integers; an ``IndexError`` beyond the last.

        Lattices are exact, coordinates to 8e-6. The split is "extra": what a library holds is not
        there to be trained or tested on.
        """
        index = torch.as_tensor(index, dtype=torch.int64).reshape(-1)
        if len(wrong := index[(index < 0) | (index >= len(self))]):
            raise IndexError(f"indices must lie in 0 to {len(self) - 1}, but {int(wrong[0])} came")
        atoms, offsets = gather_segments(self.tensors["atom_offsets"], index)
        sources, rows = self.metadata["sources"], index.tolist()
        info = {"material_id": map(self.material_id, rows), "formula": map(self.formula, rows)}
        info |= {"space_group": self.space_group[index].tolist(), "split": EXTRA_SPLIT}
        info["source"] = [sources[k] for k in self.tensors["source"][index].tolist()]
        share = self.tensors.get("occupancy")
        return CrystalTable(
            atomic_numbers=self.tensors["atomic_numbers"][atoms].long(),
            frac_coords=self.tensors["frac_coords"][atoms].double() / STEPS,
            lattice=self.tensors["lattice"][index],
            offsets=offsets,
            info=pd.DataFrame({k: x if isinstance(x, str) else list(x) for k, x in info.items()}),
            occupancy=None if share is None else share[atoms].double(),
        )

    def with_elements(
        self,
        *,
        exactly: Iterable[str] | None = None,
        among: Iterable[str] | None = None,
    ) -> Tensor:
        """Crystals by their elements, int64 ``[B]``, rising; all of them without an argument.

        Args:
            exactly: Symbols of which a crystal has each, and no other.
            among: Symbols of which a crystal has some, and no other.

        Raises:
            ValueError: Both or no elements are given, or one that does not exist.
        """
        if exactly is not None and among is not None:
            raise ValueError("elements are given exactly or among which, not both")
        mask = self.tensors["element_mask"]
        if exactly is not None:
            chosen = (mask == element_mask(_numbers(exactly))).all(1)
        elif among is not None:
            chosen = ((mask & ~element_mask(_numbers(among))) == 0).all(1)
        else:
            return torch.arange(len(self))
        return chosen.nonzero()[:, 0]

    def kinship(self, rows: Tensor, elements: Iterable[str]) -> Tensor:
        """Share of elements in common, of all that a crystal or a list has; hydrogen aside.

        Args:
            rows: Crystals, int64 ``[B]``.
            elements: Symbols.

        Returns:
            float64 ``[B]``: 1 where all are, 0 where none is.
        """
        hydrogen = element_mask([1])
        mask = self.tensors["element_mask"][rows] & ~hydrogen
        asked = element_mask(_numbers(elements)) & ~hydrogen
        common, either = (
            torch.from_numpy(np.bitwise_count(x.numpy().view(np.uint64)).sum(1).astype(float))
            for x in (mask & asked, mask | asked)
        )
        return common / either.clamp_min(1)


def _numbers(symbols: Iterable[str]) -> list[int]:
    symbols = [symbols] if isinstance(symbols, str) else list(symbols)
    for symbol in symbols:
        element = gemmi.Element(str(symbol))
        if element.atomic_number == 0 or element.name != symbol:
            raise ValueError(f"unknown element {symbol!r}: symbols such as Ti or O expected")
    if not symbols:
        raise ValueError("at least one element expected")
    return [gemmi.Element(symbol).atomic_number for symbol in symbols]


def write_library(
    path: str | os.PathLike[str],
    table: CrystalTable,
    derived: Mapping[str, Tensor],
    described: Mapping[str, Any],
) -> Path:
    """Write a library, which appears only when it is complete; the same input, the same bytes.

    Args:
        path: Target; its folder is made.
        table: The crystals.
        derived: ``strain`` and ``line_...`` of the :class:`Library`.
        described: ``tables`` and ``attribution`` of the metadata.
    """
    sources = sorted(set(table.info["source"].astype(str)))
    codes = [sources.index(x) for x in table.info["source"].astype(str)]
    steps = (table.frac_coords * STEPS).round().long() % STEPS
    tensors = {
        "lattice": table.lattice,
        "atom_offsets": table.offsets,
        "atomic_numbers": table.atomic_numbers,
        "frac_coords": steps,
        "space_group": table.space_group,
        "element_mask": element_masks(table),
        "source": torch.tensor(codes, dtype=torch.int64),
        **_packed("material_id", table.info["material_id"]),
        **_packed("formula", table.info["formula"]),
        **derived,
    }
    tensors = {name: x.to(_TYPES[name]).contiguous() for name, x in tensors.items()}
    if table.occupancy is not None:
        tensors["occupancy"] = table.occupancy.float()
    metadata = {"format": FORMAT, "lines": LINES, "sources": sources, **described, "sha256": None}
    metadata["sha256"] = _hash(tensors, metadata)
    with replacing(path) as temporary:
        # Not save_file, whose files nobody but their owner can read.
        temporary.write_bytes(save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)}))
    return Path(path)


def _packed(name: str, texts: Iterable[Any]) -> dict[str, Tensor]:
    encoded = [str(text).encode() for text in texts]
    lengths = torch.tensor([0, *map(len, encoded)], dtype=torch.int64)
    flat = torch.frombuffer(bytearray(b"".join(encoded) or b"\0"), dtype=torch.uint8)
    return {name: flat, f"{name}_offsets": lengths.cumsum(0)}


def _hash(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes, and over the metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(memoryview(x.numpy()).cast("B") if x.numel() else b"")
    return digest.hexdigest()
