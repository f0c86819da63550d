"""Tasks vqa and nlvr2: examples are functions of (seed, pass, index), batches come again after a restart."""

import numpy as np
import pytest
import torch

import fairseq_mhmoe  # noqa: F401  registers the tasks
from fairseq_mhmoe.integration import resume
from fairseq_mhmoe.tasks.nlvr2 import NLVR2Config, NLVR2Task
from fairseq_mhmoe.tasks.vqa import VQAConfig, VQATask
from tests.finetuning_data import COLORS, write_jsonl, write_nlvr2_data, write_vqa_data

TASKS = {"vqa": (VQATask, VQAConfig), "nlvr2": (NLVR2Task, NLVR2Config)}
WRITE = {"vqa": write_vqa_data, "nlvr2": write_nlvr2_data}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_data_dir):
    """{task: its data folder}, not to be written to."""
    root = tmp_path_factory.mktemp("finetuning")
    return {name: write(root / name, tiny_data_dir) for name, write in WRITE.items()}


@pytest.fixture
def make_task(folders):
    """make_task("vqa", data=..., image_size=32, ...): the task with these options."""

    def make(name="vqa", **options):
        defaults = dict(data=str(folders[name]), image_size=32, patch_size=8, seed=1, train_subset="train")
        task, config = TASKS[name]
        return task.setup_task(config(**{"_name": name, "image_augmentation": "crop", **defaults, **options}))

    return make


def batches(task, split="train", epoch=1, offset=0, **options):
    """The batches of one epoch from the offset on, as the trainer reads them."""
    task.load_dataset(split)
    iterator = task.get_batch_iterator(task.dataset(split), max_sentences=8, seed=1, epoch=epoch, **options)
    iterator.load_state_dict({"epoch": epoch, "iterations_in_epoch": offset, "shuffle": True, "version": 2})
    return list(iterator.next_epoch_itr(shuffle=True))


def equal(a, b):
    return torch.equal(a["id"], b["id"]) and torch.equal(
        a["net_input"]["pair"]["images"], b["net_input"]["pair"]["images"]
    )


def test_a_batch_of_questions(make_task):
    task = make_task()
    batch = batches(task)[0]
    pair = batch["net_input"]["pair"]
    assert batch["net_input"]["head"] == "answers" and task.model_heads()["answers"]["classes"] == 4
    assert pair["images"].shape == (8, 3, 32, 32) and pair["images"].dtype == torch.uint8
    assert pair["tokens"].shape[0] == 8 and pair["tokens"].max() < len(task.source_dictionary) - 1
    assert (pair["tokens"][:, 0] == 0).all() and (pair["tokens"] == 2).any(dim=1).all()
    expected = torch.zeros(8, 4, dtype=torch.float64)
    expected[torch.arange(8), batch["id"] % 3] = 1.0
    expected[:, 3] = 0.3
    assert torch.equal(batch["targets"], expected) and batch["nsentences"] == 8
    # the image of each row is that of its question
    strongest = pair["images"].float().mean(dim=(2, 3)).argmax(dim=1)
    assert torch.equal(strongest, batch["id"] % 3) and len(COLORS) == 3


def test_a_batch_of_statements_has_two_images_each(make_task):
    task = make_task("nlvr2")
    batch = batches(task, "valid")[0]
    pair = batch["net_input"]["pair"]
    assert pair["images"].shape[0] == pair["tokens"].shape[0] == 2 * len(batch["id"]) == 12
    assert torch.equal(pair["tokens"][0::2], pair["tokens"][1::2])
    left, right = pair["images"].float().mean(dim=(2, 3)).argmax(dim=1).view(-1, 2).T
    assert torch.equal(left == right, batch["targets"] == 1)
    assert task.model_heads() == {"truth": {"kind": "classes", "classes": 2, "inputs": 2}}


def test_labels_may_be_true_and_false(make_task, folders, tmp_path):
    record = {"image_path": "images/0.png", "image2_path": "images/1.png", "text": "what"}
    write_jsonl(tmp_path / "nlvr2.valid.jsonl", [record | {"label": label} for label in (True, 0, False, 1.0)])
    task = make_task("nlvr2", data=str(tmp_path), image_root=str(folders["nlvr2"]), text_data=str(folders["nlvr2"]))
    targets = batches(task, "valid")[0]["targets"]
    assert targets.dtype == torch.int64 and targets.tolist() == [1, 0, 0, 1]


