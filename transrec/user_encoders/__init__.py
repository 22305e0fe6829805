"""User encoders, which map the vectors of a user's items to a state after each item. `name:` chooses one."""

from typing import Annotated

from pydantic import Field

from transrec.user_encoders.bert4rec import BERT4RecConfig
from transrec.user_encoders.gru4rec import GRU4RecConfig
from transrec.user_encoders.nextitnet import NextItNetConfig
from transrec.user_encoders.sasrec import SASRecConfig

UserEncoderConfig = Annotated[
    SASRecConfig | BERT4RecConfig | GRU4RecConfig | NextItNetConfig, Field(discriminator="name")
]
