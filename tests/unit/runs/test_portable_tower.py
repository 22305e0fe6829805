"""User towers as files: they compute what the model does, or are refused."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from portable_runs import MODELS, random_ids, untrained
from tiny_world import Tiny

from transrec.config import ConfigError
from transrec.extras import ExtraError
from transrec.runs.portable_tower import ItemScorer, PortabilityError, UserTower, write_program
from transrec.runs.recommender import Recommender
from transrec.runs.vector_export import Wanted, export_vectors
from transrec.runs.vector_files import VectorFolder


@pytest.fixture(scope="module", params=["sasrec", "gru4rec", "nextitnet_untied", "bert4rec_cloze"])
def recommender(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("towers") / "run", tiny, **MODELS[request.param])


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Recommender:
    return untrained(tmp_path_factory.mktemp("sasrec") / "run", tiny)


def test_onnx_answers_as_recommend_does(recommender: Recommender, tmp_path: Path) -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    manifest = export_vectors(recommender, tmp_path / "out", Wanted(towers=["onnx"]))
    assert manifest.largest_error.keys() == {"user_tower.onnx", "scorer.onnx"}
    assert max(manifest.largest_error.values()) <= 1e-5
    folder = VectorFolder.read(tmp_path / "out")
    histories = random_ids(folder.ids, 100)
    users = folder.users(histories)
    live = recommender.user_vectors(histories).numpy()
    assert np.abs(users - live).max() <= 1e-5 * max(1, np.abs(live).max())
    found = [[row["item_id"] for row in rows] for rows in folder.nearest(users, 10, histories)]
    assert found == [[row["item_id"] for row in recommender.recommend(history)] for history in histories]


def test_a_program_of_torch_computes_what_the_model_does(recommender: Recommender, tmp_path: Path) -> None:
    manifest = export_vectors(recommender, tmp_path / "out", Wanted(towers=["torch"]))
    assert max(manifest.largest_error.values()) <= 1e-5
    folder = VectorFolder.read(tmp_path / "out")
    histories = random_ids(folder.ids, 100)
    items, mask = map(torch.from_numpy, folder.inputs(histories))
    tower, scorer = (torch.export.load(tmp_path / "out" / f"{name}.pt2").module() for name in ("user_tower", "scorer"))
    users = tower(items, mask)
    assert torch.allclose(users, recommender.user_vectors(histories), rtol=1e-5, atol=1e-4)
    assert torch.equal(
        scorer(users, torch.from_numpy(folder.targets)), ItemScorer()(users, recommender.target_vectors())
    )


def test_a_tower_has_no_weights_of_items(recommender: Recommender) -> None:
    names = [name for name, _ in UserTower(recommender.model).named_parameters()]
    assert names
    assert not [name for name in names if "item_encoder" in name or "output.vectors" in name]


def test_a_program_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsteady(torch.nn.Module):
        def forward(self, users: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return users @ targets.T + (0 if torch.compiler.is_exporting() else 1)

    with pytest.raises(PortabilityError, match=r"scorer.pt2 differs from the model by 1.0e\+00"):
        write_program(
            Unsteady(), ("users", "targets"), [(torch.zeros(2, 3), torch.zeros(4, 3))] * 2, tmp_path / "scorer.pt2"
        )


def test_a_tower_of_another_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    for name, width in (("one", 8), ("other", 16)):
        export_vectors(
            untrained(tmp_path / name, tiny, width=width), tmp_path / f"{name}-out", Wanted(towers=["torch"])
        )
    shutil.copy(tmp_path / "other-out" / "user_tower.pt2", tmp_path / "one-out" / "user_tower.pt2")
    with pytest.raises(ConfigError, match="it is damaged or from another export"):
        VectorFolder.read(tmp_path / "one-out")


def test_what_is_missing_is_named(sasrec: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_vectors(sasrec, tmp_path / "out", Wanted())
    folder = VectorFolder.read(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has no user_tower\.onnx: export it with --tower onnx"):
        folder.users([["item-1"]])
    with pytest.raises(ConfigError, match="unknown item ids: gone"):
        folder.inputs([["gone"]])
    with pytest.raises(ConfigError, match="a history needs at least one item"):
        folder.inputs([[]])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    pytest.importorskip("onnx")
    with pytest.raises(ExtraError, match=r"a tower in ONNX needs onnxscript: run pip install 'transrec\[onnx\]'"):
        export_vectors(sasrec, tmp_path / "more", Wanted(towers=["onnx"]))
