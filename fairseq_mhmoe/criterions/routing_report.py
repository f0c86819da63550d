"""What a training shows of its routing beside the figures: pictures of the load in TensorBoard, and warnings.

Everything is read from the sums that the criterion logs anyway, in the host's memory: nothing waits for a GPU. One rank
reports; its sums are those of all ranks and of all --update-freq batches. L MoE layers, N experts.
"""

import logging
import re

import numpy as np
import torch
from fairseq.logging import metrics, progress_bar

from fairseq_mhmoe.criterions.load_picture import load_picture, relative_load
from fairseq_mhmoe.criterions.moe_metrics import LAYER
from fairseq_mhmoe.criterions.routing_watch import RoutingWatch

DEFAULT_MAP_INTERVAL = 500
DEFAULT_WATCH_WINDOW = 100
METER = re.compile(rf"^_moe_l({LAYER})_stats$")
MAP, HISTOGRAM = "moe_load_map", "moe_load_histogram"

logger = logging.getLogger(__name__)


class RoutingReport:
    """Reports on one training; the first rank's `before_update`, `after_update` and `after_validation` are called.

    A resumed training begins a new window, and its first picture has the load since then. A picture belongs to its
    update, like TensorBoard's scalars: there is a second one only of an update that is made a second time.
    """

    def __init__(self, map_interval: int, window: int, gate_weight: float = 0.0, z_weight: float = 0.0):
        """
        Args:
            map_interval: updates between pictures; 0 for none, at validation neither.
            window: updates over which the load is judged; 0 for no warnings.
            gate_weight, z_weight: weights of the balance loss and the z-loss, for the advice in warnings.
        Raises:
            ValueError: a negative number.
        """
        for option, number in (("--moe-load-map-interval", map_interval), ("--moe-watch-window", window)):
            if number < 0:
                raise ValueError(f"{option} {number}: expected a number of updates, 0 for never")
        self.map_interval, self.window = map_interval, window
        self.weights = gate_weight, z_weight
        self.begun = False
        self.watch = self.logdir = self.drawn = None

    def options_set(self) -> list[str]:
        """Options that are not at their defaults, for a model that has no use for them."""
        changed = {
            "--moe-load-map-interval": self.map_interval not in (0, DEFAULT_MAP_INTERVAL),
            "--moe-watch-window": self.window not in (0, DEFAULT_WATCH_WINDOW),
        }
        return [option for option, is_changed in changed.items() if is_changed]

    def before_update(self, update: int, logdir: str | None, warmup: int = 0) -> None:
        """Notes, once, where the training starts; a resumed one has sums already.

        Args:
            update: updates done so far.
            logdir: TensorBoard's folder, if any.
            warmup: updates of the learning rate's warm-up.
        """
        if self.begun:
            return
        self.begun, self.logdir, self.warmup = True, logdir, warmup
        self.first_update = update
        self.first = self.drawn = read_sums(all_meters())
        if not logdir and "--moe-load-map-interval" in self.options_set():
            logger.warning("--moe-load-map-interval has no effect without --tensorboard-logdir")

    def start_again(self) -> None:
        """Forgets what it has seen: the next update has a lower number than the last one."""
        self.begun, self.watch = False, None

    def after_update(self, update: int) -> None:
        """Warns and draws what is due after this update."""
        draw = self.logdir and self.map_interval > 0 and update % self.map_interval == 0
        look = self.window > 0 and (self.watch is None or self.watch.due(update))
        if not draw and not look:
            return
        layers, sums = read_sums(all_meters())
        if not layers:
            return
        if look:
            if self.watch is None:
                start = self.first[1] if self.first[0] else np.zeros_like(sums)
                self.watch = RoutingWatch(layers, start, self.first_update, self.window, self.warmup, *self.weights)
            for level, text in self.watch.observe(update, sums) if self.watch.due(update) else ():
                logger.log(level, "%s", text)
        if draw:
            before = self.drawn[1] if self.drawn[0] else 0
            write_picture(self.logdir, "train_inner", layers, (sums - before)[:, :-3], update)
            self.drawn = layers, sums

    def after_validation(self, meters, logdir: str, subset: str, update: int) -> None:
        """Draws the load of a validation set from the meters of its batches."""
        layers, sums = read_sums(meters)
        if layers and self.map_interval > 0:
            write_picture(logdir, subset, layers, sums[:, :-3], update)


def all_meters():
    """The meters of everything since the process began, but for validation.

    metrics.get_meters("default") is another object after a resume, which nothing is added to.
    """
    return metrics.get_active_aggregators()[0]


def read_sums(meters) -> tuple[list[str], np.ndarray | None]:
    """Labels of the MoE layers, in order, and their statistics [L, N + 3] so far; ([], None) when there are none."""
    found = {match[1]: meters[match[0]].sum for match in map(METER.match, meters) if match}
    layers = sorted((layer for layer, value in found.items() if torch.is_tensor(value)), key=place_of)
    if not layers:
        return [], None
    return layers, torch.stack([found[layer] for layer in layers]).double().numpy()


def place_of(label: str) -> tuple[int, str]:
    """Where a layer's label stands among the others: 9, 11_image, 11_text."""
    number, _, modality = label.partition("_")
    return int(number), modality


def write_picture(logdir: str, subset: str, layers, load: np.ndarray, update: int) -> None:
    """Writes picture and histogram of loads [L, N] beside the scalars of a subset."""
    writer = progress_bar.TensorboardProgressBarWrapper(None, logdir)._writer(subset)
    if writer is None or not load.any():  # tensorboard is not installed: fairseq has said so
        return
    writer.add_image(MAP, load_picture(load, layers), update, dataformats="HWC")
    relative = relative_load(load)
    writer.add_histogram(HISTOGRAM, relative[np.isfinite(relative)], update)
    writer.flush()
