"""mhmoe-export and mhmoe-checkpoint import on a trained checkpoint: the folder elsewhere, and the way back."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq_mhmoe.checkpoint import load
from fairseq_mhmoe.checkpoint.converting import split
from fairseq_mhmoe.cli import checkpoint as checkpoint_cli
from fairseq_mhmoe.cli import evaluate
from fairseq_mhmoe.cli import export as export_cli
from fairseq_mhmoe.export import hf_folder
from fairseq_mhmoe.export.hf_model import to_hf_name
from fairseq_mhmoe.export.importing import import_folder

MODEL = (
    "--user-dir fairseq_mhmoe --task gpt --arch mhmoe_lm_tiny --decoder-embed-dim 32 --decoder-layers 2 "
    "--decoder-attention-heads 4 --decoder-ffn-embed-dim 48 --moe-expert-count 4 --moe-ffn-dim 24 "
    "--tokens-per-sample 32"
).split()
TRAINING = (
    "--criterion moe_cross_entropy --optimizer adam --lr 0.01 --lr-scheduler fixed --batch-size 8 --cpu --seed 1 "
    "--no-epoch-checkpoints --disable-validation --log-interval 1 --log-format json"
).split()
# loads and generates where neither fairseq nor this package can be imported
ELSEWHERE = """
import json, sys
sys.modules["fairseq"] = sys.modules["fairseq_mhmoe"] = sys.modules["data_prep"] = None
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
half = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
inputs = tokenizer(["The river", "The history of the town"], return_tensors="pt", padding=True)
generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)
print(json.dumps({
    "input": inputs["input_ids"].tolist(), "generated": generated.tolist(),
    "logits": model(**inputs).logits[1].tolist(),
    "from nothing": model.generate(max_new_tokens=3, do_sample=False).tolist(),
    "text": tokenizer.decode(inputs["input_ids"][0], skip_special_tokens=True),
    "dtypes": sorted({str(p.dtype) + (" router" if "router" in n else "") for n, p in half.named_parameters()}),
    "body": type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__,
}))
"""


@pytest.fixture(scope="module")
def trained(tiny_data_dir, run_cli, tmp_path_factory):
    """checkpoint_last.pt after 6 updates, which names its data folder."""
    folder = tmp_path_factory.mktemp("trained")
    run_cli("fairseq-train", tiny_data_dir, *MODEL, *TRAINING, "--max-update", "6", "--save-dir", folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    """The exported folder, which the program has checked."""
    target = tmp_path_factory.mktemp("exported") / "hf"
    assert export_cli.main([str(trained), str(target)]) == 0
    return target


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the exported folder to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights_of(path):
    return load(path)["model"]


def test_the_folder_loads_without_fairseq_and_generates(folder, trained, tmp_path):
    from fairseq_mhmoe.evaluation.loading import load_checkpoint

    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", ELSEWHERE, str(folder)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout)
    loaded = load_checkpoint(trained, device="cpu")
    with torch.inference_mode():
        expected = loaded.model(torch.tensor(found["input"]))[0][1]
        text = found["input"][1]
        for _ in range(6):
            text = [*text, int(loaded.model(torch.tensor([text]))[0][0, -1].argmax())]
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, atol=1e-5, rtol=0)
    assert found["generated"][1] == text
    assert found["from nothing"][0][0] == loaded.dictionary.eos()
    assert found["text"] == "The river"
    assert found["dtypes"] == ["torch.bfloat16", "torch.float32 router"]
    assert found["body"] == "MHMoEModel"


def test_what_is_written(folder, capsys, trained, tmp_path):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json", "vocab.json",
        "spm.model", "configuration_mhmoe.py", "modeling_mhmoe.py", "layers_mhmoe.py",
        "experts_mhmoe.py", "tokenization_mhmoe.py",
        "README.md", "LICENSE",
    }  # fmt: skip
    card = (folder / "README.md").read_text()
    assert "Multi-Head Mixture-of-Experts" in card and "made up" in card and "| trained for | 6 updates |" in card
    written = "".join((folder / name).read_text() for name in ("config.json", "tokenizer_config.json", "README.md"))
    assert str(trained.parent) not in written and "/data" not in written  # no paths of this machine
    assert not list(folder.parent.glob(".hf*"))


def test_weights_come_back_bit_by_bit(folder, trained, tiny_data_dir, tmp_path):
    back = tmp_path / "back.pt"
    assert checkpoint_cli.main(["import", str(folder), str(back), "--data", str(tiny_data_dir)]) == 0
    before, after = weights_of(trained), weights_of(back)
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = tmp_path / "again"
    assert export_cli.main([str(back), str(again), "--no-check"]) == 0
    for name in ("model.safetensors", "config.json", "vocab.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_fairseqs_programs_take_what_comes_back(folder, trained, tiny_data_dir, tmp_path, run_cli, monkeypatch):
    back = tmp_path / "back.pt"
    import_folder(folder, back)
    words = [tiny_data_dir, "--user-dir", "fairseq_mhmoe", "--task", "gpt", "--gen-subset", "valid", "--cpu"]
    scores = []
    for path in (trained, back):
        found = run_cli("fairseq-eval-lm", *words, "--path", path, "--sample-break-mode", "none").stdout
        scores.append([line.split("Loss (base 2)")[1] for line in found.splitlines() if "Loss (base 2)" in line])
    assert scores[0] == scores[1] and len(scores[0]) == 1
    first = []
    for number, given in enumerate((["--finetune-from-model", back], ["--restore-file", back, "--reset-optimizer"])):
        save_dir = tmp_path / f"run{number}"
        log = run_cli(
            "fairseq-train", tiny_data_dir, *MODEL, *TRAINING, *given, "--max-update", "2", "--save-dir", save_dir
        ).stdout
        assert weights_of(save_dir / "checkpoint_last.pt").keys() == weights_of(back).keys()
        first.append(next(line.split('"loss": ')[1].split(",")[0] for line in log.splitlines() if '"loss": ' in line))
    assert first[0] == first[1]
    output = tmp_path / "scores.json"
    monkeypatch.setattr(sys, "argv", [str(word) for word in ("evaluate", *words, "--path", back, "--output", output)])
    evaluate.main()
    assert json.loads(output.read_text())["valid"]["perplexity"] > 1


def test_a_checkpoint_of_two_ranks_gives_the_same_folder(folder, trained, tmp_path):
    split(trained, tmp_path / "two.pt", 2)
    assert export_cli.main([str(tmp_path / "two.pt"), str(tmp_path / "hf"), "--no-check"]) == 0
    assert (tmp_path / "hf/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_without_its_data_folder_there_is_no_tokenizer(trained, folder, tmp_path, capsys):
    state = load(trained)
    state["cfg"]["task"]["data"] = str(tmp_path / "gone")
    torch.save(state, tmp_path / "alone.pt")
    assert export_cli.main([str(tmp_path / "alone.pt"), str(tmp_path / "hf")]) == 0
    assert "no tokenizer: no data folder; name it with --data" in capsys.readouterr().out
    assert not (tmp_path / "hf/vocab.json").exists()
    assert "There is no tokenizer" in (tmp_path / "hf/README.md").read_text()
    assert (tmp_path / "hf/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_large_models_are_several_files(trained, folder, tmp_path):
    target = tmp_path / "hf"
    assert export_cli.main([str(trained), str(target), "--max-shard-gb", "0.00002"]) == 0
    index = json.loads((target / "model.safetensors.index.json").read_text())
    files = sorted(target.glob("*.safetensors"))
    assert len(files) > 3 and {path.name for path in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(t.nbytes for path in files for t in load_file(path).values())
    import_folder(target, tmp_path / "back.pt")
    before, after = weights_of(trained), weights_of(tmp_path / "back.pt")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_half_precision_keeps_routers(trained, tmp_path):
    assert export_cli.main([str(trained), str(tmp_path / "hf"), "--dtype", "float16"]) == 0
    found, expected = load_file(tmp_path / "hf/model.safetensors"), weights_of(trained)
    for name, tensor in expected.items():
        router = "router" in name
        assert found[to_hf_name(name)].dtype == (torch.float32 if router else torch.float16)
        torch.testing.assert_close(found[to_hf_name(name)].float(), tensor, atol=0 if router else 1e-3, rtol=1e-3)
    assert json.loads((tmp_path / "hf/config.json").read_text())["dtype"] == "float16"
    import_folder(tmp_path / "hf", tmp_path / "back.pt")
    assert {tensor.dtype for tensor in weights_of(tmp_path / "back.pt").values()} == {torch.float32}


def test_an_export_that_fails_leaves_everything_as_it_was(trained, copy, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    assert export_cli.main([str(trained), str(copy)]) == 2
    assert "exists; name another folder, or add --force" in capsys.readouterr().err
    monkeypatch.setattr(hf_folder, "model_card", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert export_cli.main([str(trained), str(copy), "--force"]) == 1
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_only_a_models_folder_is_replaced(trained, folder, copy, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    assert export_cli.main([str(trained), str(tmp_path / "mine"), "--force"]) == 2
    assert "is no model's folder" in capsys.readouterr().err
    (copy / "old.txt").write_text("of the model before")
    assert export_cli.main([str(trained), str(copy), "--force"]) == 0
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_wrong_model_is_not_written(trained, tmp_path, monkeypatch, capsys):
    from fairseq_mhmoe.export import checking

    monkeypatch.setattr(checking, "compare_logits", lambda *_: checking.Difference(0.1, 2.0))
    assert export_cli.main([str(trained), str(tmp_path / "hf")]) == 2
    assert "logits of the exported model differ by 0.1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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


def test_errors_are_one_line_and_replacing_is_asked_for(folder, trained, tmp_path, capsys):
    assert export_cli.main([str(tmp_path / "none.pt"), str(tmp_path / "hf")]) == 2
    assert checkpoint_cli.main(["import", str(tmp_path), str(tmp_path / "x.pt")]) == 2
    (tmp_path / "x.pt").write_text("mine")
    assert checkpoint_cli.main(["import", str(folder), str(tmp_path / "x.pt")]) == 2
    assert export_cli.main([str(trained), str(tmp_path / "hf"), "--max-shard-gb", "0"]) == 2
    error = capsys.readouterr().err
    assert [line.split(": error: ")[0] for line in error.splitlines() if ": error: " in line] == [
        "mhmoe-export", "mhmoe-checkpoint", "mhmoe-checkpoint", "mhmoe-export"
    ]  # fmt: skip
    assert "or add --force" in error and (tmp_path / "x.pt").read_text() == "mine"
    assert checkpoint_cli.main(["import", str(folder), str(tmp_path / "x.pt"), "--force"]) == 0
