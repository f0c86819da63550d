"""Task masked_multimodal on a prepared folder: batches, restarts, workers, its visual tokenizer, refused options."""

import json
import math
import shutil
from copy import deepcopy

import pytest
import torch
from fairseq import options
from fairseq import tasks as fairseq_tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from fairseq_mhmoe.cli import image_codes
from fairseq_mhmoe.vision import PatchVQ, PatchVQConfig, load_tokenizer, save_tokenizer

SMALL = {"image_size": 32, "patch_size": 8, "tokens_per_sample": 24, "caption_length": 20}
CACHED = {}


def make_task(folder, *words, **fields):
    """The task as fairseq-train would build it with these words of a command line and these fields changed."""
    if words not in CACHED:
        line = ["FOLDER", "--task", "masked_multimodal", "--arch", "dense_multimodal_tiny", *words]
        parsed = options.parse_args_and_arch(options.get_training_parser(), line)
        CACHED[words] = convert_namespace_to_omegaconf(parsed).task
    config = deepcopy(CACHED[words])
    for name, value in {"data": str(folder), **SMALL, **fields}.items():
        config[name] = value
    return fairseq_tasks.setup_task(config)


@pytest.fixture(scope="module")
def data(multimodal_data_dir):
    return multimodal_data_dir


def iterator(task, split="train", **arguments):
    if split not in task.datasets:
        task.load_dataset(split)
    return task.get_batch_iterator(task.dataset(split), **{"max_sentences": 4, "epoch": 1, **arguments})


def numbers(batch):
    """What tells one batch from another."""
    streams = [stream for stream in batch["net_input"].values() if stream is not None]
    return [batch["id"].tolist(), *({name: part.tolist() for name, part in stream.items()} for stream in streams)]


def test_a_step_has_each_streams_rows(data):
    task = make_task(data, image_batch_size=2, text_batch_size=3)
    batches = iterator(task)
    first = next(batches.next_epoch_itr())
    rows = {name: stream["rows"] for name, stream in first["streams"].items()}
    assert rows == {"image": 2, "text": 3, "pair": 4}
    assert first["streams"]["image"]["image_masked"] == 2 * 6
    # the text takes the most batches: its tokens in blocks of 22
    tokens = json.loads((data / "text" / "manifest.json").read_text())["splits"]["train"]["tokens"]
    assert len(batches) == math.ceil(math.ceil(tokens / 22) / 3)
    assert len(iterator(make_task(data, text_batch_size=0))) == 6
    assert list(iterator(make_task(data, text_batch_size=0, image_batch_size=0)).first_batch["streams"]) == ["pair"]


def test_any_number_of_workers_gives_the_same_batches(data):
    task = make_task(data, text_batch_size=0)
    alone = [numbers(batch) for batch in iterator(task).next_epoch_itr()]
    shared = iterator(make_task(data, text_batch_size=0), num_workers=2).next_epoch_itr()
    assert [numbers(batch) for batch in shared] == alone


def test_two_processes_see_together_what_one_sees(data):
    one = [numbers(batch) for batch in iterator(make_task(data, text_batch_size=0)).next_epoch_itr()]
    shares = [
        list(iterator(make_task(data, text_batch_size=0), num_shards=2, shard_id=rank).next_epoch_itr())
        for rank in range(2)
    ]
    assert [numbers(batch) for pair in zip(*shares, strict=True) for batch in pair] == one


def test_a_restart_in_the_middle_of_an_epoch_goes_on(data):
    epochs = iterator(make_task(data, text_batch_size=1, tokens_per_sample=1024))
    assert len(epochs) > 20
    list(epochs.next_epoch_itr())
    running = epochs.next_epoch_itr()
    for _ in range(11):
        next(running)
    state = json.loads(json.dumps(epochs.state_dict()))
    rest = [numbers(batch) for batch in running]
    # as the trainer does: an iterator for the epoch, then its state
    resumed = iterator(make_task(data, text_batch_size=1, tokens_per_sample=1024), epoch=state["epoch"])
    resumed.load_state_dict(state)
    assert [numbers(batch) for batch in resumed.next_epoch_itr()] == rest
    assert numbers(next(resumed.next_epoch_itr())) == numbers(next(epochs.next_epoch_itr())) != rest[0]


