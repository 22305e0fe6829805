"""Tiny data, a tiny language model and ways to run the real commands on them; for numerics and integration tests.

A command costs ten seconds of imports and tenths of a second of work. `ForkedCommands` therefore forks it from a
process that has the imports done: still one fresh process per rank, with its own exit code, output and process group
to kill.
`LaunchedCommands` starts it as a user does, with `python` or the `deepspeed` launcher.
"""

import importlib
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  # first, or reading events imports TensorFlow's stub twice
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from data_tools.build import build
from data_tools.sources.synthetic import SyntheticSource
from transrec.data.interactions import Interactions
from transrec.data.item_shards import ItemShards
from transrec.data.item_store import ItemStore
from transrec.data.shard_folder import ShardFolder
from transrec.data.train_stream import TrainStream
from transrec.experiment import Experiment

REPOSITORY = Path(__file__).parents[1]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


# Data and model


def build_shards(folder: Path, users: int = 200, items: int = 80, interactions: int = 3000, seed: int = 0) -> Path:
    build(SyntheticSource(users, items, interactions, seed), "synthetic", folder)
    return folder


def build_backbone(folder: Path, *shard_sets: Path, hidden: int = 32) -> Path:
    """A random BERT and a WordPiece tokenizer over every word of the shards, in the Hugging Face layout."""
    texts = [record["text"].lower() for shards in shard_sets for record in ItemShards(ShardFolder(shards))]
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)})
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    )
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=hidden,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=2 * hidden,
                max_position_embeddings=40,
            ),
            add_pooling_layer=False,
        ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Tiny:
    """A configuration file and what it points at."""

    config: Path
    shards: Path
    backbone: Path


def write_tiny(folder: Path) -> Tiny:
    """A text SASRec, dropout on, whose step takes some 20 ms; its data come as two chunks and more per step."""
    shards = build_shards(folder / "shards")
    backbone = build_backbone(folder / "backbone", shards)
    values = {
        # 113 windows: the eighth step of 16 has a single one, so that one of two ranks has none.
        "data": {"path": str(shards), "fraction": 0.28, "workers": 0, "cache": str(folder / "cache")},
        "model": {
            "width": 16,
            "max_length": 8,
            "item_encoder": {"name": "text", "backbone": str(backbone), "max_tokens": 16, "chunk_tokens": 200},
            "user_encoder": {"name": "sasrec", "layers": 1},
            "objective": {"name": "next_item"},
        },
        "train": {
            "steps": 12,
            "batch_size": 16,
            "log_every": 1,
            "evaluate_every": "never",
            "checkpoint_every": "never",
        },
        "optimizer": {"lr": {"backbone": 2e-4, "head": 1e-3, "adapter": 2e-3}},
    }
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    return Tiny(config, shards, backbone)


# Commands


@dataclass(frozen=True)
class Finished:
    code: int
    stdout: str
    stderr: str


def json_lines(finished: Finished) -> list[dict[str, Any]]:
    """What a command that succeeded printed for programs."""
    assert finished.code == 0, finished.stderr
    return [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]


def refused(finished: Finished) -> str:
    """The one message of a command that refused."""
    assert finished.code == 1
    assert "Traceback" not in finished.stderr
    (message,) = re.findall(r"^error: .*", finished.stderr, re.MULTILINE | re.DOTALL)
    return message


class Process(Protocol):
    pid: int | None

    def wait(self, timeout: float) -> int | None: ...


class Running:
    """Processes of one command, each the leader of its own process group."""

    def __init__(self, processes: list[Process], out: Path) -> None:
        self.processes, self._out = processes, out

    def wait(self, timeout: float = 240) -> Finished:
        """The exit code is the first that is not 0."""
        until = time.monotonic() + timeout
        codes = [process.wait(max(0.1, until - time.monotonic())) for process in self.processes]
        stdout, stderr = (self._out.with_suffix(suffix).read_text("utf-8") for suffix in (".stdout", ".stderr"))
        if None in codes:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{stdout[-2000:]}\n{stderr[-2000:]}")
        return Finished(next((code for code in codes if code), 0) or 0, stdout, stderr)

    @property
    def stderr(self) -> str:
        path = self._out.with_suffix(".stderr")
        return path.read_text("utf-8") if path.exists() else ""

    def signal(self, number: int) -> None:
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def kill(self) -> None:
        """SIGKILL to everything that the command started."""
        for process in self.processes:
            assert process.pid is not None
            for kill in (os.killpg, os.kill):  # the second for one that has not made its group yet
                with suppress(ProcessLookupError):  # a rank ends by itself when it misses the other
                    kill(process.pid, signal.SIGKILL)
        for process in self.processes:
            process.wait(30)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 120) -> None:
        until = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"not so after {timeout} s")
            for process in self.processes:
                code = process.wait(0)
                assert code is None, f"ended with {code} too early:\n{self._out.with_suffix('.stderr').read_text()}"
            time.sleep(0.002)


