"""The stages from input files to a prepared folder: what each does, in how many tasks, and where it leaves its result.

WORK/text/<source>/<split>/<task>.jsonl -> WORK/spm.model -> WORK/index/<source>/<split>/<task>.{bin,idx} -> OUTPUT
"""

from pathlib import Path

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import JsonlWriter

from data_prep import dedup
from data_prep.counts import BEFORE, NO_COPIES, TAKEN, CheckTexts
from data_prep.executors import Stage
from data_prep.fairseq_index import FairseqIndexStep
from data_prep.filters import LengthFilter, SampleFilter
from data_prep.publish import Publish
from data_prep.recipe import Recipe, Settings
from data_prep.splits import SplitByDocument
from data_prep.steps import AfterStage, CountBySource, ReadInputs, ReadTask
from data_prep.vocabulary import VocabularyTrainer

MODEL = "spm.model"


def make_stages(
    recipe: Recipe, settings: Settings, output: Path, work: Path, tokenizer: Path | None, fingerprint: str
) -> list[Stage]:
    """All stages in their order; every input file is one task, whose number is its place in the recipe.

    Args:
        work: folder of intermediate results and logs (WORK/logs/<stage>).
        tokenizer: file to use; None: train one.
        fingerprint: for the manifest.
    """
    logs, files = work / "logs", len(recipe.inputs)
    stages = _text_stages(recipe, settings, str(work), files)
    check = CheckTexts(recipe, settings, str(work))
    model = tokenizer or work / MODEL
    trainer = VocabularyTrainer(
        text_folder=str(work / "text"),
        model_path=str(model),
        vocab_size=settings.vocab_size,
        model_type=settings.model_type,
        character_coverage=settings.character_coverage,
        byte_fallback=settings.byte_fallback,
        alpha=settings.spm_alpha,
        characters=settings.spm_characters,
        seed=settings.seed,
    )
    stages.append(Stage("vocabulary", [check] if tokenizer else [check, trainer], tasks=1))
    indexer = FairseqIndexStep(str(work / "text"), str(work / "index"), str(model))
    stages.append(Stage("index", [indexer], tasks=files))
    publish = Publish(recipe, settings, str(output), str(work), str(model), fingerprint)
    stages.append(Stage("publish", [check, publish], tasks=1, again=True))
    return [stages[0]] + [
        Stage(stage.name, [AfterStage(str(logs / before.name), before.tasks), *stage.steps], stage.tasks, stage.again)
        for before, stage in zip(stages, stages[1:], strict=False)
    ]


def _text_stages(recipe: Recipe, settings: Settings, work: str, files: int) -> list[Stage]:
    read: list[PipelineStep] = [
        ReadInputs(
            recipe.inputs,
            work,
            LengthFilter(settings.min_chars, settings.max_chars),
            SampleFilter(settings.sample, settings.seed),
            settings.split_subsets and not recipe.flat,
            settings.allow_damaged_files,
        ),
        SplitByDocument(settings.seed, settings.valid_share, settings.test_share),
    ]
    write = [CountBySource(TAKEN), _writer(f"{work}/text", "${source}/${split}/${rank}.jsonl")]
    if not (settings.exact_dedup or settings.near_dedup):
        return [Stage("text", [*read, *write], files)]
    documents = f"{work}/documents"
    stages = [Stage("text", [*read, _writer(documents, "${rank}.jsonl")], files)]
    unique: list[PipelineStep] = [ReadTask(documents), CountBySource(BEFORE)]
    if settings.exact_dedup:
        stages += [
            Stage("exact-signatures", [ReadTask(documents), dedup.exact_signatures(work)], files),
            Stage("exact-search", [dedup.exact_search(work)], 1),
        ]
        unique.append(dedup.exact_filter(work, log=True))
    unique.append(CountBySource(NO_COPIES))
    if settings.near_dedup:
        exact = [dedup.exact_filter(work)] if settings.exact_dedup else []
        stages += [
            Stage("near-signatures", [ReadTask(documents), *exact, dedup.near_signatures(work)], files),
            Stage("near-buckets", [dedup.near_buckets(work)], dedup.NEAR_BUCKETS),
            Stage("near-clusters", [dedup.near_clusters(work)], 1),
        ]
        unique.append(dedup.near_filter(work))
    return [*stages, Stage("unique", [*unique, *write], files)]


def _writer(folder: str, name: str) -> JsonlWriter:
    return JsonlWriter(folder, output_filename=name, compression=None)
