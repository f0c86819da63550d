"""A folder that is not what mhmoe-export wrote is refused with what is wrong with it, and nothing is written."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_mhmoe.export.importing import import_folder


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "model.layers.0.final_layer_norm.weight"
DAMAGES = {
    "missing tensor": (
        lambda w: w.pop(NORM),
        "lacks 1 tensors of the model, such as decoder.layers.0.final_layer_norm",
    ),
    "wrong shape": (
        lambda w: w.update({NORM: torch.ones(7)}),
        r"final_layer_norm.weight has shape \(7,\); expected \(32,\)",
    ),
    "unknown tensor": (lambda w: w.update({"model.more": torch.ones(1)}), "has a tensor model.more, which the model"),
    "whole numbers": (
        lambda w: w.update({NORM: torch.ones(32, dtype=torch.int32)}),
        "is torch.int32; expected float32",
    ),
}


@pytest.mark.parametrize("change, message", DAMAGES.values(), ids=DAMAGES)
def test_tensors_that_do_not_fit_are_refused(change, message, copy, tmp_path):
    change_weights(copy, change)
    with pytest.raises(ValueError, match=message):
        import_folder(copy, tmp_path / "back.pt")
    assert not (tmp_path / "back.pt").exists()


def test_foreign_and_changed_folders_are_refused(copy, tmp_path, write_folder_of_50):
    target, config = tmp_path / "back.pt", copy / "config.json"
    original = config.read_text()
    kept = json.loads(original)["fairseq"]
    options = kept["model"]
    for changes, message in (
        ({"model_type": "llama"}, "model_type is 'llama'; expected 'mhmoe_lm'"),
        ({"vocab_size": "many"}, "vocab_size is 'many'; expected a positive number"),
        ({"moe_heads": 4}, "was changed: moe_heads 4 .expected 2."),
        ({"fairseq": None}, "with the options of model and task"),
        ({"fairseq": kept | {"model": options | {"evil": 1}}}, "wrong option of the model: .*evil"),
        ({"fairseq": kept | {"model": options | {"decoder_layers": "two"}}}, "wrong option of the model: .*two"),
        ({"fairseq": kept | {"model": options | {"moe_top_k": 9}}}, "--moe-top-k 9"),
        ({"fairseq": kept | {"task": {"data": "/etc"}}}, "task option 'data'"),
    ):
        config.write_text(original)
        change_json(config, **changes)
        with pytest.raises(ValueError, match=message):
            import_folder(copy, target)
    config.write_text("{")
    with pytest.raises(ValueError, match="config.json can't be read"):
        import_folder(copy, target)
    config.write_text(original)
    with pytest.raises(ValueError, match="a dictionary of 50 symbols, the model one of"):
        import_folder(copy, target, write_folder_of_50)
    assert not target.exists()


@pytest.fixture
def write_folder_of_50(tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "dict.txt").write_text("".join(f"w{number} 1\n" for number in range(46)))
    return folder


def test_another_dictionary_of_the_same_size_is_refused(folder, tiny_data_dir, tmp_path):
    symbols = (tiny_data_dir / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join([symbols[1], symbols[0], *symbols[2:]]) + "\n")
    with pytest.raises(ValueError, match="another dictionary than the model: 2 symbols"):
        import_folder(folder, tmp_path / "back.pt", tmp_path)


def test_damaged_weight_files_are_refused(copy, tmp_path):
    weights = copy / "model.safetensors"
    content = weights.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\x80\x04pickle" * 40):
        weights.write_bytes(damage)
        with pytest.raises(ValueError, match="can't be read, it is damaged or missing"):
            import_folder(copy, tmp_path / "back.pt")
    weights.unlink()
    with pytest.raises(ValueError, match="has neither model.safetensors nor"):
        import_folder(copy, tmp_path / "back.pt")
    for name in ("../secret.safetensors", "/etc/passwd", 3):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(ValueError, match="no weight_map from tensors to files of this folder"):
            import_folder(copy, tmp_path / "back.pt")
