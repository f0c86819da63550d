"""Captions of images by a model of task `captioning`: shown <s> words <mask>, it says what <mask> stands for.

N images, R beginnings of captions (rows), P1 = 1 + patches, T = symbols with <s> and <mask>, D width, V symbols.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mhmoe.data.captioning import CaptionedImages
from fairseq_mhmoe.data.finetuning_examples import Images
from fairseq_mhmoe.data.text import SentencePieceText
from fairseq_mhmoe.evaluation.caption_search import Beam, Symbols, beam_search
from fairseq_mhmoe.evaluation.loading import Loaded
from fairseq_mhmoe.models.multimodal_encoder import Layout
from fairseq_mhmoe.tasks.finetuning import MASK, SPM_MODEL


class NextWord:
    """Log-probabilities of the next word of captions, as `beam_search` asks for them.

    Args:
        model: mhmoe_multimodal with a text head, in evaluation mode.
        images: uint8 [N, 3, S, S] on the model's device.
        mask: number of <mask>.
        remember: images see images only, so their keys and values are the same at every step and for all beams of an
            image: compute them once. False computes everything at every step.
    """

    def __init__(self, model: nn.Module, images: Tensor, mask: int, remember: bool = True):
        self.model, self.images, self.mask = model, images, mask
        self.memory = ImageMemory(model.beit3, images) if remember else None

    @torch.no_grad()
    def __call__(self, rows: Tensor, texts: Tensor) -> Tensor:
        """Image of each row [R], <s> words [R, T - 1] -> log-probabilities [R, V], float32."""
        tokens = F.pad(texts, (0, 1), value=self.mask)
        if self.memory is not None:
            logits = self.model.heads["text"](self.memory.features(rows, tokens)[:, -1])
        else:
            last = torch.arange(1, len(tokens) + 1, device=tokens.device) * tokens.shape[1] - 1
            pair = {"images": self.images[rows], "tokens": tokens, "text_positions": last, "causal": True}
            logits = self.model(pair=pair)[0]["pair"]["text"]
        return F.log_softmax(logits, dim=-1, dtype=torch.float32)


class ImageMemory:
    """Keys and values of images in every attention of an encoder, for texts that come after them.

    They are taken from, and put before, what the projections of an attention give out.

    Args:
        beit3: models.multimodal_encoder.MultimodalBEiT3.
        images: uint8 [N, 3, S, S].
    """

    def __init__(self, beit3: nn.Module, images: Tensor):
        self._beit3 = beit3
        self._projections = [
            projection
            for block in beit3.encoder.layers
            for projection in (block.self_attn.k_proj, block.self_attn.v_proj)
        ]
        self._kept: list[Tensor] = []
        with torch.no_grad(), hooked([p.A for p in self._projections], self._keep):
            beit3([{"images": images}])

    def features(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Image of each row [R], texts without pads [R, T] -> features of the texts [R, T, D]."""
        length, seen = tokens.shape[1], self._kept[0].shape[1]
        allowed = torch.ones(length, seen + length, dtype=torch.bool, device=tokens.device).tril(seen)
        layout = Layout(image=0, length=length, pads=None, allowed=allowed[None, None], unrouted=None)
        kept = iter(self._kept)
        with hooked([p.B for p in self._projections], lambda *call: torch.cat([next(kept)[rows], call[-1]], dim=1)):
            [features], _ = self._beit3.encoder([self._beit3.text_embed(tokens)], [layout])
        return features

    def _keep(self, projection: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._kept.append(output)


@contextmanager
def hooked(modules: Sequence[nn.Module], hook: Callable) -> Iterator[None]:
    """A forward hook on each module inside of the block."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def caption_symbols(dictionary) -> Symbols:
    """The symbols of a dictionary with <mask>, as the search needs them."""
    never = (dictionary.bos(), dictionary.pad(), dictionary.unk(), dictionary.index(MASK))
    return Symbols(dictionary.bos(), dictionary.eos(), never)


def check_captioner(loaded: Loaded, beam: Beam) -> SentencePieceText:
    """What turns words into text.

    Raises:
        ValueError: a checkpoint of another task, captions that are longer than its texts, no SentencePiece model.
    """
    name = loaded.cfg.task._name
    if name != "captioning":
        raise ValueError(f"{loaded.path} was trained with task {name}; expected one that task captioning fine-tuned")
    longest = loaded.task.max_text_positions - 2
    if beam.longest > longest:
        raise ValueError(
            f"--max-length {beam.longest}: the model takes {longest} tokens beside <s> and </s>; lower it, or "
            "fine-tune with a larger --max-text-length"
        )
    folder = Path(loaded.task.cfg.text_data or loaded.task.cfg.data)
    return SentencePieceText(folder / SPM_MODEL, loaded.dictionary)


def generate_captions(
    loaded: Loaded, images: CaptionedImages, beam: Beam, batch_size: int = 32, workers: int = 0, remember: bool = True
) -> Iterator[dict]:
    """The caption of each image, in their order: {"image_id", "caption", "score"}.

    Args:
        loaded: checkpoint of task `captioning`.
        batch_size: images at once; rows are so many times the beam.
        workers: processes that decode images; 0 decodes in this one.
        remember: see NextWord.
    Raises:
        ValueError: see `check_captioner`; an image that can't be read.
    """
    text, symbols = check_captioner(loaded, beam), caption_symbols(loaded.dictionary)
    reader = _Reader(images, Images(loaded.task.image_root, loaded.task.image_size))
    batches = torch.utils.data.DataLoader(reader, batch_size, num_workers=workers)
    numbers = iter(images.ids)
    for pixels in batches:
        scorer = NextWord(loaded.model, pixels.to(loaded.device), loaded.dictionary.index(MASK), remember)
        for caption in beam_search(scorer, len(pixels), beam, symbols, loaded.device):
            words = text.decode(" ".join(loaded.dictionary[token] for token in caption.tokens))
            yield {"image_id": next(numbers), "caption": words, "score": caption.score}


class _Reader(torch.utils.data.Dataset):
    """Pixels of images by their place."""

    def __init__(self, images: CaptionedImages, reader: Images):
        self._images, self._ids, self._reader = images, images.ids, reader

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, place: int) -> Tensor:
        number = self._ids[place]
        try:
            return self._reader.read(self._images.path(number), None)
        except ValueError as error:
            raise ValueError(f"{self._images.place(number)}: {error}") from None
