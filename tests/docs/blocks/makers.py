"""Makes what given.py names, each once in a session, in a folder of its own; blocks get copies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from ...captioning_data import write_captioning_data
from ...finetuning_data import picture, write_nlvr2_data, write_vqa_data
from . import official

LANGUAGE = "--task gpt --criterion moe_cross_entropy"
# Kind of run -> (its data, its options).
RUNS = {
    **{name: ("text", f"{LANGUAGE} --arch {name}_lm_tiny") for name in ("dense", "smoe", "xmoe", "mhmoe")},
    "multimodal": ("multimodal", "--task masked_multimodal --criterion masked_multimodal --arch mhmoe_multimodal_base"),
    "vqa": ("vqa", "--task vqa --criterion vqa --arch mhmoe_multimodal_tiny"),
    "nlvr2": ("nlvr2", "--task nlvr2 --criterion nlvr2 --arch mhmoe_multimodal_tiny"),
    "captioning": ("coco", "--task captioning --criterion captioning --arch mhmoe_multimodal_tiny"),
}
TRAINING = "--user-dir fairseq_mhmoe --optimizer adam --lr 0.01 --no-epoch-checkpoints --log-format json"


class Makers:
    """get("text"): a path, made when it is first asked for; not to be written to.

    folder: to make things in. text, multimodal: prepared folders, write_dump, articles: of tests/conftest.py.
    run: run(words) of a program, in the repository's root.
    """

    def __init__(self, folder: Path, text: Path, multimodal: Path, write_dump, articles, run: Callable):
        self.folder, self.run, self.write_dump, self.articles = folder, run, write_dump, articles
        self.made = {"text": text, "multimodal": multimodal}

    def get(self, name: str) -> Path:
        if name not in self.made:
            target = self.folder / name.replace(" ", "-")
            method, *arguments = name.split(" ")
            self.made[name] = getattr(self, f"make_{method}")(target, *arguments) or target
        return self.made[name]

    def make_wiki(self, target):
        """Two languages with the vocabulary of "text"."""
        for number, language in enumerate(("en", "de")):
            self.write_dump(self.folder / f"wiki-{language}.xml", self.articles(60, seed=number))
        sources = [word for name in ("en", "de") for word in ("--source", f"{name}={self.folder}/wiki-{name}.xml")]
        self.run(
            ["python", "-m", "data_prep", "--output", target, *sources, "--tokenizer", self.get("text") / "spm.model"]
        )

    def make_pairs(self, target):
        return self.get("multimodal") / "pairs"

    def make_tokenizer(self, target):
        return self.get("multimodal") / "image_tokenizer.pt"

    def make_vqa(self, target):
        write_vqa_data(target, self.get("text"))

    def make_nlvr2(self, target):
        write_nlvr2_data(target, self.get("text"))
        shutil.copy(target / "nlvr2.dev.index.jsonl", target / "nlvr2.test.jsonl")

    def make_coco(self, target):
        write_captioning_data(target, self.get("text"))

    def make_coco_pictures(self, target):
        (target / "val2014").mkdir(parents=True)
        for number in range(12):
            (target / f"val2014/COCO_val2014_{number:012d}.jpg").write_bytes(official.draw(number))

    def make_zero_shot(self, target):
        official.write_records(target)

    def make_dumps(self, target):
        target.mkdir()
        for number, name in enumerate(("enwiki-1.xml-p1.bz2", "dewiki-1.xml.bz2")):
            self.write_dump(target / name, self.articles(60, seed=number))

    def make_raw(self, target):
        official.write_json_lines(target / "0.jsonl.zst", self.texts(0), {})

    def make_slimpajama(self, target):
        for number, name in enumerate(("book", "arxiv")):
            fields = {"meta": {"redpajama_set_name": name}}
            official.write_json_lines(target / f"chunk{number}/0.jsonl.zst", self.texts(number), fields)

    def make_original(self, target):
        shutil.copy(self.get("text") / "spm.model", target.mkdir() or target)
        for split in ("train", "valid"):
            official.write_json_lines(target / f"{split}.jsonl", self.texts(split == "valid"), {})
            (target / "json").mkdir(exist_ok=True)
            entry = {"name": "redpajama", "source": [f"{split}.jsonl"], "weight": 1.0}
            (target / f"json/{split}.json").write_text(json.dumps([entry]))

    def texts(self, seed):
        return [markup.replace("'", "").replace("=", "") for _, _, markup in self.articles(60, seed=seed)]

    def make_official_vqa(self, target):
        official.write_vqa(target)

    def make_official_nlvr2(self, target):
        official.write_nlvr2(target)

    def make_official_coco(self, target):
        official.write_coco(target)

    def make_tars(self, target):
        official.write_image_tar(target / "00000.tar")
        official.write_image_tar(target / "00001.tar", first=12)

    def make_coco_images(self, target):
        official.write_coco_captions(target)

    def make_regions(self, target):
        official.write_regions(target)

    def make_photos(self, target):
        target.mkdir()
        for number in range(60, 72):
            (target / f"{number}.png").write_bytes(official.draw(number))

    def make_photo(self, target):
        picture(1, "red").save(target, "JPEG")

    def make_story(self, target):
        target.write_text("\n".join(self.texts(3)[:3]))

    def make_words(self, target):
        target.write_text("city\nwater\nhouse\n")

    def make_run(self, target, kind):
        """A run that has ended: best and last checkpoint, log."""
        data, options = RUNS[kind]
        words = [*TRAINING.split(), *options.split()]
        target.mkdir()
        self.run(["fairseq-train", self.get(data), *words, "--save-dir", target, "--log-file", target / "train.log"]
            + (["--tensorboard-logdir", target / "tensorboard"] if kind == "mhmoe" else []))

    def make_exported(self, target):
        """A Hugging Face folder."""
        checkpoint = self.get("run mhmoe") / "checkpoint_best.pt"
        self.run(["mhmoe-export", checkpoint, target, "--format", "hf", "--data", self.get("text")])

    def make_vqa_images(self, target):
        for name in ("train2014", "val2014", "test2015"):
            (target / name).mkdir(parents=True)

    def make_checkpoint(self, target, kind):
        return self.get(f"run {kind}") / "checkpoint_best.pt"

    def copy(self, name: str, target: Path) -> None:
        """Puts a copy there."""
        source = self.get(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("work"))
        else:
            shutil.copyfile(source, target)
