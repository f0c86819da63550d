"""Table 1 of the papers in miniature: models of equal cost, several seeds, and whether the papers' order appears.

    bash scripts/reproduce.sh english                       dense, X-MoE and MH-MoE of equal parameters (v1, table 1)
    bash scripts/reproduce.sh multilingual --parity flops   the same at equal FLOPs
    bash scripts/reproduce.sh english --paper v2            SMoE, fine-grained SMoE, MH-MoE with 2 and 3 heads
    bash scripts/reproduce.sh english --ablation heads      v1, table 5; components: table 6; depth: linear layers
    bash scripts/reproduce.sh multimodal                    masked images, texts and pairs, with maps over pictures
    bash scripts/reproduce.sh english --full                larger, 8 and 32 experts: for a GPU

Called again it goes on where it stopped. docs/evidence.md tells what it writes.
"""

import os
import shlex
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

import fairseq_mhmoe
from fairseq_mhmoe.cli import reproduce_figures
from fairseq_mhmoe.cli.demo_programs import code_hash, minutes, say, shorten, show
from fairseq_mhmoe.cli.demo_report import current_commit
from fairseq_mhmoe.cli.files import write_bytes, write_json
from fairseq_mhmoe.cli.reproduce_arguments import Request, make_parser, parse_request
from fairseq_mhmoe.cli.reproduce_comparisons import make_plan
from fairseq_mhmoe.cli.reproduce_jobs import carry_out_all
from fairseq_mhmoe.cli.reproduce_models import build
from fairseq_mhmoe.cli.reproduce_report import estimate, plan_table, summarize, text
from fairseq_mhmoe.cli.reproduce_runs import Origin, Place, Run, begun_otherwise, entry, training_command
from fairseq_mhmoe.cli.reproduce_subjects import subject_of
from fairseq_mhmoe.cli.work_folder import locked, program_of_steps

ROOT = Path(fairseq_mhmoe.__file__).resolve().parents[1]
THREADS = {"cpu": 1, "cuda": 4}  # of a run; on a CPU one, so that neither numbers nor speed depend on the machine's


def main(words: list[str] | None = None) -> None:
    """Command line; ends with status 0, 1 when a step failed, 2 when something is asked for that can't be."""
    words = sys.argv[1:] if words is None else words
    parser = make_parser(__doc__)
    request = parse_request(parser, words)
    with program_of_steps():
        try:
            if request.plan_only:
                show_plan(request)
                return
            with locked(request.output, "reproduction"):
                reproduce(request, words)
        except ValueError as error:
            parser.exit(2, f"error: {error}\n")


def show_plan(request: Request) -> None:
    """What would be trained, and by which commands; nothing is prepared."""
    data = subject_of(request.scale).read_data(request.data)
    if data is not None:
        _, vocab_size = data
    else:
        prepare = request.scale.prepare
        vocab_size = int(prepare[prepare.index("--vocab-size") + 1])
        say(f"{shorten(request.data)} is not prepared yet; counted with {vocab_size} pieces")
    plan, runs = make_runs(request, vocab_size)
    announce(request, runs)
    for run_ in runs:
        show(training_command(run_))


def make_runs(request: Request, vocab_size: int) -> tuple:
    """The plan with the models that are asked for, and their runs: all models of a seed before the next seed."""
    plan = make_plan(request.comparison, request.scale, request.corpus, request.parity)
    models = build(plan.specs, request.scale, vocab_size)
    plan = plan.kept(request.models)
    names = {spec.name for spec in plan.specs}
    models = [model for model in models if model.name in names]
    place = Place(request.data, request.output, request.device, request.jobs, THREADS[request.device])
    return plan, [Run(model, seed, request.scale, place) for seed in request.seeds for model in models]


def announce(request: Request, runs: list[Run]) -> None:
    """The models, their cost, and what all of it will take."""
    models = {run_.model.name: run_ for run_ in runs}
    say(plan_table([run_.model for run_ in models.values()], {name: run_.flops for name, run_ in models.items()}))
    say(estimate(request, sum(run_.flops for run_ in runs), len(runs)))


def reproduce(request: Request, words: list[str]) -> None:
    """Prepare the data, train and evaluate every model with every seed, and write what was found."""
    start = time.monotonic()
    subject = subject_of(request.scale)
    if request.prepare:
        subject.prepare(request)
    data = subject.read_data(request.data)
    if data is None:
        raise ValueError(f"--data {request.data}: no manifest.json in it; name a folder that data_prep has written")
    data_sha256, vocab_size = data
    plan, runs = make_runs(request, vocab_size)
    announce(request, runs)
    origin = Origin(data_sha256, code_hash(), current_commit(ROOT))
    look_at_earlier(request, runs, origin)
    carry_out_all(runs, origin, request.jobs)
    entries = [entry(run_) for run_ in runs]
    models = list({run_.model.name: run_.model for run_ in runs}.values())
    results = {
        "name": request.output.name,
        "corpus": request.corpus,
        "comparison": request.comparison,
        "parity": request.parity,
        "commit": origin.commit,
        "command": shlex.join(["bash", "scripts/reproduce.sh", *words]),
        "settings": asdict(request.scale),
        "seeds": list(request.seeds),
        "data": {"folder": shorten(request.data), "sha256": origin.data, "vocabulary": vocab_size},
        "code_sha256": origin.code,
        "machine": machine(request),
        **summarize(plan, models, entries),
        "runs": entries,
        "figures": {},
    }
    write_json(request.output / "results.json", results)
    write_bytes(request.output / "table.md", f"{text(results)}\n".encode())
    say("figures")
    results["figures"] = reproduce_figures.draw(runs, runs[0].place)
    write_json(request.output / "results.json", results)
    say(f"\n{text(results)}")
    pictures = ", ".join(path for drawn in results["figures"].values() for path in drawn["pictures"])
    say(f"\npictures: {pictures}")
    say(f"written to {shorten(request.output / 'results.json')} after {minutes(time.monotonic() - start)} minutes")


def look_at_earlier(request: Request, runs: list[Run], origin: Origin) -> None:
    """Runs of earlier calls: those of other settings or data are kept from being lost, other code is told.

    With --fresh all that differ are removed, and so trained anew.

    Raises:
        ValueError: a run was begun with other settings or data, and --fresh is not given.
    """
    others = []
    for run_ in runs:
        differ = begun_otherwise(run_, origin)
        if differ and request.fresh:
            shutil.rmtree(run_.folder)
        elif differ == ["code"]:
            others.append(run_.name)
        elif differ:
            raise ValueError(
                f"{shorten(run_.folder)} was begun with other {' and '.join(differ)}; choose another --name, "
                "or --fresh to train anew what differs"
            )
    if others:
        say(f"note: begun with other code of the models, --fresh trains them anew: {', '.join(others)}")


def machine(request: Request) -> dict:
    """On what the runs were made."""
    name = torch.cuda.get_device_name() if request.device == "cuda" else "CPU"
    return {
        "device": request.device,
        "name": name,
        "cores": os.cpu_count(),
        "runs_at_a_time": request.jobs,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
