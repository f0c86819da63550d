"""A language model of ours as lm-evaluation-harness asks models.

What has to be computed is put into batches of similar length, and each batch is computed by one process of a job; every
process sees all requests and all answers. So to the harness each process is alone, and no figure depends on how many
there are: neither on the batches, which are the same, nor on the order of a sum.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import torch
import torch.distributed as dist
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from data_prep.files import sha256_of
from fairseq_mhmoe.evaluation.harness_cache import Answer, AnswerCache, key_of
from fairseq_mhmoe.evaluation.harness_generation import Settings, generate
from fairseq_mhmoe.evaluation.harness_scoring import make_batches, plan, rows_meet, score_batch
from fairseq_mhmoe.evaluation.harness_tokens import RequestTokens, Window
from fairseq_mhmoe.evaluation.loading import Loaded

logger = logging.getLogger(__name__)

# batches of a process between two exchanges of answers, which then are in the cache
BATCHES_AT_ONCE = 16
REPORT_SECONDS = 10.0
METHOD = 1  # part of every key of the cache: raise it when the same request gets another answer


class HarnessModel(LM):
    """The three questions of the harness, for a loaded checkpoint.

    Args:
        loaded: the model, with all its experts in this process.
        batch_size: sequences of a batch; None for as many as make 8192 positions.
        cache: file of answers; None for none.
        seed: of sampled texts.
    Raises:
        ValueError: the data folder has no tokenizer, the model is too short, or the cache can't be used.
    """

    def __init__(self, loaded: Loaded, batch_size: int | None = None, cache: Path | None = None, seed: int = 1234):
        super().__init__()
        self.loaded = loaded
        self.tokens = RequestTokens(loaded)
        self.batch_size = batch_size
        self.seed = seed
        self.counts = Counter(computed=0, cached=0)  # what was answered: windows and texts
        self.job = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if rows_meet(loaded) and batch_size != 1:
            logger.warning(
                "experts of this model have a capacity in evaluation, or draw at random: what else is in a batch would "
                "change the answers, so that each is computed alone, as with --batch-size 1"
            )
            self.batch_size = 1
        # of the file, which holds the hash of its experts' manifest where they are apart
        self.checkpoint_sha256 = sha256_of(loaded.path)
        self.identity = [METHOD, self.checkpoint_sha256, str(next(loaded.model.parameters()).dtype)]
        self.cache = AnswerCache(cache, writing=self.job[0] == 0)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.loaded.device

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding gives it) of each (context, continuation).

        A continuation without tokens is certain. One that is longer than the model is predicted in several windows.
        """
        pairs = (self.tokens.pair(*request.args) for request in requests)
        return self._score("loglikelihood", [self.tokens.windows(*pair) for pair in pairs])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-probability, nats, of each text as a document: behind what begins one, its end not counted."""
        texts = (self.tokens.encode(request.args[0]) for request in requests)
        scores = self._score("loglikelihood_rolling", [self.tokens.windows((), text) for text in texts])
        return [log_prob for log_prob, _ in scores]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What follows each context: up to a stop of its settings, the end of the document, or so many tokens."""
        prompts, keys, drawn = [], [], Counter()
        for request in requests:
            context, given = request.args
            settings = Settings.of_request(given)
            prompt = self.tokens.prompt(context, settings.new_tokens)
            key = self._key("generate", prompt, str(settings))
            if settings.temperature:  # another text each time that the same request comes
                drawn[key] += 1
                key = f"{key} {self.seed} {drawn[key]}"
            prompts.append((prompt, settings))
            keys.append(key)
        by_key = dict(zip(keys, prompts, strict=True))
        missing = [key for key in by_key if key not in self.cache.answers]
        batches = make_batches([len(by_key[key][0]) for key in missing], self.batch_size)

        def work(numbers: list[int]) -> list[tuple[str, Answer]]:
            chosen = [missing[number] for number in numbers]
            texts = generate(self.loaded, self.tokens, [by_key[key] for key in chosen], chosen)
            return list(zip(chosen, texts, strict=True))

        self._fill("generate_until", batches, work, missing, len(by_key))
        return [self.cache.answers[key] for key in keys]

    def _score(self, method: str, requests: Sequence[list[Window]]) -> list[tuple[float, bool]]:
        """Sums over the windows of each request."""
        keys = {window: self._key("window", window.inputs, window.targets) for window in chain(*requests)}
        missing = [window for window, key in keys.items() if key not in self.cache.answers]

        def work(rows: list) -> list[tuple[str, Answer]]:
            scores = score_batch(self.loaded, rows, missing)
            return [(keys[missing[number]], list(score)) for number, score in scores.items()]

        self._fill(method, plan(missing, self.batch_size), work, [keys[window] for window in missing], len(keys))
        found = [[self.cache.answers[keys[window]] for window in windows] for windows in requests]
        return [(float(sum(lp for lp, _ in scores)), all(greedy for _, greedy in scores)) for scores in found]

    def _key(self, *question) -> str:
        return key_of(*self.identity, *question)

    def _fill(self, method: str, batches: list, work: Callable, missing: list[str], wanted: int) -> None:
        """Compute the missing answers, each batch in one process, and put them into every process's cache."""
        rank, size = self.job
        if size > 1:
            self._check_agreement(method, missing)
        self.counts.update(computed=len(missing), cached=wanted - len(missing))
        progress = Progress(method, len(batches), rank)
        at_once = BATCHES_AT_ONCE * size
        for first in range(0, len(batches), at_once):
            part = batches[first : first + at_once]
            answers = list(chain.from_iterable(map(work, part[rank::size])))
            if size > 1:
                gathered = [None] * size
                dist.all_gather_object(gathered, answers)
                answers = list(chain.from_iterable(gathered))
            self.cache.add(answers)
            progress.report(first + len(part))

    def _check_agreement(self, method: str, missing: list[str]) -> None:
        """RuntimeError where processes would compute different things, and wait for each other in vain."""
        asked = [None] * self.job[1]
        dist.all_gather_object(asked, key_of(method, missing))
        if len(set(asked)) > 1:
            raise RuntimeError(f"{method}: the processes were asked different questions; do all read the same files?")


class Progress:
    """Lines that say how far one kind of requests is, on the first process."""

    def __init__(self, method: str, batches: int, rank: int):
        self.method, self.batches, self.quiet = method, batches, rank > 0
        self.start = self.last = time.monotonic()

    def report(self, done: int) -> None:
        """A line, if the last one is REPORT_SECONDS old or this is the end."""
        now = time.monotonic()
        if self.quiet or (now - self.last < REPORT_SECONDS and done < self.batches):
            return
        self.last = now
        spent = now - self.start
        left = spent / done * (self.batches - done)
        print(f"{self.method}: {done} of {self.batches} batches, {spent:.0f} s, about {left:.0f} s left", flush=True)
