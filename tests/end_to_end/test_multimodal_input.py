"""What is wrong with the data of a multimodal training ends it in one line that says what and where."""

import shutil

import pytest

from fairseq_mhmoe.vision import PatchVQ, PatchVQConfig, save_tokenizer

from ..multimodal_training import multimodal_words


@pytest.fixture
def copied(multimodal_data_dir, tmp_path):
    """A copy of DATA that may be changed."""
    return shutil.copytree(multimodal_data_dir, tmp_path / "data", symlinks=True)


def words(data, folder, **options):
    chosen = {"max_update": 2, "text_batch_size": 0, "image_batch_size": 0, "disable_validation": True, **options}
    return multimodal_words(data, folder / "run", "dense_multimodal_tiny", **chosen)


def last_line(result):
    return result.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_changed_image_is_named(copied, tmp_path, run_cli, workers):
    [tar] = (copied / "pairs").glob("*/train*.tar")
    content = bytearray(tar.read_bytes())
    start = content.index(b"IDAT")
    content[start + 20 : start + 24] = b"lost"
    tar.write_bytes(content)
    line = words(copied, tmp_path, num_workers=workers, max_update=10)
    result = run_cli("fairseq-train", *line, check=False)
    assert result.returncode == 1
    assert "error: images/train-00000.tar: 00000.png" in last_line(result), result.stdout[-2000:]
    assert "Traceback" not in result.stdout


def test_a_resume_with_another_visual_tokenizer_is_refused(copied, tmp_path, run_cli):
    run_cli("fairseq-train", *words(copied, tmp_path))
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    save_tokenizer(PatchVQ(PatchVQConfig(patch_size=8, num_codes=24, width=16)).freeze(), copied / "image_tokenizer.pt")
    result = run_cli("fairseq-train", *words(copied, tmp_path, max_update=3), check=False)
    assert result.returncode == 1
    assert "error: the checkpoint was trained with another visual tokenizer" in last_line(result)
    result = run_cli("fairseq-validate", copied, "--path", checkpoint, *validation_words(), check=False)
    assert "error: the checkpoint was trained with another visual tokenizer" in last_line(result)
    # its weights alone may go on
    run_cli("fairseq-train", *words(copied, tmp_path / "new", finetune_from_model=checkpoint))


def validation_words():
    return ["--user-dir", "fairseq_mhmoe", "--cpu", "--task", "masked_multimodal", "--batch-size", "4"]
