"""Task `captioning`: words for an image, learnt by masking most of a caption (COCO captions)."""

from dataclasses import dataclass, field
from pathlib import Path

from fairseq.tasks import register_task

from fairseq_mhmoe.data.captioning import Captions, check_image_record
from fairseq_mhmoe.tasks.finetuning import MASK, FinetuningTask
from fairseq_mhmoe.tasks.finetuning_options import FinetuningConfig

HEAD = "text"


@dataclass
class CaptioningConfig(FinetuningConfig):
    """Options of the task."""

    max_text_length: int = field(
        default=32, metadata={"help": "tokens of a caption, <s> and </s> among them; longer ones are cut (BEiT-3: 32)"}
    )
    caption_mask_ratio: float = field(
        default=0.7, metadata={"help": "share of a caption's symbols, </s> among them, that are to be predicted"}
    )


@register_task("captioning", dataclass=CaptioningConfig)
class CaptioningTask(FinetuningTask):
    """Captions of images: records {"image_path", "text_segment" or "text", "image_id"}.

    Images see images only, words see the image, the words before them and themselves. Records of a split to be
    captioned (test) need no text; training and validation do.
    """

    INDEX = {
        "train": [("captioning.train.jsonl",), ("coco_captioning.train.jsonl",)],
        "valid": [("captioning.valid.jsonl",), ("captioning.val.jsonl",), ("coco_captioning.val.jsonl",)],
        "test": [("captioning.test.jsonl",), ("coco_captioning.test.jsonl",)],
    }

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """As FinetuningTask's."""
        if not 0 < cfg.caption_mask_ratio <= 1:
            raise ValueError(
                f"--caption-mask-ratio {cfg.caption_mask_ratio}: expected more than 0 and at most 1 (BEiT-3: 0.7)"
            )
        return super().setup_task(cfg, **kwargs)

    def model_heads(self) -> dict[str, dict]:
        """Words."""
        return {HEAD: {"kind": "text"}}

    def check_record(self, record: dict) -> None:
        """ValueError unless a record is an image with a caption."""
        check_image_record(record)
        self.text.check(record)

    def make_dataset(self, paths: list[Path], training: bool) -> Captions:
        """Captions with their images, and what of them is masked."""
        mask = self.dictionary.index(MASK)
        parts = self.parts(paths, HEAD, training)
        return Captions(self.cfg.caption_mask_ratio, (self.dictionary.nspecial, mask), mask, **parts)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """fairseq's, and the criterion is told which update this is."""
        criterion.update = update_num
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)
