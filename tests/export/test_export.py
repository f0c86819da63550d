"""mhmoe-export and mhmoe-checkpoint import on a trained checkpoint: the folder elsewhere, and the way back."""

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file

from fairseq_mhmoe.checkpoint import load
from fairseq_mhmoe.checkpoint.converting import split
from fairseq_mhmoe.cli import checkpoint as checkpoint_cli
from fairseq_mhmoe.cli import evaluate
from fairseq_mhmoe.cli import export as export_cli
from fairseq_mhmoe.export import hf_folder
from fairseq_mhmoe.export.hf_model import to_hf_name
from fairseq_mhmoe.export.importing import import_folder

from .conftest import MODEL, TRAINING

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
