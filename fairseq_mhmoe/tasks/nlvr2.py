"""Task `nlvr2`: whether a statement about two images is true (NLVR2)."""

from dataclasses import dataclass
from pathlib import Path

from fairseq.tasks import register_task

from fairseq_mhmoe.data.finetuning_examples import Statements
from fairseq_mhmoe.tasks.finetuning import FinetuningTask, check_image
from fairseq_mhmoe.tasks.finetuning_options import FinetuningConfig

HEAD = "truth"


@dataclass
class NLVR2Config(FinetuningConfig):
    """Options of the task."""


@register_task("nlvr2", dataclass=NLVR2Config)
class NLVR2Task(FinetuningTask):
    """Statements about a left and a right image: records {"image_path", "image2_path", "text_segment", "label"}.

    Each image goes through the model with the statement; the head sees CLS and `<s>` of both, as BEiT-3's. Records of a
    hidden test have no label.
    """

    INDEX = {
        "train": [("nlvr2.train.jsonl",), ("nlvr2.train.index.jsonl",)],
        "valid": [("nlvr2.valid.jsonl",), ("nlvr2.dev.index.jsonl",)],
        "test": [("nlvr2.test.jsonl",), ("nlvr2.test-P.index.jsonl",)],
    }

    def model_heads(self) -> dict[str, dict]:
        """One head of two classes, which takes the rows 2i and 2i + 1 as one example."""
        return {HEAD: {"kind": "classes", "classes": 2, "inputs": 2}}

    def check_record(self, record: dict) -> None:
        """ValueError unless a record is a statement about two images."""
        check_image(record, "image_path")
        check_image(record, "image2_path")
        self.text.check(record)
        if "label" in record and record["label"] not in (0, 1):
            raise ValueError(f'"label" is {record["label"]!r}, expected 0 (false) or 1 (true)')

    def make_dataset(self, paths: list[Path], training: bool) -> Statements:
        """Statements, with their images and labels."""
        return Statements(**self.parts(paths, HEAD, training))
