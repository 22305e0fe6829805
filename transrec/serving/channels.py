"""The channels of a service, and how their catalogues are reloaded while the service keeps answering."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from transrec.config import ConfigError
from transrec.runs.recommender import Recommender
from transrec.runs.vector_files import model_sha256


@dataclass(frozen=True)
class Served:
    """A channel that is ready to answer."""

    recommender: Recommender
    model_sha256: str

    @classmethod
    def load(cls, recommender: Recommender) -> "Served":
        """Encode the items, look up the evidence and read the columns, so that no request waits for these."""
        recommender.prepare()
        return cls(recommender, model_sha256(recommender.export))

    @property
    def catalogue_sha256(self) -> str:
        """The SHA-256 of the shards' index.json."""
        digest: str = self.recommender.catalogue.folder.index_sha256
        return digest

    def renewed(self) -> "Served":
        """The channel with its catalogue reloaded; the same object if the catalogue has not changed.

        Raises:
            ConfigError: the weights of the run have changed, so its vectors belong to another model.
            TransRecError: the shards cannot be read.
        """
        old = self.recommender
        if model_sha256(old.export) != self.model_sha256:
            raise ConfigError(f"{old.folder} was trained further after the service started: restart the service")
        again = old.with_known(None)
        again.open()
        if again.catalogue.folder.index_sha256 == self.catalogue_sha256:
            return self
        recommender = old.with_known(old.known())
        recommender.prepare()
        return Served(recommender, self.model_sha256)


@dataclass(frozen=True)
class Generation:
    """All channels between two reloads; a request is answered by one generation from beginning to end."""

    channels: Mapping[str, Served]
    number: int = 1
    loaded: float = field(default_factory=time.time)  # seconds since 1970

    @classmethod
    def load(cls, recommenders: Sequence[Recommender]) -> "Generation":
        """Load the channels.

        Raises:
            ConfigError: two channels have the same name.
            TransRecError: a run or its shards cannot be read.
        """
        names = [recommender.name for recommender in recommenders]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two channels are named {doubled[0]}, after their folders: rename one of the folders")
        for recommender in recommenders:
            recommender.open()  # raises before the work begins
        return cls({recommender.name: Served.load(recommender) for recommender in recommenders})

    def renewed(self) -> "Generation":
        """The next generation, with all catalogues reloaded; the same object if no catalogue has changed.

        Raises:
            TransRecError: see `Served.renewed`.
        """
        channels = {name: served.renewed() for name, served in self.channels.items()}
        if all(channels[name] is served for name, served in self.channels.items()):
            return self
        return Generation(channels, self.number + 1)

    def channel(self, name: str | None) -> Served:
        """The channel with this name; if it is None, the only channel.

        Raises:
            ConfigError: there is no channel with this name, or there are several channels and no name is given.
        """
        if name is None and len(self.channels) == 1:
            return next(iter(self.channels.values()))
        if name is None or name not in self.channels:
            asked = "name a `channel`" if name is None else f"there is no channel {name!r}"
            raise ConfigError(f"{asked}; the channels are: {', '.join(self.channels)}")
        return self.channels[name]

    @cached_property
    def items(self) -> int:
        """The number of items in all catalogues."""
        return sum(len(served.recommender.catalogue.item_ids) for served in self.channels.values())
