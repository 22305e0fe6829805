"""The world of known clicks keeps what it states: its best AUC, and what each knob does."""

import io
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from data_tools.source import SourceError
from data_tools.sources import synthetic
from data_tools.sources.known_clicks import APPEAL, ATTRIBUTES, KINDS, LIKING, KnownClicks, Visits
from data_tools.sources.synthetic import SyntheticSource

USERS = slice(0, 2000)
SMALL = {"n_users": 40, "n_items": 64, "n_interactions": 800, "n_impressions": 400}


def world(interplay: int = 0, lasting: float = 0.0, fresh: float = 0.0) -> KnownClicks:
    return KnownClicks(320, 40, 10, seed=3, interplay=interplay, lasting=lasting, fresh=fresh)


def rows(source: SyntheticSource) -> tuple[pa.Table, pa.Table]:
    read = source.interactions(pytest.fail), source.impressions(pytest.fail)
    interactions, impressions = (pa.Table.from_batches([batch.rows for batch in batches]) for batches in read)
    return interactions, impressions


def auc(visits: Visits, scores: np.ndarray) -> float:
    return float(roc_auc_score(visits.clicks.ravel(), scores.ravel()))


def liking(visits: Visits, kinds: np.ndarray, history: np.ndarray) -> np.ndarray:
    """How often the kind of what is shown occurs in a history."""
    return (kinds[history][:, None, :] == kinds[visits.shown][:, :, None]).sum(2)


def test_no_score_beats_the_probabilities_and_they_reach_the_stated_auc() -> None:
    known = world(interplay=4, lasting=0.5, fresh=0.5)
    visits = known.visits(USERS)
    assert auc(visits, visits.probabilities) == pytest.approx(known.best_auc(), abs=0.005)
    assert auc(visits, liking(visits, known.looks.kinds, visits.history)) < known.best_auc() - 0.01
    bins = np.digitize(visits.probabilities, np.linspace(0, 1, 11))
    for number in np.unique(bins):
        chosen = bins == number
        sigma = np.sqrt(0.25 / chosen.sum())
        assert abs(visits.clicks[chosen].mean() - visits.probabilities[chosen].mean()) < 4 * sigma


def test_the_history_tells_the_interests() -> None:
    known = world()
    visits = known.visits(USERS)
    found = liking(visits, known.looks.kinds, visits.history[:, 20:]) > 0
    both = 2 * LIKING * found + APPEAL * known.appeals[known.looks.kinds[visits.shown]]
    assert auc(visits, both) > known.best_auc() - 0.005


@pytest.mark.parametrize("interplay", range(ATTRIBUTES + 1))
def test_the_text_alone_tells_the_kind_but_for_the_attributes_of_the_interplay(interplay: int) -> None:
    looks = KnownClicks(2**13, 2, 2, interplay=interplay).looks
    together = np.zeros((KINDS, KINDS))
    np.add.at(together, (looks.texts, looks.kinds), 1)
    most = together.max(1).sum() / len(looks.kinds)
    assert most == pytest.approx(2.0**-interplay, abs=0.03)
    alone = np.zeros((KINDS, KINDS))
    np.add.at(alone, (looks.images, looks.kinds), 1)
    assert alone.max() / alone.sum() < 2 / KINDS**2, "the image alone never tells the kind"
    both = {(text, image, kind) for text, image, kind in zip(*looks[1:3], looks.kinds, strict=True)}
    assert len(both) == KINDS**2, "together they do"


@pytest.mark.parametrize(("lasting", "newest"), [(0.0, 1.0), (1.0, 0.25), (0.5, 0.625)])
def test_lasting_interests_do_not_show_in_the_newest_items(lasting: float, newest: float) -> None:
    known = KnownClicks(320, 200, 1, lasting=lasting)
    visits = known.visits(slice(0, 500))
    kinds = known.looks.kinds[visits.history]
    count = np.apply_along_axis(np.bincount, 1, kinds, minlength=KINDS)
    liked = np.argsort(-count, axis=1)[:, :4]
    is_liked = (kinds[:, :, None] == liked[:, None, :]).any(2)
    assert is_liked[:, 150:].mean() == pytest.approx(newest, abs=0.04)
    assert is_liked.mean() == pytest.approx(0.8125, abs=0.04), "but all in all they show alike"


