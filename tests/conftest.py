"""What tests share: a prepared data folder, hand-made Wikipedia dumps, and the command-line programs."""

import bz2
import gc
import os
import random
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import hypothesis
import pytest

from . import forks

# the machine is shared, and small tensors gain nothing from threads; set before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
# the same examples every time: a test that fails on one machine fails on all
hypothesis.settings.register_profile("here", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("here")

# The files that take longest, which start first: two workers then end together (scripts/test.sh).
LONGEST = """
    distributed/test_equality_training docs/test_blocks distributed/test_kill benchmarks/test_train_step
    distributed/test_preemption data_prep/test_executors
    cli/test_demo cli/test_reproduce data_prep/test_pipeline distributed/test_equality distributed/test_resume
    distributed/test_masked_multimodal end_to_end/test_masked_multimodal cli/test_evaluate_multimodal
    benchmarks/test_moe_layer distributed/test_launch data_prep/test_demo_english integration/test_user_dir
    scripts/test_train_image_tokenizer_command end_to_end/test_finetuning examples/test_custom_router
    benchmarks/test_data_preparation scripts/test_run_training scripts/test_pretrain_training
    end_to_end/test_train_and_evaluate distributed/test_failures end_to_end/test_precision_and_steps
    integration/test_rewind integration/test_nonfinite integration/test_disk_space integration/test_preemption
    integration/test_resume test_paper_configs end_to_end/test_bad_input tasks/test_gpt_batches
    distributed/test_exchange distributed/test_equality_overflow moe/test_torchscale benchmarks/test_cross_entropy
    tasks/test_gpt integration/test_checkpoint_loading golden/test_check export/test_export export/test_forward
    end_to_end/test_bitnet end_to_end/test_sources integration/test_weight_decay
    vision/test_training distributed/test_other_weights end_to_end/test_multimodal_input end_to_end/test_captioning
    integration/test_layer_decay tasks/test_masked_multimodal distributed/test_finetuning
""".split()

WORDS = (
    "the of and in to a is was for as on with by that from at his it an were are which this also be has had first one "
    "their its new after who they two her she been other when time during there into school all may century world more "
    "most city state known between years only over government some through early many such where later used war called "
    "including would became under while three about people system both university then same made part area south north "
    "national population family company river group small number island language history century's église naïve 1,234"
).split()


def pytest_collection_modifyitems(items):
    """The longest files first, the others in their order."""
    places = {ROOT / "tests" / f"{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish():
    """What was imported stays: collecting garbage need not walk over it again and again."""
    if "hydra" in sys.modules:
        from . import composing

        composing.remember()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def write_dump():
    """write_dump(path, pages): a dump of (title, page id, markup) or (title, page id, markup, namespace, redirect)."""

    def write(path, pages):
        lines = ['<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="en"><siteinfo/>']
        for title, page_id, markup, *rest in pages:
            namespace, redirect = rest or (0, False)
            lines.append(
                f"<page><title>{escape(title)}</title><ns>{namespace}</ns><id>{page_id}</id>"
                + ('<redirect title="Another" />' if redirect else "")
                + f'<revision><id>1</id><text xml:space="preserve">{escape(markup)}</text></revision></page>'
            )
        content = "\n".join([*lines, "</mediawiki>"]).encode()
        path.write_bytes(bz2.compress(content) if path.suffix == ".bz2" else content)
        return path

    return write


@pytest.fixture(scope="session")
def write_articles():
    """write_articles(count, seed=0): pages for write_dump with headings, links, templates and made-up prose."""

    def article(rng, number):
        def sentence():
            # low indices more often, as in a language
            words = [WORDS[int(len(WORDS) * rng.random() ** 2)] for _ in range(rng.randint(4, 14))]
            return " ".join(words).capitalize() + "."

        def paragraph():
            return " ".join(sentence() for _ in range(rng.randint(2, 4)))

        title = f"Article {number}"
        markup = f"{{{{Infobox|name={title}}}}}\n'''{title}''' {paragraph()}<ref>A source.</ref>\n\n"
        markup += f"== History ==\n{paragraph()} See [[Article {number // 2}|another one]].\n"
        return title, 100 + number, markup

    def articles(count, seed=0):
        rng = random.Random(seed)
        return [article(rng, number) for number in range(count)]

    return articles


@pytest.fixture(scope="session")
def prepare_dump(write_dump):
    """prepare_dump(folder, pages, **settings): run the real preparation on a dump of these pages -> manifest."""
    from data_prep.pipeline import prepare
    from data_prep.recipe import InputFile, Recipe, Settings, SourceInfo

    def run(folder, pages, **settings):
        chosen = Settings(**{"vocab_size": 320, "min_chars": 20, "valid_share": 0.1, "test_share": 0.1, **settings})
        dump = folder.parent / f"{folder.name}-dump.xml.bz2"
        if not dump.exists():
            write_dump(dump, pages)
        recipe = Recipe(
            name="dump",
            inputs=(InputFile(dump, "wikipedia", "wikipedia", language="en"),),
            info={"wikipedia": SourceInfo("CC BY-SA 3.0", "made up")},
            flat=True,
        )
        return prepare(recipe, chosen, folder)

    return run


@pytest.fixture(scope="session")
def tiny_data_dir(tmp_path_factory, prepare_dump, write_articles):
    """A prepared folder, not to be written to: 320 pieces, about 190 + 25 + 25 short documents."""
    folder = tmp_path_factory.mktemp("tiny") / "data"
    prepare_dump(folder, write_articles(240))
    return folder


@pytest.fixture(scope="session")
def multimodal_data_dir(tmp_path_factory, tiny_data_dir):
    """DATA of multimodal tasks, not to be written to: 23 + 5 pairs, 17 + 3 images, text, a tokenizer of 24 codes."""
    from .multimodal_data import write_multimodal_data

    return write_multimodal_data(tmp_path_factory.mktemp("multimodal") / "data", tiny_data_dir)


# Options of the checkpoints that tests look into: width 24, 2 blocks.
TINY_MODELS = {
    "dense": ["--arch", "dense_lm_tiny"],
    # experts in the second block, which drops what exceeds capacity 1
    "smoe": ["--arch", "smoe_lm_tiny", "--moe-expert-count", "4", "--moe-top-k", "1", "--moe-freq", "2"]
    + ["--moe-capacity-factor", "1", "--moe-ffn-dim", "16"],
    "mhmoe": ["--arch", "mhmoe_lm_tiny", "--moe-expert-count", "6", "--moe-top-k", "2", "--moe-freq", "1"]
    + ["--mhmoe-heads-number", "3", "--moe-ffn-dim", "16"],
}
TINY_TRAINING = (
    "--user-dir fairseq_mhmoe --cpu --task gpt --criterion moe_cross_entropy --optimizer adam --lr 0.01 --max-update 3 "
    "--tokens-per-sample 32 --batch-size 4 --required-batch-size-multiple 1 --num-workers 0 --disable-validation "
    "--no-epoch-checkpoints --decoder-embed-dim 24 --decoder-ffn-embed-dim 32 --decoder-layers 2 "
    "--decoder-attention-heads 2"
).split()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, tiny_data_dir, run_cli):
    """tiny_checkpoint(kind): a checkpoint of a key of TINY_MODELS, trained a little; not to be written to."""
    done = {}

    def checkpoint(kind):
        if kind not in done:
            folder = tmp_path_factory.mktemp("models") / kind
            run_cli("fairseq-train", tiny_data_dir, *TINY_TRAINING, *TINY_MODELS[kind], "--save-dir", folder)
            done[kind] = folder / "checkpoint_last.pt"
        return done[kind]

    return checkpoint


@pytest.fixture(scope="session")
def run_cli():
    """run_cli("fairseq-train", DATA, "--task", "gpt", ..., stdin="", check=True, timeout=240) -> CompletedProcess.

    fairseq's programs run in forks (forks.py), "python" with "-m", MODULE in a new process. Both start in the
    repository's root with this Python; stderr comes within stdout.
    """

    def run(program, *arguments, stdin="", check=True, timeout=240, **environment):
        if program != "python":
            result = forks.run_program(program, arguments, stdin, timeout, **environment)
        else:
            result = subprocess.run(
                [sys.executable, *map(str, arguments)],
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
            )
        if check:
            assert result.returncode == 0, result.stdout[-4000:]
        return result

    return run
