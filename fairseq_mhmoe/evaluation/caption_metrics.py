"""Scores of captions as papers report them: BLEU@1-4 and CIDEr always, METEOR and SPICE where Java can compute them."""

import logging
import math
from collections.abc import Mapping, Sequence

from fairseq_mhmoe.evaluation.caption_java import JavaProblem, meteor, spice
from fairseq_mhmoe.evaluation.caption_words import java_words, package_folder, python_words

STANFORD, PYTHON = "Stanford PTBTokenizer 3.4.1 (Java)", "fairseq_mhmoe (Python)"
METRICS = ("BLEU@1", "BLEU@2", "BLEU@3", "BLEU@4", "METEOR", "CIDEr", "SPICE")
TIMEOUT = 1800.0  # seconds for each Java program; METEOR takes about a minute for COCO's 5,000 images

logger = logging.getLogger(__name__)


def score_captions(
    captions: Mapping[int, str],
    references: Mapping[int, Sequence[str]],
    java: bool = True,
    timeout: float = TIMEOUT,
) -> dict:
    """Score one caption an image against its reference captions.

    Args:
        captions: by image.
        references: by image, one or more; images without a caption are an error, as in the official evaluation.
        java: False for a Python tokenizer, and neither METEOR nor SPICE, even where there is Java.
        timeout: seconds for each Java program.
    Returns:
        {"images", "references": number of them, "tokenizer": its name, "scores": {metric: number or None},
        "of_images": {metric: [of each image]}, "image_ids": in their order, "notes": {metric: why it is missing, ...}}.
        BLEU, METEOR and SPICE are 0 to 1 and CIDEr 0 to 10, as pycocoevalcap has them; papers write them times 100.
    Raises:
        ValueError: nothing to score, or other images here than there.
    """
    ids = _check(captions, references)
    notes = {}
    texts = [captions[number] for number in ids]
    flat = [text for number in ids for text in references[number]]
    words, tokenizer = _words(texts + flat, java, timeout, notes)
    found, rest = words[: len(ids)], iter(words[len(ids) :])
    expected = [[next(rest) for _ in references[number]] for number in ids]
    scores, of_images = _python_metrics(found, expected)
    if len(ids) == 1:
        notes["CIDEr"] = "of one image it is always 0: words are weighted by how few images have them"
    for name, metric in (("METEOR", meteor), ("SPICE", spice)):
        scores[name] = None
        try:
            if not java:
                raise JavaProblem("Java was not to be used")
            scores[name], of_images[name] = metric(found, expected, package_folder(), timeout)
        except JavaProblem as problem:
            notes[name] = str(problem)
            logger.warning(f"no {name}: {problem}")
    return {
        "images": len(ids),
        "references": len(flat),
        "tokenizer": tokenizer,
        "scores": {name: scores[name] for name in METRICS},
        "notes": notes,
        "image_ids": ids,
        "of_images": {name: of_images[name] for name in METRICS if name in of_images},
    }


def table_row(name: str, report: Mapping) -> list[str]:
    """Cells of a table as papers have it: name, images, and the METRICS times 100; a dash where one is missing."""
    scores = (report["scores"][metric] for metric in METRICS)
    return [name, f"{report['images']:,}", *("-" if score is None else f"{100 * score:.1f}" for score in scores)]


def _check(captions: Mapping[int, str], references: Mapping[int, Sequence[str]]) -> list[int]:
    """The images, in order."""
    ids = sorted(references)
    without = [number for number in ids if number not in captions]
    if without:
        raise ValueError(
            f"no caption for {len(without)} of {len(ids)} images, for example {without[0]}; the official evaluation "
            "wants one for each image of the split"
        )
    unknown = [number for number in captions if number not in references]
    if unknown:
        raise ValueError(
            f"{len(unknown)} captions are of images without references, for example {unknown[0]}; check that captions "
            "and references are of the same split"
        )
    bare = [number for number in ids if not references[number]]
    if bare or not ids:
        raise ValueError(f"image {bare[0]} has no reference caption" if bare else "there are no references")
    return ids


def _words(texts: list[str], java: bool, timeout: float, notes: dict[str, str]) -> tuple[list[str], str]:
    """(words of each text, name of the tokenizer)."""
    if java:
        try:
            return java_words(texts, timeout), STANFORD
        except JavaProblem as problem:
            notes["tokenizer"] = f"not the official one: {problem}"
            logger.warning(f"captions are split into words by a Python tokenizer, not the official one: {problem}")
    else:
        notes["tokenizer"] = "not the official one: Java was not to be used"
    return [python_words(text) for text in texts], PYTHON


def _python_metrics(found: list[str], expected: list[list[str]]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """BLEU@1-4 and CIDEr: (of all, of each image)."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider

    result = {number: [caption] for number, caption in enumerate(found)}
    truth = dict(enumerate(expected))
    bleu, bleu_of_images = Bleu(4).compute_score(truth, result, verbose=0)
    cider, cider_of_images = Cider().compute_score(truth, result)
    scores = {f"BLEU@{n}": float(score) for n, score in enumerate(bleu, start=1)}
    scores["CIDEr"] = float(cider)
    of_images = {f"BLEU@{n}": [float(score) for score in part] for n, part in enumerate(bleu_of_images, start=1)}
    of_images["CIDEr"] = [float(score) for score in cider_of_images]
    if not all(map(math.isfinite, scores.values())):
        raise ValueError(f"scores that are no numbers: {scores}; check the captions and references")
    return scores, of_images