def test_validation_is_the_same_for_all_seeds_and_every_time(data):
    task, other = make_task(data, text_batch_size=2), make_task(data, text_batch_size=2, seed=77)
    epochs = iterator(task, "valid")
    first, again = ([numbers(batch) for batch in epochs.next_epoch_itr(shuffle=False)] for _ in range(2))
    elsewhere = [numbers(batch) for batch in iterator(other, "valid").next_epoch_itr(shuffle=False)]
    assert first == again == elsewhere
    ids = [number for batch in first for number in batch[0]]
    assert sorted(ids) == list(range(len(task.dataset("valid"))))
    assert numbers(iterator(task).first_batch) != numbers(iterator(other).first_batch)


def test_codes_of_masked_patches_are_added_on_the_way_to_the_model(data):
    task = make_task(data, text_batch_size=0)
    tokenizer = load_tokenizer(data / "image_tokenizer.pt")
    sample = iterator(task).first_batch
    assert "image" not in sample["targets"]["pair"]
    task.add_codes(sample)
    for name in ("image", "pair"):
        stream = sample["net_input"][name]
        expected = torch.stack([tokenizer(row[None])[0] for row in stream["images"]])[stream["image_mask"]]
        assert sample["targets"][name]["image"].tolist() == expected.tolist()
    assert sample["targets"]["pair"]["image"].unique().numel() > 3
    assert not any("tokenizer" in name for name in vars(task.build_model(model_config()))["_modules"])


def model_config():
    line = ["FOLDER", "--task", "masked_multimodal", "--arch", "dense_multimodal_tiny", "--encoder-layers", "1"]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line)).model


def test_codes_come_from_files_where_images_are_not_cropped(data, tmp_path):
    shutil.copytree(data, tmp_path / "data", symlinks=True)
    folder, fields = tmp_path / "data", {"image_codes": True, "text_batch_size": 0}
    with pytest.raises(ValueError, match="no codes of split valid at 32 px"):
        make_task(folder, **fields).load_dataset("valid")
    for part in ("pairs", "images"):
        words = [folder / part, "--image-tokenizer", folder / "image_tokenizer.pt", "--image-size", 32]
        image_codes.main(list(map(str, words)))
    task, computing = make_task(folder, **fields), make_task(data, text_batch_size=0)
    sample, expected = iterator(task, "valid").first_batch, iterator(computing, "valid").first_batch
    computing.add_codes(expected)
    for name in ("image", "pair"):
        assert sample["targets"][name]["image"].tolist() == expected["targets"][name]["image"].tolist()
    assert "image" not in iterator(task).first_batch["targets"]["pair"], "crops have other codes"


def test_the_model_learns_from_the_task_what_it_predicts(data):
    task = make_task(data)
    assert task.model_heads() == {"image": {"kind": "codes", "classes": 24}, "text": {"kind": "text"}}
    assert (task.image_size, task.patch_size, task.max_text_positions) == (32, 8, 24)
    dictionary = task.source_dictionary
    assert dictionary[len(dictionary) - 1] == "<mask>"
    assert task.symbols == (0, 1, 2, len(dictionary) - 1, 4, len(dictionary) - 1)
    only_images = make_task(data, text_batch_size=0, pair_batch_size=0)
    assert list(only_images.model_heads()) == ["image"]
    only_text = make_task(data, image_batch_size=0, pair_batch_size=0, image_tokenizer="missing.pt")
    assert list(only_text.model_heads()) == ["text"]


def test_another_tokenizer_than_the_checkpoints_is_refused(data, tmp_path, caplog):
    task = make_task(data)
    state = task.state_dict()
    assert state["image_tokenizer"] == load_tokenizer(data / "image_tokenizer.pt").fingerprint()
    save_tokenizer(PatchVQ(PatchVQConfig(patch_size=8, num_codes=24, width=16)).freeze(), tmp_path / "other.pt")
    other = make_task(data, image_tokenizer=str(tmp_path / "other.pt"))
    for check in (other.check_state, other.load_state_dict):
        with pytest.raises(ValueError, match="trained with another visual tokenizer .*--image-tokenizer"):
            check(state)
    make_task(data).check_state(state)
    other.check_state({})
    assert "per batch" not in caplog.text


def test_other_batch_sizes_than_the_checkpoints_are_told(data, caplog):
    state = make_task(data, batch_size=4).state_dict()
    make_task(data, batch_size=4, text_batch_size=0).check_state(state)
    assert "trained with 4 image, 4 text, 4 pair per batch, now 4 image, 4 pair" in caplog.text


def test_a_batch_needs_a_size(data):
    with pytest.raises(ValueError, match="--batch-size is missing"):
        iterator(make_task(data, image_batch_size=2, text_batch_size=0), max_sentences=None)


