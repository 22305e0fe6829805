"""The bodies of requests and responses, as described on the OpenAPI page."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema

from transrec.runs.answers.click_scores import LATEST_SECOND

LONGEST_TEXT, MOST_SEEN, MOST_IDS, MOST_VALUES = 1000, 10_000, 10_000, 1000

Text = Annotated[StrictStr, Field(max_length=LONGEST_TEXT)]


def digits(value: Any) -> Any:
    """The id that a whole number stands for, as in the files of `transrec recommend`; other values are unchanged."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_TEXT_OR_NUMBER = {"anyOf": [{"type": "string", "maxLength": LONGEST_TEXT}, {"type": "integer"}]}
ItemId = Annotated[
    str, Field(strict=True, max_length=LONGEST_TEXT), BeforeValidator(digits), WithJsonSchema(_TEXT_OR_NUMBER)
]
Filters = Annotated[
    dict[Text, Annotated[list[Text], Field(min_length=1, max_length=MOST_VALUES)]],
    Field(max_length=16, description="allowed values for each item column; `/channels` lists the columns"),
]
Columns = Annotated[dict[Text, Text | None], Field(max_length=64)]
Channel = Annotated[Text | None, Field(description="name of a channel; may be left out if there is only one")]
Results = Annotated[StrictInt, Field(ge=1, description="maximum number of results")]
Excluded = Annotated[
    list[ItemId],
    Field(max_length=MOST_IDS, description="items that are not recommended; unknown ids are passed over, not reported"),
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecommendRequest(_Message):
    """A user to recommend items to, who need not have been seen in training."""

    history: list[ItemId] = Field(max_length=MOST_SEEN, description="item ids, oldest first")
    channel: Channel = None
    k: Results = 10
    exclude: Excluded = []
    candidates: list[ItemId] | None = Field(
        None, min_length=1, max_length=MOST_IDS, description="items to rank instead of the whole catalogue"
    )
    repeats: StrictBool = Field(False, description="whether items of the history may be recommended again")
    filters: Filters = {}
    unknown: Literal["skip", "error"] = Field(
        "skip",
        description="ids that the catalogue lacks: `skip` leaves them out and lists them, `error` refuses the request",
    )
    user: Text = Field("", description="for a ranking model: the user's id")
    time: StrictInt = Field(0, ge=0, le=LATEST_SECOND, description="for a ranking model: seconds since 1970")
    context: Columns = Field({}, description="for a ranking model: columns of impressions")
    profile: Columns = Field({}, description="for a ranking model: columns of users")


class SimilarRequest(_Message):
    """An item to find similar items for."""

    item_id: ItemId
    channel: Channel = None
    k: Results = 10
    exclude: Excluded = []
    filters: Filters = {}


class RecommendAnswer(BaseModel):
    """Items, best first, with `item_id`, `title`, `score` or `probability`, and `picture`; or targets of a task."""

    channel: str
    generation: int = Field(description="generation of the catalogues; each reload that finds changes increases it")
    recommendations: list[dict[str, Any]]
    unknown: list[str] = Field([], description="ids of the history and the candidates that the catalogue lacks")
    note: str | None = Field(None, description="the reason why there are no recommendations, otherwise null")


class SimilarAnswer(BaseModel):
    """Items with similar vectors, best first, each with `item_id`, `title`, `similarity` (a cosine) and `picture`."""

    channel: str
    generation: int
    similar: list[dict[str, Any]]


class Found(BaseModel):
    """An item that a search found."""

    item_id: str
    title: str
    picture: bool = Field(description="whether `/picture` has a picture of this item")


class ChannelDescription(BaseModel):
    """A channel, and the columns by which its items can be filtered."""

    name: str
    items: int
    columns: list[str]
    pictures: bool


class Reloaded(BaseModel):
    """The catalogues after a reload."""

    generation: int
    changed: bool
    items: int


class Refusal(BaseModel):
    """The reason for refusing a request."""

    detail: str
