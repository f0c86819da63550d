"""Half precision on machines with and without a GPU."""

import pytest
import torch
from fairseq import options, trainer

import fairseq_mhmoe  # noqa: F401  (installs the hooks)

LANGUAGE_MODEL = ["data", "--task", "language_modeling", "--arch", "transformer_lm"]


@pytest.mark.parametrize(
    ("words", "tpu"),
    [(["--bf16"], False), (["--memory-efficient-bf16"], False), (["--bf16", "--tpu"], True), ([], False)],
)
def test_bfloat16_does_not_ask_for_a_tpu(words, tpu):
    parser = options.get_training_parser()
    args = options.parse_args_and_arch(parser, [*LANGUAGE_MODEL, *words])
    assert args.tpu is tpu
    assert args.bf16 is any("bf16" in word for word in words)


def test_parsing_known_words_returns_the_rest():
    parser = options.get_training_parser()
    args, rest = options.parse_args_and_arch(parser, [*LANGUAGE_MODEL, "--bf16", "--unheard-of"], parse_known=True)
    assert rest == ["--unheard-of"]
    assert args.tpu is False


@pytest.mark.parametrize("cuda", [False, True])
def test_float16_gradients_stay_apart_without_a_gpu(monkeypatch, cuda):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    args = options.parse_args_and_arch(options.get_training_parser(), [*LANGUAGE_MODEL, "--fp16"])
    assert args.fp16_no_flatten_grads is not cuda


@pytest.mark.parametrize("words", [["--fp16"], ["--amp"]])
def test_a_gpu_that_is_not_used_counts_as_none(monkeypatch, caplog, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    args = options.parse_args_and_arch(options.get_training_parser(), [*LANGUAGE_MODEL, "--cpu", *words])
    if "--amp" in words:
        assert "--amp has no effect" in caplog.text
    else:
        assert args.fp16_no_flatten_grads


def test_only_parameters_that_exist_are_shared():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    assert trainer._catalog_shared_params(model) == []
    model[1].weight = model[0].weight
    assert trainer._catalog_shared_params(model) == [["0.weight", "1.weight"]]


@pytest.mark.parametrize(("precision", "dtype"), [((), "float32"), (("--bf16",), "bfloat16"), (("--fp16",), "float16")])
def test_counts_of_bytes_stay_exact(make_trainer, precision, dtype):
    sample = {"nbytes": torch.tensor([70001.0, 3.0]), "weights": torch.ones(2)}
    converted = make_trainer(*precision)._fp_convert_sample(sample)
    assert converted["nbytes"].tolist() == [70001, 3]
    assert converted["weights"].dtype == getattr(torch, dtype)
