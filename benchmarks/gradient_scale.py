"""How large numbers and gradients are inside MoE layers: what experts get, give, and learn from.

    python benchmarks/gradient_scale.py runs/reproduce/english/xmoe-1/checkpoint_last.pt --batches 16 --json scale.json

For each MoE layer, over batches of the validation text (root mean squares; B batch, T length, D width): the layer's
input, output and their ratio, and the gradient of each kind of parameter, per number and relative to the parameter.
--initial measures the same model as it was before its first update.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fairseq_mhmoe.cli.files import write_json
from fairseq_mhmoe.evaluation.loading import Loaded, load_checkpoint

KINDS = ("head", "router", "experts", "merge")


def rms(x: Tensor) -> float:
    """Root mean square of all numbers."""
    return float(x.detach().double().square().mean().sqrt())


def batches_of(loaded: Loaded, count: int):
    """The first batches of the validation text."""
    loaded.task.load_dataset("valid")
    iterator = loaded.task.get_batch_iterator(loaded.task.dataset("valid"), max_sentences=8)
    batches = iterator.next_epoch_itr(shuffle=False)
    return [batch for batch, _ in zip(batches, range(count))]


def measure(loaded: Loaded, count: int) -> list[dict]:
    """One entry per MoE layer, averaged over `count` batches."""
    criterion = loaded.task.build_criterion(loaded.cfg.criterion)
    sums = [defaultdict(float) for _ in loaded.moe_layers()]

    def watch(found: dict):
        def hook(_module: nn.Module, inputs: tuple, outputs: tuple) -> None:
            found["input"] += rms(inputs[0]) / count
            found["output"] += rms(outputs[0]) / count

        return hook

    layers = loaded.moe_layers()
    hooks = [layer.register_forward_hook(watch(found)) for (_, layer), found in zip(layers, sums, strict=True)]
    batches = batches_of(loaded, count)
    for batch in batches:
        loaded.model.zero_grad()
        loss, sample_size, _ = criterion(loaded.model, batch)
        (loss / sample_size).backward()
        for (_, layer), found in zip(layers, sums, strict=True):
            for kind in KINDS:
                parameters = [p for p in getattr(layer, kind).parameters() if p.grad is not None and p.dim() > 1]
                if parameters:
                    gradient = torch.cat([p.grad.flatten() for p in parameters])
                    weight = torch.cat([p.flatten() for p in parameters])
                    found[f"{kind}_gradient"] += rms(gradient) / count
                    found[f"{kind}_relative"] += rms(gradient) / rms(weight) / count
    for hook in hooks:
        hook.remove()
    return [{"block": block} | dict(found) for (block, _), found in zip(layers, sums, strict=True)]


def main(words: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT")
    parser.add_argument("--data", type=Path, help="prepared folder (default: the one that the checkpoint names)")
    parser.add_argument("--batches", type=int, default=16, help="of 8 sequences (default: %(default)s)")
    parser.add_argument("--initial", action="store_true", help="with the weights before the first update")
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args(words)
    results = {}
    for path in arguments.checkpoints:
        loaded = load_checkpoint(path, arguments.data)
        if arguments.initial:
            torch.manual_seed(loaded.cfg.common.seed)
            loaded.model.load_state_dict(loaded.task.build_model(loaded.cfg.model).state_dict())
        results[str(path)] = measure(loaded, arguments.batches)
        for figures in results[str(path)]:
            print(path, " ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