def test_an_epoch_is_a_permutation_and_passes_differ(make_task):
    task = make_task()
    first, second = batches(task, epoch=1), batches(task, epoch=2)
    for epoch in (first, second):
        assert sorted(torch.cat([batch["id"] for batch in epoch]).tolist()) == list(range(24))
    assert not all(equal(a, b) for a, b in zip(first, second, strict=True))
    dataset = task.dataset("train")
    again, later = dataset[5]["images"][0], dataset[5 + 24]["images"][0]
    assert torch.equal(dataset[5]["images"][0], again) and not torch.equal(again, later)


def test_a_restart_goes_on_with_the_same_batches(make_task):
    whole = batches(make_task(), epoch=3)
    rest = batches(make_task(), epoch=3, offset=1)
    assert len(whole) == 3 and len(rest) == 2
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_workers_and_ranks_make_the_same_examples(make_task):
    alone = {int(i): image for b in batches(make_task()) for i, image in zip(b["id"], b["net_input"]["pair"]["images"])}
    seen = []
    for rank in range(2):
        for batch in batches(make_task(), num_shards=2, shard_id=rank, num_workers=1):
            for number, image in zip(batch.get("id", []), batch.get("net_input", {}).get("pair", {}).get("images", [])):
                seen.append(int(number))
                assert torch.equal(image, alone[int(number)])
    assert sorted(seen) == list(range(24))


def test_evaluation_takes_the_whole_image_in_order(make_task):
    task = make_task()
    first, again = batches(task, "valid"), batches(task, "valid", epoch=2)
    assert equal(first[0], again[0]) and first[0]["id"].tolist() == list(range(6))
    no_crop = make_task(image_augmentation="none")
    no_crop.load_dataset("train")
    images = [no_crop.dataset("train")[item]["images"][0] for item in (3, 3 + 24)]
    assert torch.equal(*images)


def test_the_horizontal_flip_mirrors_some_training_images(make_task, folders):
    plain, mirrored = make_task(image_scale_min=1.0), make_task(image_scale_min=1.0, horizontal_flip=True)
    same = 0
    for task in (plain, mirrored):
        task.load_dataset("train")
    for item in range(24):
        a, b = (task.dataset("train")[item]["images"][0] for task in (plain, mirrored))
        same += torch.equal(a, b)
        assert torch.equal(a, b) or torch.equal(a, b.flip(-1))
    assert 0 < same < 24


def test_splits_of_beit3_and_own_names_are_found(make_task, folders, tmp_path):
    task = make_task()
    assert [path.name for path in task.index_files("train")] == ["vqa.train.jsonl"]
    assert [path.name for path in task.index_files("valid")] == ["vqa.rest_val.jsonl"]
    assert [path.name for path in task.index_files("test")] == ["vqa.test.jsonl"]
    with pytest.raises(ValueError, match="no split 'dev' in .*: expected vqa.dev.jsonl; .* there: vqa.rest_val.jsonl"):
        task.index_files("dev")


BAD_RECORDS = [
    ({"qid": "7"}, "\"qid\" is '7'"),
    ({"labels": [4]}, "label 4, expected 0 to 3"),
    ({"labels": [1, 2]}, "no lists of one length"),
    ({"scores": [1.5]}, "score 1.5"),
    ({"image_path": "/etc/passwd"}, "outside of the folder"),
    ({"text": ""}, "the text is empty"),
]


@pytest.mark.parametrize(("change", "words"), BAD_RECORDS)
def test_a_record_that_contradicts_itself_is_told(make_task, change, words):
    record = {"image_path": "images/1.png", "text": "what", "qid": 1, "labels": [1], "scores": [1.0]}
    make_task().check_record(record)
    with pytest.raises(ValueError, match=words):
        make_task().check_record(record | change)


