"""Java programs of the COCO caption evaluation, METEOR and SPICE, run so that they can neither hang nor download."""

import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from threading import Timer

METEOR_JAR = "meteor-1.5.jar"
SPICE_JAR = "spice-1.0.jar"
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class JavaProblem(Exception):
    """A Java program could not do its work; the text says why, in words for a report."""


def find_java() -> str | None:
    """The java command of JAVA_HOME or PATH, None when there is none."""
    home = os.environ.get("JAVA_HOME")
    return (home and shutil.which("java", path=str(Path(home) / "bin"))) or shutil.which("java")


def command(options: Sequence) -> list[str]:
    """The command line of a Java program; JavaProblem without Java."""
    java = find_java()
    if java is None:
        raise JavaProblem("Java is not installed")
    return [java, *map(str, options)]


def run_java(options: Sequence, timeout: float, cwd: str | Path) -> bytes:
    """What a Java program writes to its standard output.

    Args:
        options: its command line after "java".
        timeout: seconds.
    Raises:
        JavaProblem: no Java, an error, or no end within the time.
    """
    try:
        result = subprocess.run(
            command(options), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        raise JavaProblem(f"no answer within {timeout:g} s") from None
    except OSError as error:
        raise JavaProblem(f"java does not start: {error}") from None
    if result.returncode != 0:
        raise JavaProblem(f"java ended with status {result.returncode}: {_reason(result.stderr)}")
    return result.stdout


def meteor(
    captions: Sequence[str], references: Sequence[Sequence[str]], folder: Path, timeout: float
) -> tuple[float, list[float]]:
    """METEOR 1.5 of captions in words, with the options of the COCO evaluation.

    Args:
        captions: one an image.
        references: those of each image, in the same order.
        folder: of pycocoevalcap.
        timeout: seconds for all together; loading takes about 5.
    Returns:
        (of all, of each image), 0 to 1.
    Raises:
        JavaProblem: see `run_java`.
    """
    options = ["-Xmx2G", "-jar", METEOR_JAR, "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                command(options),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                cwd=folder / "meteor",
                encoding="utf-8",
            )
        except OSError as error:
            raise JavaProblem(f"java does not start: {error}") from None
        late = []
        watchdog = Timer(timeout, lambda: (late.append(True), process.kill()))
        watchdog.daemon = True
        watchdog.start()
        try:
            statistics = [
                _ask(process, " ||| ".join(["SCORE", *map(_field, sentences), _field(caption)]))
                for caption, sentences in zip(captions, references, strict=True)
            ]
            scores = [float(_ask(process, " ||| ".join(["EVAL", *statistics])))]
            scores += [float(process.stdout.readline()) for _ in captions]
        except (OSError, ValueError):
            if late:
                raise JavaProblem(f"no answer within {timeout:g} s") from None
            messages.seek(0)
            raise JavaProblem(f"it stopped answering: {_reason(messages.read())}") from None
        finally:
            watchdog.cancel()
            process.kill()
            process.communicate()
    return scores[-1], scores[:-1]


def spice(
    captions: Sequence[str], references: Sequence[Sequence[str]], folder: Path, timeout: float
) -> tuple[float, list[float]]:
    """SPICE 1.0 of captions in words; arguments, result and errors as those of `meteor`.

    It needs Stanford's models, which pycocoevalcap would download; here they must be there.
    """
    command([])
    lib = folder / "spice" / "lib"
    missing = [name for name in SPICE_MODELS if not (lib / name).is_file()]
    if missing:
        raise JavaProblem(
            f"{', '.join(missing)} not in pycocoevalcap/spice/lib: they are in stanford-corenlp-full-2015-12-09.zip of "
            "nlp.stanford.edu/software (400 MB), which nothing here downloads"
        )
    records = [
        {"image_id": number, "test": caption, "refs": list(sentences)}
        for number, (caption, sentences) in enumerate(zip(captions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as work:
        asked, answered = Path(work) / "captions.json", Path(work) / "scores.json"
        asked.write_text(json.dumps(records))
        # with Java 9 and later, the parser's classes need leave to look into those of Java
        opened = ["--add-opens=java.base/java.lang=ALL-UNNAMED", "--add-opens=java.base/java.util=ALL-UNNAMED"]
        options = [*opened, "-Xmx8G", "-jar", SPICE_JAR, asked, "-out", answered, "-subset", "-silent"]
        run_java(options, timeout, cwd=folder / "spice")
        try:
            found = {record["image_id"]: record["scores"]["All"]["f"] for record in json.loads(answered.read_text())}
            scores = [float(found[number]) for number in range(len(records))]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JavaProblem(f"its result can't be read: {error!r}") from None
    return math.fsum(scores) / len(scores), scores


def _ask(process: subprocess.Popen, line: str) -> str:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = process.stdout.readline().strip()
    if not answer:
        raise ValueError("no answer")
    return answer


def _field(sentence: str) -> str:
    return sentence.replace("|||", "").replace("  ", " ")


def _reason(messages: bytes) -> str:
    lines = [line for line in messages.decode("utf-8", errors="replace").splitlines() if line.strip()]
    return lines[0][:300] if lines else "it says nothing"
