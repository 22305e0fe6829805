"""The most probable targets of a task for a user."""

from collections.abc import Sequence

from transrec.config import ConfigError
from transrec.evaluation.evaluator import inference
from transrec.runs.answers.next_items import HistoryAnswers
from transrec.runs.answers.query import Query, Row
from transrec.runs.encoded_catalogue import EncodedCatalogue


class TaskTargets(HistoryAnswers):
    """The targets of a task, with the probabilities of a softmax over all of them, as in training."""

    def __init__(self, encoded: EncodedCatalogue, targets: Sequence[str]) -> None:
        super().__init__(encoded)
        self.targets = targets

    def to(self, queries: Sequence[Query]) -> list[list[Row]]:
        with inference(self.encoded.model):
            probabilities = self.scores(queries)(1, len(self.targets) + 1).softmax(1)
        found = []
        for row, query in zip(probabilities, queries, strict=True):
            best = row.topk(min(query.top, len(self.targets)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            found.append([{"target": self.targets[i], "probability": round(p, 6)} for i, p in pairs])
        return found

    def check_vectors(self) -> None:
        raise ConfigError(
            f"{self.encoded.channel.folder} predicts the targets of a task, not items: it has no vectors to search"
        )

    def check_first_stage(self) -> None:
        raise ConfigError(
            f"{self.encoded.channel.folder} predicts the targets of a task, so it cannot be a first stage: name a run "
            "that recommends the next item"
        )