def test_a_statement_needs_two_images_and_a_known_label(make_task):
    task = make_task("nlvr2")
    record = {"image_path": "a.png", "image2_path": "b.png", "text": "what"}
    task.check_record(record)
    for change in ({"image2_path": None}, {"label": 2}):
        with pytest.raises(ValueError, match="the image is None|label"):
            task.check_record(record | change)


def test_a_missing_image_is_told_with_file_and_line(make_task, folders):
    (folders["vqa"] / "images/bad.png").write_bytes(b"no image")
    for name, words in (
        ("gone", "can't be read .*--image-root"),
        ("bad", "bad.png is no usable image .unknown_format"),
    ):
        index = folders["vqa"] / f"vqa.{name}.jsonl"
        write_jsonl(index, [{"image_path": f"images/{name}.png", "text": "what", "qid": 1}])
        task = make_task()
        task.load_dataset(name)
        with pytest.raises(ValueError, match=rf"vqa.{name}.jsonl, line 1: .*{words}"):
            task.dataset(name)[0]
        index.unlink()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "/nowhere"}, "no data folder /nowhere"),
        ({"image_root": "/nowhere"}, "--image-root: no folder /nowhere"),
        ({"text_data": "/nowhere"}, "--text-data: no folder /nowhere"),
        ({"image_size": 30}, "--image-size 30: expected a multiple of --patch-size 8"),
        ({"max_text_length": 2}, "--max-text-length 2"),
        ({"image_scale_min": 0.0}, "--image-scale-min 0.0"),
        ({"layer_lr_decay": 1.5}, "--layer-lr-decay 1.5"),
        ({"head_lr_scale": 0.0}, "--head-lr-scale 0.0"),
        ({"answers": "/nowhere/a.txt"}, "no list of answers /nowhere/a.txt"),
    ],
)
def test_options_that_cannot_be_are_refused(make_task, options, words):
    with pytest.raises(ValueError, match=words):
        make_task(**options)


def test_other_symbols_of_the_same_number_are_refused(make_task, folders, tmp_path):
    lines = (folders["nlvr2"] / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]) + "\n")
    state, other = make_task("nlvr2").state_dict(), make_task("nlvr2", text_data=str(tmp_path))
    for check in (other.load_state_dict, other.check_state, other.check_pretrained):
        check({})
        with pytest.raises(ValueError, match="trained with another dictionary.*dict.txt and spm.model"):
            check(state)
    make_task("nlvr2").check_pretrained(state | {"image_tokenizer": "of pre-training"})
    resume.check_task({"task_state": state}, make_task("vqa"), starts_anew=True)
    with pytest.raises(ValueError, match="another dictionary"):
        resume.check_task({"task_state": state}, other, starts_anew=True)


def test_answers_in_another_order_are_refused(make_task, folders, tmp_path):
    lines = (folders["vqa"] / "answer2label.txt").read_text().splitlines()
    answers = [line.split('"')[3] for line in lines][::-1]
    other = write_jsonl(tmp_path / "other.txt", [{"answer": a, "label": n} for n, a in enumerate(answers)])
    state = make_task().state_dict()
    for check in (make_task().load_state_dict, make_task().check_state):
        check(state)
        check({})
    with pytest.raises(ValueError, match="another list of answers.* --answers"):
        make_task(answers=str(other)).load_state_dict(state)
    with pytest.raises(ValueError, match="another list of answers"):
        make_task(answers=str(other)).check_state(state)


def test_batches_are_counted_in_examples(make_task):
    task = make_task()
    task.load_dataset("valid")
    with pytest.raises(ValueError, match="task vqa counts examples, not tokens: give --batch-size"):
        task.get_batch_iterator(task.dataset("valid"), max_tokens=100)


def test_other_folders_can_hold_images_text_and_answers(make_task, folders, tmp_path):
    index = write_jsonl(tmp_path / "vqa.train.jsonl", [{"image_path": "1.png", "text": "what", "qid": 1}])
    folder = folders["vqa"]
    options = dict(image_root=folder / "images", text_data=folder, answers=folder / "answer2label.txt")
    task = make_task(data=str(index.parent), **{name: str(path) for name, path in options.items()})
    batch = batches(task)[0]
    assert batch["targets"].sum() == 0 and np.array_equal(batch["id"], [0])