def test_batches_that_can_not_be_grouped_are_told(data, caplog):
    iterator(make_task(data, text_batch_size=0), grouped_shuffling=True)
    assert "--grouped-shuffling has no effect" in caplog.text


def test_sources_of_the_text_can_be_mixed(data, tmp_path, write_sources):
    symbols = len(make_task(data).source_dictionary) - 5
    folder = write_sources(
        tmp_path / "text",
        large={"train": [[[5] * 40] * 30], "valid": [[[5] * 9]]},
        small={"train": [[[7] * 40] * 3], "valid": [[[7] * 9]]},
    )
    assert symbols > 7
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "dict.txt", tmp_path / "data")
    fields = {"text_data": str(folder), "image_batch_size": 0, "pair_batch_size": 0, "tokens_per_sample": 42}
    shares = {}
    for alpha in (1.0, 0.0):
        batches = iterator(make_task(tmp_path / "data", sampling_alpha=alpha, **fields)).next_epoch_itr()
        targets = torch.cat([batch["targets"]["text"]["text"] for batch in batches])
        shares[alpha] = (targets == 7).float().mean().item()
    assert shares[1.0] == pytest.approx(3 / 33, abs=0.05)
    assert shares[0.0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"max_tokens": 100}, "--max-tokens 100: .*give --batch-size"),
        ({"image_size": 30}, "--image-size 30 and --patch-size 8: expected a multiple"),
        ({"image_mask_ratio": 1.2}, "--image-mask-ratio is 1.2; expected 0 to 1"),
        ({"text_mask_ratio": 0.0}, "--text-mask-ratio 0: nothing would be predicted"),
        ({"pair_text_mask_ratio": 0.0, "pair_image_mask_ratio": 0.0}, "--pair-image-mask-ratio 0 and"),
        ({"text_batch_size": -1}, "--text-batch-size is -1"),
        ({"image_batch_size": 0, "text_batch_size": 0, "pair_batch_size": 0}, "are all 0"),
        ({"caption_length": 2}, "--caption-length is 2; expected 3"),
        ({"image_augmentation": "flip"}, "--image-augmentation is 'flip'; expected crop or none"),
        ({"pair_scale_min": 0.0}, "--pair-scale-min is 0.0; expected above 0"),
        ({"color_jitter": -0.1}, "--color-jitter is -0.1"),
        ({"sampling_alpha": -1.0}, "--sampling-alpha is -1.0"),
        ({"patch_size": 16}, "has patches of 8 pixels, --patch-size is 16"),
        ({"num_codes": 8192}, "has 24 codes, --num-codes is 8192"),
        ({"image_tokenizer": "missing.pt"}, "no visual tokenizer missing.pt; train one"),
        ({"image_data": "missing"}, "no folder missing for the image stream; .*--image-batch-size 0"),
    ],
)
def test_what_can_not_be_is_refused(data, fields, message):
    with pytest.raises(ValueError, match=message):
        make_task(data, **fields)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text_batch_size": 0, "text_data": "text"}, "--text-data: --text-batch-size 0 switches the stream off"),
        ({"image_augmentation": "none", "color_jitter": 0.4}, "--color-jitter: --image-augmentation none leaves"),
        ({"image_batch_size": 0, "pair_batch_size": 0, "num_codes": 3}, "--num-codes: no codes of images"),
        ({"text_batch_size": 0, "sampling_alpha": 0.5}, "--sampling-alpha: --text-batch-size 0"),
    ],
)
def test_what_has_no_effect_is_told(data, fields, message, caplog):
    make_task(data, **fields)
    assert message in caplog.text


def test_folders_that_do_not_fit_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="images without captions: expected pairs"):
        make_task(data, pair_data=str(data / "images")).load_dataset("train")
    with pytest.raises(ValueError, match="no split 'test' in"):
        make_task(data, text_batch_size=0).load_dataset("test")
    shutil.copytree(data, tmp_path / "data", symlinks=True)
    with open(tmp_path / "data" / "dict.txt", "a") as file:
        file.write("another 1\n")
    with pytest.raises(ValueError, match="wrong vocabulary: the captions of .*pairs"):
        make_task(tmp_path / "data", text_batch_size=0).load_dataset("train")
    with open(tmp_path / "data" / "dict.txt", "a") as file:
        file.write("<mask> 1\n")
    with pytest.raises(ValueError, match="has a symbol <mask>, which this task adds itself"):
        make_task(tmp_path / "data")
