"""Comparisons of one golden file and their worst errors."""

from pathlib import Path
from typing import Any, Dict, List, Set

import numpy as np
import torch
from torch import Tensor

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4
RESULTS = ("out/", "aux/", "grad/", "after/")


class CannotCheck(Exception):
    """The file asks for something that our classes do not have."""


class Checker:
    """The arrays of a file, and what came of comparing ours with them."""

    def __init__(self, path: Path, meta: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> None:
        self.path, self.meta, self.arrays = path, meta, arrays
        self.worst_output = self.worst_gradient = 0.0
        self.compared = 0
        self.seen: Set[str] = set()
        self.differences: List[str] = []
        if not isinstance(meta, dict):
            raise CannotCheck(f"its settings are no table: {meta!r}")

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def tensor(self, name: str) -> Tensor:
        """An array as a tensor; index arrays as int64."""
        tensor = torch.from_numpy(self.arrays[name])
        return tensor.long() if tensor.dtype == torch.int32 else tensor

    def parameters(self, prefix: str) -> Dict[str, Tensor]:
        """The arrays below `prefix`, by the rest of their names."""
        return {n[len(prefix) :]: self.tensor(n) for n in self.arrays if n.startswith(prefix)}

    def output(self, name: str, ours: Tensor) -> None:
        """Compare an output; its worst error over the array's largest value."""
        self.worst_output = max(self.worst_output, self._close(name, ours, OUTPUT_TOLERANCE))

    def gradient(self, name: str, ours: Tensor) -> None:
        """Compare a gradient in the same way."""
        self.worst_gradient = max(self.worst_gradient, self._close(name, ours, GRADIENT_TOLERANCE))

    def exact(self, name: str, ours: Tensor) -> None:
        """Compare routing, which has to be equal."""
        theirs = self._theirs(name)
        if ours.shape != theirs.shape:
            self.differences.append(f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
        elif not torch.equal(ours.to(theirs.dtype), theirs):
            self.differences.append(f"{name}: {int((ours != theirs).sum())} of {theirs.numel()} entries differ")

    def require_all(self) -> None:
        """Note every result of theirs that nothing of ours was compared with."""
        left = sorted(n for n in self.arrays if n.startswith(RESULTS) and n not in self.seen)
        if left:
            self.differences.append(f"{len(left)} arrays that this program does not know: {', '.join(left[:5])}")

    def _theirs(self, name: str) -> Tensor:
        self.compared += 1
        self.seen.add(name)
        return self.tensor(name)

    def _close(self, name: str, ours: Tensor, tolerance: float) -> float:
        theirs = self._theirs(name).double()
        ours = ours.detach().double()
        if ours.shape != theirs.shape:
            self.differences.append(f"{name}: shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
            return float("inf")
        scale = theirs.abs().max().clamp(min=1e-12)
        error = float(((ours - theirs).abs().max() / scale).nan_to_num(nan=float("inf")))
        if not error <= tolerance:
            self.differences.append(f"{name}: error {error:.2e} of the largest value, allowed {tolerance:.0e}")
        return error

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing differed."""
        return self.compared > 0 and not self.differences

    def summary(self) -> str:
        """One line a file, and one for each difference."""
        head = f"{'ok  ' if self.passed else 'FAIL'} {self.path.name}: {self.compared} arrays, worst output error "
        head += f"{self.worst_output:.1e}, worst gradient error {self.worst_gradient:.1e}"
        return "\n     ".join([head, *self.differences])
