"""Trainings with --chunked-cross-entropy are those without it, and so are their checkpoints."""

import re

import pytest

CHUNKED = dict(chunked_cross_entropy=True, cross_entropy_chunk=7)


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """Without and with the option: (folder, result of four updates and a validation)."""
    folders = [tmp_path_factory.mktemp(name) for name in ("plain", "chunked")]
    return [(folder, train(folder, **more)) for folder, more in zip(folders, ({}, CHUNKED))]


def figures(result):
    """Losses and gradient norms of every update, then the loss of validation."""
    lines = [(float(line["nll_loss"]), float(line["gnorm"])) for line in result.json_lines("train_inner")]
    assert len(lines) == 4
    return [figure for line in lines for figure in line] + [float(result.json_lines("valid")[-1]["valid_loss"])]


def test_losses_gradient_norms_and_validation_are_those_without_it(runs):
    plain, chunked = (figures(result) for _, result in runs)
    assert chunked == pytest.approx(plain, abs=2e-3)


@pytest.mark.parametrize("program, subset", [("fairseq-eval-lm", "gen_subset"), ("fairseq-validate", "valid_subset")])
def test_its_checkpoint_is_evaluated_like_one_without(runs, run_program, tiny_data_dir, program, subset):
    def loss(folder):
        words = dict(path=folder / "checkpoint_last.pt", task="gpt", batch_size=4, **{subset: "test"})
        output = run_program(program, tiny_data_dir, **words).output
        return float(re.search(r"(?:Loss \(base 2\): |\| loss )([\d.]+)", output)[1])

    plain, chunked = (loss(folder) for folder, _ in runs)
    assert chunked == pytest.approx(plain, abs=2e-3)


@pytest.mark.slow
def test_it_goes_with_loss_scale_tied_embedding_recomputation_and_update_freq(train, tmp_path):
    options = dict(
        memory_efficient_fp16=True,
        fp16_init_scale=4,
        share_decoder_input_output_embed=True,
        checkpoint_activations=True,
        update_freq=2,
    )
    plain, chunked = (figures(train(tmp_path, no_save=True, **options, **more)) for more in ({}, CHUNKED))
    assert chunked == pytest.approx(plain, rel=1e-2)