class Commands(Protocol):
    def start(self, command: str, *arguments: str | Path, ranks: int = 1) -> Running: ...

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished: ...


class LaunchedCommands:
    """`python launch/X.py …` or `deepspeed --num_accelerators N launch/X.py …`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def start(self, command: str, *arguments: str | Path, ranks: int = 1) -> Running:
        self._count += 1
        out = self._folder / f"launched-{self._count}"
        launcher = [sys.executable]
        if ranks > 1:
            deepspeed = str(Path(sys.executable).with_name("deepspeed"))
            launcher = [deepspeed, "--num_accelerators", str(ranks), "--master_port", str(free_port())]
        with out.with_suffix(".stdout").open("w") as stdout, out.with_suffix(".stderr").open("w") as stderr:
            process = subprocess.Popen(
                [*launcher, f"launch/{command}.py", *map(str, arguments)],
                cwd=REPOSITORY,
                env=os.environ | ENVIRONMENT,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        return Running([_Launched(process)], out)

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished:
        return self.start(command, *arguments, ranks=ranks).wait()


class _Launched:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.pid = process, process.pid

    def wait(self, timeout: float) -> int | None:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class ForkedCommands:
    """The same `main()` in processes forked after the imports, with the environment the launcher would give them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["launch.train", "launch.evaluate", "launch.recommend"])
        before = dict(os.environ)
        os.environ.update(ENVIRONMENT)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    def start(
        self, command: str, *arguments: str | Path, ranks: int = 1, before: Callable[[], None] | None = None
    ) -> Running:
        """`before`, a function of a module, is what each process does first: patch something, say."""
        self._count += 1
        out = self._folder / f"forked-{self._count}"
        port, processes = free_port(), []
        for rank in range(ranks):
            environment = dict(ENVIRONMENT)
            argv = list(map(str, arguments))
            if ranks > 1:
                environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
                environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_SIZE": str(ranks)}
                argv.insert(0, f"--local_rank={rank}")
            process = self._context.Process(target=_run_main, args=(command, argv, environment, out, before))
            process.start()
            processes.append(_Forked(process))
        return Running(processes, out)

    def run(self, command: str, *arguments: str | Path, ranks: int = 1) -> Finished:
        return self.start(command, *arguments, ranks=ranks).wait()


class _Forked:
    def __init__(self, process: Any) -> None:
        self.process, self.pid = process, process.pid

    def wait(self, timeout: float) -> int | None:
        self.process.join(timeout)
        return self.process.exitcode


