"""The tables about moe_layer.py's figures; same figures, same text."""

from typing import Dict, List, Optional, Tuple

from layer_cases import CONFIGS
from report_markdown import Columns, markdown

OURS, BARE, DENSE, RECOMPUTE = "ours", "bare", "dense_floor", "ours_recompute"
FORWARD, BOTH = "forward", "forward+backward"


class Case:
    """All rows of one layer, number type and size."""

    def __init__(self, rows: List[dict]) -> None:
        self.rows = {(row["variant"], row["pass"]): row for row in rows if row["routing"] == "balanced"}
        self.skewed = [row for row in rows if row["routing"] != "balanced" and row["variant"] == OURS]
        first = rows[0]
        self.config, self.dtype, self.tokens, self.experts = (
            first[key] for key in ("config", "dtype", "tokens", "num_experts")
        )
        self.swept = self.experts != CONFIGS[self.config].num_experts

    def get(self, variant: str, key: str, label: str = BOTH) -> Optional[float]:
        """A figure of a variant; None where it was not measured."""
        return self.rows.get((variant, label), {}).get(key)

    def ratio(self, variant: str, other: str, key: str = "ms") -> Optional[float]:
        """A variant's figure over another's."""
        above, below = self.get(variant, key), self.get(other, key)
        return None if above is None or not below else above / below

    @property
    def peers(self) -> List[str]:
        """Other code bases that were measured."""
        names = dict.fromkeys(name for name, _ in self.rows)
        return [name for name in names if name not in (BARE, DENSE) and not name.startswith(OURS)]

    @property
    def best_peer(self) -> Optional[str]:
        """The fastest of them."""
        return min(self.peers, key=lambda name: self.get(name, "ms"), default=None)

    def peer_name(self, name: Optional[str]) -> str:
        """With a star when it does less than we do: it drops choices."""
        return "-" if name is None else name + ("*" if "drops" in (self.get(name, "note") or "") else "")


CASE: Columns = {"layer": lambda c: c.config, "type": lambda c: c.dtype, "tokens": lambda c: c.tokens}


def cases(figures: dict) -> List[Case]:
    """The cases of moe_layer.json in the order measured, sorted by layer, type and size."""
    keys = ("config", "dtype", "tokens", "num_experts")
    groups: Dict[Tuple, List[dict]] = {}
    for row in figures["moe_layer"]["rows"]:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    order = list(CONFIGS)
    types = {"fp32": 0, "bf16": 1}
    made = [Case(rows) for rows in groups.values() if any(row["variant"] == OURS for row in rows)]
    return sorted(made, key=lambda c: (types.get(c.dtype, 2), order.index(c.config), c.experts, c.tokens))


def layer(figures: dict) -> str:
    """Our layer beside its bare products, the dense floor and the best peer."""
    columns: Columns = {
        **CASE,
        "forward ms": lambda c: c.get(OURS, "ms", FORWARD),
        "forward x bare": lambda c: c.get(OURS, "ratio_limit", FORWARD),
        "forward x dense": lambda c: c.get(OURS, "ratio_dense", FORWARD),
        "both ms": lambda c: c.get(OURS, "ms"),
        "both x bare": lambda c: c.get(OURS, "ratio_limit"),
        "both x dense": lambda c: c.get(OURS, "ratio_dense"),
        "both x best peer": lambda c: c.ratio(OURS, c.best_peer) if c.best_peer else None,
        "best peer": lambda c: c.peer_name(c.best_peer),
    }
    return markdown([c for c in cases(figures) if not c.swept], columns)


def peers(figures: dict) -> str:
    """Time of every peer over ours, forward and backward."""
    found = [c for c in cases(figures) if c.peers and not c.swept]
    names = sorted({name for c in found for name in c.peers})
    starred = {name: next(c.peer_name(name) for c in found if name in c.peers) for name in names}
    columns: Columns = {starred[name]: lambda c, name=name: c.ratio(name, OURS) for name in names}
    return markdown(found, {**CASE, **columns})


def routing(figures: dict) -> str:
    """Skewed routing: time over that of balanced routing."""
    columns: Columns = {
        **{head: lambda pair, value=value: value(pair[0]) for head, value in CASE.items()},
        "routing": lambda pair: pair[1]["routing"],
        "busiest expert / mean": lambda pair: pair[1].get("load_max"),
        "x balanced": lambda pair: pair[1]["ratio_balanced"],
    }
    found = [(c, row) for c in cases(figures) for row in c.skewed if row["pass"] == BOTH]
    return markdown(found, columns)


def experts(figures: dict) -> str:
    """The ratio to the bare products for several numbers of experts, each with rows enough."""
    found = [c for c in cases(figures) if c.swept]
    fewest = {(c.config, c.dtype): c for c in reversed(found)}
    columns: Columns = {
        "layer": lambda c: c.config,
        "type": lambda c: c.dtype,
        "N": lambda c: c.experts,
        "tokens": lambda c: c.tokens,
        "both ms": lambda c: c.get(OURS, "ms"),
        "x bare": lambda c: c.get(OURS, "ratio_limit"),
        "that over the fewest": lambda c: (
            c.get(OURS, "ratio_limit") / fewest[c.config, c.dtype].get(OURS, "ratio_limit")
        ),
    }
    return markdown(found, columns)


def memory(figures: dict) -> str:
    """What a forward pass keeps, and what recomputing the pre-activation saves and costs."""
    columns: Columns = {
        **CASE,
        "ours MiB": lambda c: c.get(OURS, "saved_mib"),
        "dense MiB": lambda c: c.get(DENSE, "saved_mib"),
        "least of peers MiB": lambda c: min((c.get(name, "saved_mib") for name in c.peers), default=None),
        "recomputing MiB": lambda c: c.get(RECOMPUTE, "saved_mib"),
        "share kept": lambda c: c.ratio(RECOMPUTE, OURS, "saved_mib"),
        "its time": lambda c: c.ratio(RECOMPUTE, OURS),
    }
    return markdown([c for c in cases(figures) if c.get(RECOMPUTE, "ms") and not c.swept], columns)


def backends(figures: dict) -> str:
    """Each back end's time over the bare products, and that of other ways to run our layer."""
    every = cases(figures)
    names = dict.fromkeys(
        name for c in every for name, _ in c.rows if name.startswith(f"{OURS}_") and name != RECOMPUTE
    )
    columns: Columns = {
        f"{name.removeprefix(f'{OURS}_')} x bare": lambda c, name=name: c.get(name, "ratio_limit") for name in names
    }
    found = [c for c in every if any(c.get(name, "ms") for name in names)]
    return markdown(found, {**CASE, "N": lambda c: c.experts, **columns})
