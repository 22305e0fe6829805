"""TensorBoard: the HParams tab, and the projector of item vectors."""

from pathlib import Path

import torch
from google.protobuf import text_format
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tracked import points

from transrec.training.trackers.tensorboard_log import TensorBoardConfig, TensorBoardLog
from transrec.training.trackers.tracker import Row, ShownItems, TrackedRun

HYPERPARAMETERS = {
    "optimizer.lr": 0.5,
    "train.steps": 7,
    "debias": True,
    "name": "sasrec",
    "patience": None,
    "towers": ["a"],
}


def opened(folder: Path) -> TensorBoardLog:
    return TensorBoardConfig().open(TrackedRun(folder, 0, [], HYPERPARAMETERS))


def test_hyperparameters_and_metrics_lie_in_the_runs_own_events(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.results(Row(9, {"test/HR@10": 0.125}))
    log.close()
    assert all(path.is_file() for path in (tmp_path / "tensorboard").iterdir()), "no run of its own"
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    content = accumulator.PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info
    shown = {key: getattr(value, value.WhichOneof("kind")) for key, value in session.hparams.items()}
    assert shown == HYPERPARAMETERS | {"patience": "None", "towers": "['a']"}
    experiment = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["test/HR@10"]
    assert points("tensorboard", tmp_path)["test/HR@10"] == [(9, 0.125)]


def test_the_projector_has_a_line_for_each_item(tmp_path: Path) -> None:
    log = opened(tmp_path)
    vectors = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    columns = {"item_id": ["i1", "i2"], "title": ["A film", "Another\tfilm\nin two lines"]}
    for _ in range(2):  # a finished run that is started again
        log.items(ShownItems(vectors, columns))
    log.close()
    folder = tmp_path / "tensorboard"
    (embedding,) = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    read = [[float(x) for x in line.split("\t")] for line in (folder / embedding.tensor_path).read_text().splitlines()]
    assert read == vectors.tolist()
    assert (folder / embedding.metadata_path).read_text().splitlines() == [
        "item_id\ttitle",
        "i1\tA film",
        "i2\tAnother film in two lines",
    ]
