"""Task `vqa`: a question about an image, answered by one of a list of answers (VQAv2)."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from fairseq.tasks import register_task

from fairseq_mhmoe.data.answers import FILE, read_answers
from fairseq_mhmoe.data.finetuning_examples import Questions
from fairseq_mhmoe.tasks.finetuning import FinetuningTask, check_image
from fairseq_mhmoe.tasks.finetuning_options import FinetuningConfig

HEAD = "answers"

logger = logging.getLogger(__name__)


@dataclass
class VQAConfig(FinetuningConfig):
    """Options of the task."""

    answers: Optional[str] = field(
        default=None, metadata={"help": f"list of answers, as JSON lines (default: {FILE} in the data folder)"}
    )


@register_task("vqa", dataclass=VQAConfig)
class VQATask(FinetuningTask):
    """Questions with soft scores of answers: records {"image_path", "text_segment", "labels", "scores", "qid"}.

    Records of a split to be answered (test) have no labels.
    """

    INDEX = {
        "train": [("vqa.train.jsonl", "vqa.trainable_val.jsonl")],
        "valid": [("vqa.valid.jsonl",), ("vqa.rest_val.jsonl",)],
    }

    def __init__(self, cfg, dictionary):
        super().__init__(cfg, dictionary)
        self.answers = read_answers(Path(cfg.answers or Path(cfg.data) / FILE))
        logger.info(f"{len(self.answers):,} answers")
        self.state.merge_state_dict({"answers": hashlib.sha256(json.dumps(self.answers).encode()).hexdigest()})

    def load_state_dict(self, state_dict: dict) -> None:
        """As FinetuningTask's; ValueError also where labels stand for other answers."""
        super().load_state_dict(state_dict)
        if state_dict.get("answers", self.state.answers) != self.state.answers:
            raise ValueError(
                "the checkpoint was trained with another list of answers, whose labels have other meanings; name that "
                "one with --answers"
            )

    def model_heads(self) -> dict[str, dict]:
        """One head, with a class for each answer."""
        return {HEAD: {"kind": "classes", "classes": len(self.answers), "inputs": 1}}

    def check_record(self, record: dict) -> None:
        """ValueError unless a record is a question, with labels or without."""
        check_image(record, "image_path")
        self.text.check(record)
        if type(record.get("qid")) is not int:
            raise ValueError(f'"qid" is {record.get("qid")!r}, expected the number of the question')
        labels, scores = record.get("labels") or [], record.get("scores") or []
        if not isinstance(labels, list) or not isinstance(scores, list) or len(labels) != len(scores):
            raise ValueError('"labels" and "scores" are no lists of one length')
        for label in labels:
            if type(label) is not int or not 0 <= label < len(self.answers):
                raise ValueError(f"label {label!r}, expected 0 to {len(self.answers) - 1}; see {FILE}")
        for score in scores:
            if type(score) not in (int, float) or not 0 <= score <= 1 or math.isnan(score):
                raise ValueError(f"score {score!r}, expected 0 to 1")

    def make_dataset(self, paths: list[Path], training: bool) -> Questions:
        """Questions, with their images and scores."""
        return Questions(len(self.answers), **self.parts(paths, HEAD, training))
