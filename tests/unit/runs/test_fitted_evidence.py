"""The line about the fitted evidence."""

from transrec.evidence.fitting import Fitted
from transrec.runs.fitting import told


def test_the_fitted_weights_are_printed_as_one_line() -> None:
    kinds = {"co_occurrence": Fitted(0.51234, -1.0), "popularity": Fitted(0.0, 0.0)}
    assert told(kinds, 1.2345) == (
        "weights of evidence, fitted to the validation: co_occurrence 0.512, popularity 0; "
        "factor of the network's logits: 1.23"
    )
