"""Which losses of a training are usual, judged by those just before: no fairseq, no torch."""

import math
from collections import deque
from statistics import median

NORMAL = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
LEAST = 0.01  # of the median: the scatter that is always granted


class LossRange:
    """The median of the last `window` usual losses, and a limit `threshold` times their scatter above it.

    The scatter is NORMAL times the median absolute deviation, at least LEAST times the median. Both hold while less
    than half of the losses are strange; strange ones are not taken in, and low ones are never strange. A higher level
    that stays for a whole window becomes the usual one.
    """

    def __init__(self, window, threshold, losses=(), high=()):
        """
        Args:
            window: number of losses; nothing is judged before there are as many.
            threshold: in units of the scatter.
            losses, high: what a former `state` had.
        """
        self.window, self.threshold = window, threshold
        self.losses, self.high = deque(losses, window), list(high)

    def observe(self, loss):
        """Takes the next loss -> whether it is above the limit."""
        limit = self.limit()
        if limit is None or loss <= limit:
            self.high = []
            if math.isfinite(loss):
                self.losses.append(loss)
            return False
        self.high.append(loss)
        if len(self.high) >= self.window:
            self.losses.clear()
            self.losses.extend(x for x in self.high if math.isfinite(x))
            self.high = []
        return True

    def middle(self):
        """The median of the usual losses; None before there are enough."""
        return median(self.losses) if len(self.losses) == self.window else None

    def limit(self):
        """The largest usual loss; None before there are enough."""
        middle = self.middle()
        if middle is None:
            return None
        deviation = median(abs(loss - middle) for loss in self.losses)
        return middle + self.threshold * max(NORMAL * deviation, LEAST * abs(middle))

    def state(self):
        """What `losses` and `high` are in the constructor, as plain lists."""
        return {"losses": list(self.losses), "high": list(self.high)}