def test_fresh_items_come_and_go_and_others_stay() -> None:
    known = world(fresh=0.5)
    visits = known.visits(USERS)
    fresh = known.looks.fresh[visits.shown]
    assert fresh.mean() == pytest.approx(0.5, abs=0.02)
    year = np.ptp(visits.shown_times)
    for item in np.unique(visits.shown):
        times = visits.shown_times[visits.shown == item]
        turns = known.n_fresh / KINDS
        assert np.ptp(times) < 3.1 / turns * year if known.looks.fresh[item] else np.ptp(times) > year / 2
    late = visits.shown_times > np.quantile(visits.shown_times, 0.9)
    early = visits.shown_times < np.quantile(visits.shown_times, 0.5)
    assert not np.isin(visits.shown[late & fresh], visits.shown[early]).any()


def test_without_fresh_items_all_stay() -> None:
    known = world()
    visits = known.visits(USERS)
    assert not known.looks.fresh.any()
    early = visits.shown_times < np.median(visits.shown_times)
    assert np.isin(visits.shown[~early], visits.shown[early]).all()


def test_what_is_shown_comes_after_the_history() -> None:
    visits = world(fresh=0.5).visits(USERS)
    times = np.concatenate([visits.history_times, visits.shown_times], axis=1)
    assert (np.diff(times, axis=1) > 0).all()


def test_texts_and_images_show_the_attributes() -> None:
    known = world(interplay=2)
    texts = {code: known.text(int(np.flatnonzero(known.looks.texts == code)[0])) for code in range(KINDS)}
    assert len(set(texts.values())) == KINDS
    assert texts[0] == "It is old, calm, small and plain."
    assert texts[5] == "It is new, calm, large and plain."
    item = int(np.flatnonzero(known.looks.images == 0b1001)[0])
    pixels = np.asarray(Image.open(io.BytesIO(known.image(item))))
    assert (pixels[:2] == 128).all()
    assert pixels[2, 0, 0] > 150 > 100 > pixels[2, 0, 1:].max()


def test_kinds_are_equally_frequent_among_fresh_items_and_others() -> None:
    looks = world(fresh=0.5).looks
    for chosen, kind in product([looks.fresh, ~looks.fresh], range(KINDS)):
        assert (looks.kinds[chosen] == kind).sum() == chosen.sum() // KINDS


def test_the_same_seed_gives_the_same_data() -> None:
    knobs = {"interplay": 3, "lasting": 0.5, "fresh": 0.5}
    one, same, other = (SyntheticSource(**SMALL | knobs, seed=seed) for seed in (3, 3, 4))
    assert rows(one) == rows(same)
    assert list(one.items(pytest.fail)) == list(same.items(pytest.fail))
    assert rows(one)[1] != rows(other)[1]
    assert rows(one)[0] != rows(other)[0]


def test_counts_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "BATCH_ROWS", 100)
    source = SyntheticSource(**SMALL)
    interactions, impressions = rows(source)
    assert (len(interactions), len(impressions)) == (800, 400)
    assert len(list(source.impressions(pytest.fail))) > 8
    assert set(impressions["user_id"].to_pylist()) == {f"user-{number}" for number in range(40)}
    assert len(list(source.items(pytest.fail))) == 64
    assert not list(source.users(pytest.fail))


def test_the_probability_of_a_click_lies_beside_it() -> None:
    source = SyntheticSource(**SMALL)
    visits = source.clicks.visits(slice(0, 40))
    _, impressions = rows(source)
    assert [float(p) for p in impressions["shown_probability"].to_pylist()] == visits.probabilities.ravel().tolist()
    assert impressions["label_click"].to_pylist() == visits.clicks.ravel().tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interplay": 5}, "--interplay must be"),
        ({"lasting": 1.5}, "shares"),
        ({"fresh": -0.1}, "shares"),
        ({"fresh": 0.1}, "raise --items"),
        ({"n_impressions": 401}, "same number"),
        ({"law": 0.3}, "cannot be combined"),
        ({"n_impressions": 0, "fresh": 0.5}, "need --impressions"),
    ],
)
def test_a_world_that_cannot_be_is_refused(options: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        SyntheticSource(**SMALL | options)