def _run_main(
    command: str, argv: list[str], environment: dict[str, str], out: Path, before: Callable[[], None] | None
) -> None:
    os.setsid()
    for stream, suffix in ((1, ".stdout"), (2, ".stderr")):
        file = os.open(out.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, stream)
    os.chdir(REPOSITORY)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # what a process of its own would use
    sys.argv = [f"launch/{command}.py", *argv]
    torch.set_num_threads(1)
    module = importlib.import_module(f"launch.{command}")
    assert Path(module.__file__ or "").is_relative_to(REPOSITORY), module.__file__
    if before is not None:
        before()
    code = module.main(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Arguments

# Everything that enters an update, and nothing random: such runs can be compared whatever their number of ranks.
COMPARABLE = [
    "model.item_encoder.dropout=0",
    "model.user_encoder.dropout=0",
    "train.clipping=1.0",
    "optimizer.weight_decay=0.01",
    "optimizer.schedule=linear",
    "optimizer.warmup=0.25",
]
_NARROW = "also_train: [head], bottleneck: {item: 8, user: 4}"
ADAPTATIONS = {
    "full": "adaptation={name: full}",
    "houlsby": f"adaptation={{name: houlsby, {_NARROW}}}",
    "parallel": f"adaptation={{name: pfeiffer, mode: parallel, {_NARROW}}}",
    "compacter": f"adaptation={{name: compacter, init_std: 0.1, {_NARROW}}}",
    "model_patch": "adaptation={name: model_patch, also_train: [head]}",
    "lora": "adaptation={name: lora, also_train: [head], rank: {item: 4, user: 2}}",
    "k_adapter": f"adaptation={{name: k_adapter, heads: {{item: 2, user: 2}}, dropout: 0, {_NARROW}}}",
    "ia3": "adaptation={name: ia3, also_train: [head]}",
    "prompt": "adaptation={name: prompt, also_train: [head], tokens: 5}",
    "side_network": f"adaptation={{name: side_network, towers: [item, user], init_std: 0.1, {_NARROW}}}",
    "layer_norm": "adaptation={name: layer_norm, also_train: [head]}",
    "head_only": "adaptation={name: head_only}",
    "combined": "adaptation=[{name: lora, also_train: [head]}, {name: bitfit}]",
}


# PeterRec's pretraining, causal and not.
USER_MODELS = {
    "nextitnet": [
        "model.user_encoder={name: nextitnet, dilations: [1, 4]}",
        "model.objective={name: sampled_softmax}",
        "model.output=untied",
    ],
    "cloze": [
        "model.user_encoder={name: nextitnet, dilations: [1, 4], causal: false}",
        "model.objective={name: cloze}",
    ],
}


# What a run leaves behind


def records(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """Whole lines of metrics.jsonl, also while the run writes it."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [record for record in parsed if record["kind"] == kind]


def losses(run_dir: Path) -> list[float]:
    return [record["loss"] for record in records(run_dir, "step")]


def hashes(run_dir: Path) -> list[str]:
    return [record["batch"] for record in records(run_dir, "step")]


def exported(run_dir: Path) -> dict[str, Tensor]:
    """The weights of the export, of the whole model or of the adapter."""
    (path,) = (run_dir / "export").glob("*.safetensors")
    return load_file(path)


def gradient_norms(run_dir: Path) -> list[float]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    return [float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors("train/gradient_norm")]


# The reference: what a run is without DeepSpeed


@dataclass(frozen=True)
class Curve:
    losses: list[float]
    gradient_norms: list[float]
    weights: Mapping[str, Tensor]


def plain_loop(experiment: Experiment, without: set[str] = frozenset()) -> Curve:  # type: ignore[assignment]
    """Train as PyTorch's documentation would: one process, one batch for the whole step, `torch.optim.AdamW`.

    Args:
        without: what to leave out, to show that a comparison with it is no formality: "clipping" or "schedule".
    """
    interactions = Interactions.scan(experiment.data, experiment.model.max_length)
    num_items = interactions.shards.index.counts.items
    store = ItemStore(interactions.shards.folder, experiment.model.item_encoder.content(), experiment.data.cache)
    torch.manual_seed(experiment.seed)
    model = experiment.model.build(num_items)
    experiment.adaptation.apply(model)
    train, steps = experiment.train, experiment.train.steps
    assert steps is not None
    stream = TrainStream(interactions, store, model.sampling, train.batch_size, experiment.seed)
    groups = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rates = experiment.optimizer.lr
            rate = rates.adapter if ".adapter." in name else rates.backbone if "backbone." in name else rates.head
            decay = experiment.optimizer.weight_decay if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": rate, "peak": rate, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, betas=experiment.optimizer.betas)
    curve, norms = [], []
    warmup = round(experiment.optimizer.warmup * steps)
    for step in range(steps):
        factor = min(1.0, (step + 1) / (warmup + 1))
        if experiment.optimizer.schedule == "linear" and step >= warmup:
            factor = 1 - (step - warmup) / (steps - warmup)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1.0 if "schedule" in without else factor)
        (batch,) = stream[step]
        optimizer.zero_grad()
        (loss,) = model(replace(batch, normaliser=float(batch.scored))).values()
        loss.backward()
        clipping = torch.inf if "clipping" in without or not train.clipping else train.clipping
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)))
        optimizer.step()
        curve.append(loss.item())
    return Curve(curve, norms, {name: p.detach() for name, p in model.named_parameters() if p.requires_grad})
