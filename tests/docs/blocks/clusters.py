"""What stands for launchers, clusters and containers: their options by list; the command inside is run here, small."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ...distributed.launcher import open_mpi_environment, slurm_environment
from . import programs
from .scripts import BASH, bash, take_options

SLURM = (
    "--nodes -N --ntasks -n --ntasks-per-node --cpus-per-task -c --gres --gpus --gpus-per-node --gpus-per-task "
    "--time -t --partition -p --job-name -J "
    "--output -o --error -e --export --signal --open-mode --mem --array -a --dependency -d "
    "--nodelist -w --kill-on-bad-exit --mpi --cpu-bind --account -A --qos --constraint -C --comment --chdir -D --jobid "
    "--container-image --container-workdir --container-mounts --wait --time-min --mem-per-cpu --kill-on-invalid-dep"
)
SLURM_FLAGS = "--requeue --no-requeue --exclusive --overlap --label -l --pty --test-only --parsable --unbuffered -u"
MPIRUN = "-np -n --np -H --host --hostfile -x --bind-to --map-by --npernode -N --timeout"
MPIRUN_FLAGS = "--allow-run-as-root --oversubscribe --tag-output --report-bindings"
DOCKER_BUILD = "-f --file -t --tag --build-arg --target --secret --progress --platform"
DOCKER_RUN = (
    "--gpus --ipc --shm-size --ulimit --user -u -v --volume -w --workdir -e --env --entrypoint --network --device "
    "--cap-add --stop-timeout --name --tmpfs --mount --memory --cpus --hostname"
)
DOCKER_FLAGS = "--rm --init -it -i -t -d --read-only --detach --privileged"
IMAGE = re.compile(r"(\./)?(mhmoe)(:\w+|\.sif|\.sqsh)?$")
# of the first of two nodes
FIRST_NODE = {"SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_JOB_ID": "17", "SLURM_NTASKS": "2"}


def once_a_node(command: list[str]):
    """A command that each node starts once: here as the first of them; scripts show what they would run."""
    os.environ.update(FIRST_NODE, DRY_RUN="1")
    return programs.run(command)


def srun(words: list[str]):
    """srun OPTIONS COMMAND: a script or container once, as the first node does; another program in each task."""
    _, command = take_options("srun", words, SLURM, SLURM_FLAGS)
    if command[0] in ("bash", "apptainer", "torchrun", "env"):
        return once_a_node(command)
    return programs.ranks(command, programs.RANKS, slurm_environment)


def mpirun(words: list[str]):
    """mpirun OPTIONS COMMAND; --mca has two values."""
    flat = []
    for word in words:
        if flat[-2:-1] == ["--mca"]:
            flat[-2:] = [f"--mca={flat[-1]}:{word}"]
        else:
            flat.append(word)
    _, command = take_options("mpirun", flat, f"{MPIRUN} --mca", MPIRUN_FLAGS)
    if command[0] == "bash":
        os.environ.update(OMPI_COMM_WORLD_RANK="0", OMPI_COMM_WORLD_LOCAL_RANK="0", DRY_RUN="1")
        return programs.run(command)
    return programs.ranks(command, programs.RANKS, open_mpi_environment)


def sbatch(words: list[str]):
    """The job file's own options are read, too; bash reads the rest."""
    given, rest = take_options("sbatch", words, f"{SLURM} --wrap", SLURM_FLAGS)
    if "--wrap" in given:
        subprocess.run([BASH, "-n", "-c", given["--wrap"][0]], check=True)
    else:
        file = Path(rest[0])
        if not file.is_file() or subprocess.run([BASH, "-n", file], stdout=sys.stderr).returncode:
            raise SystemExit(f"sbatch: {file} is no script")
        for line in re.findall(r"^#SBATCH (.*)$", file.read_text(), re.MULTILINE):
            words, _ = re.subn(r"\s+#.*", "", line)
            take_options(f"{file}: sbatch", words.split(), SLURM, SLURM_FLAGS)
    print("Submitted batch job", os.getpid())


def scontrol(words: list[str]):
    """scontrol show hostnames LIST."""
    if words[:2] != ["show", "hostnames"]:
        raise SystemExit(f"scontrol {' '.join(words)}: only show hostnames is known here")
    print("127.0.0.1")


def docker(words: list[str]):
    """docker build: files and arguments that the Dockerfile has; docker run: the command inside, in this folder."""
    name, *rest = words
    if name == "build":
        given, context = take_options("docker build", rest, DOCKER_BUILD, "--pull --no-cache")
        file = Path((given.get("-f") or given.get("--file"))[0])
        declared = re.findall(r"^ARG (\w+)", file.read_text(), re.MULTILINE)
        for argument in given.get("--build-arg", []):
            if argument.partition("=")[0] not in declared:
                raise SystemExit(f"docker build: {file} has no ARG {argument}")
        if len(context) != 1 or not Path(context[0]).is_dir():
            raise SystemExit(f"docker build: {context} is no folder")
        return 0
    if name != "run":
        raise SystemExit(f"docker {name}: only build and run are known here")
    given, command = take_options("docker run", rest, DOCKER_RUN, DOCKER_FLAGS)
    return in_image("docker run", command, given.get("--entrypoint"))


def apptainer(words: list[str]):
    """apptainer build and run."""
    name, *rest = words
    if name == "build":
        if len(rest) != 2 or not all(IMAGE.match(word.rpartition("//")[2]) for word in rest):
            raise SystemExit(f"apptainer build {rest}: expected FILE SOURCE")
        return 0
    if name != "run":
        raise SystemExit(f"apptainer {name}: only build and run are known here")
    _, command = take_options("apptainer run", rest, "--pwd --bind --env", "--nv --containall --writable-tmpfs")
    return in_image("apptainer run", command, None)


def enroot(words: list[str]):
    """enroot import."""
    given, rest = take_options("enroot", words[1:], "--output -o", "")
    if words[0] != "import" or len(rest) != 1 or not IMAGE.match(rest[0].rpartition("//")[2]):
        raise SystemExit(f"enroot {words}: expected import --output FILE dockerd://IMAGE")


def in_image(program: str, command: list[str], entry):
    """What a container starts: the image's scripts/run.sh, dry, or the program that is named."""
    if not command or not IMAGE.match(command[0]):
        raise SystemExit(f"{program}: {command[:1]} is no image of docker/README.md")
    if entry and entry[0] != "bash":
        return programs.run([*entry, *command[1:]])
    if entry and command[1:2] != ["scripts/evaluate.sh"]:
        return bash(command[1:])
    os.environ["DRY_RUN"] = "1"
    if entry:  # README.md's blocks run it; dry, it wants to know the data
        return bash([*command[1:], *(["data/english"] if len(command) == 3 and Path(command[2]).is_file() else [])])
    return bash(["scripts/run.sh", *command[1:]])


CLUSTERS = {
    "srun": srun,  # a cluster
    "sbatch": sbatch,  # a cluster
    "scontrol": scontrol,  # a cluster
    "mpirun": mpirun,  # Open MPI is not installed
    "docker": docker,  # no engine here
    "apptainer": apptainer,  # not installed
    "enroot": enroot,  # not installed
}
