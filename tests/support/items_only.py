"""A model that is an item encoder, for tests of what adaptation does to one."""

from transrec.models.item_towers import item_towers
from transrec.protocols import ItemEncoder, Model, Tower, UserEncoder


class Items(Model):
    """An item encoder beside a user encoder without anything in it."""

    def __init__(self, encoder: ItemEncoder):
        super().__init__()
        self.item_encoder = encoder
        self.user_encoder = UserEncoder()

    def towers(self) -> dict[str, Tower]:
        return item_towers(self, self.item_encoder) | {"user": Tower("user_encoder", self.user_encoder, "user", "text")}
