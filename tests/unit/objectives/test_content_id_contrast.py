"""Content-ID contrast against its equations."""

import math

import pytest
import torch

from transrec.objectives.content_id_contrast import ContentIDContrast, ContentIDContrastConfig, Sides

D, E = 6, 4


def sides(items: list[int], seed: int = 0, lacking: tuple[int, ...] = ()) -> Sides:
    """Items with the same vectors wherever they occur."""
    generator = torch.Generator().manual_seed(seed)
    content, ids = torch.randn(30, D, generator=generator), torch.randn(30, E, generator=generator)
    numbers = torch.tensor(items)
    return Sides(numbers, content[numbers], ids[numbers], torch.tensor([item not in lacking for item in items]))


def contrast(**settings) -> ContentIDContrast:
    torch.manual_seed(0)
    return ContentIDContrastConfig(**settings).build(D, E)


def by_hand(model: ContentIDContrast, anchors: Sides, others: Sides) -> float:
    def unit(linear, vector):
        found = linear(vector)
        return found / found.norm()

    total = 0.0
    for item, content, ids, there in zip(*anchors, strict=True):
        if not there:
            continue
        c, i = unit(model.content, content), unit(model.ids, ids)
        kept = [k for k in range(len(others.items)) if others.items[k] != item and others.has_content[k]]
        for one, other, vectors, linear in ((c, i, others.ids, model.ids), (i, c, others.content, model.content)):
            cosines = [one @ other, *(one @ unit(linear, vectors[k]) for k in kept)]
            exponents = torch.stack(cosines).detach().div(model.temperature).exp()
            total += -0.5 * math.log(float(exponents[0] / exponents.sum()))
    return model.weight * total


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5, "weight": 1.0}])
@pytest.mark.parametrize("lacking", [(), (2, 8)], ids=["all have content", "some lack it"])
def test_by_hand(settings, lacking):
    model, anchors, others = (
        contrast(**settings),
        sides([1, 2, 3], lacking=lacking),
        sides([7, 2, 8, 9], lacking=lacking),
    )
    assert model(anchors, others).item() == pytest.approx(by_hand(model, anchors, others), rel=1e-5)


def test_equal_similarities_give_the_logarithm_of_their_number():
    """ln 17 = 2.833 with 16 negatives."""
    model = contrast(weight=1.0)
    for linear in (model.content, model.ids):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.ones_(linear.bias)
    anchors, others = sides([1, 2]), sides(list(range(10, 26)))
    assert model(anchors, others).item() == pytest.approx(2 * math.log(17), rel=1e-6)


def test_it_is_symmetric_in_content_and_id():
    model, anchors, others = contrast(), sides([1, 2, 3]), sides([7, 8, 9])
    mirrored = ContentIDContrastConfig().build(E, D)
    mirrored.content, mirrored.ids = model.ids, model.content

    def swapped(of: Sides) -> Sides:
        return Sides(of.items, of.ids, of.content, of.has_content)

    torch.testing.assert_close(mirrored(swapped(anchors), swapped(others)), model(anchors, others))


def test_the_anchor_is_no_negative_of_itself():
    model, anchors = contrast(), sides([1, 2])
    torch.testing.assert_close(model(anchors, sides([1, 2, 5])), model(anchors, sides([2, 1, 5])))
    assert model(sides([1]), sides([1, 1])).item() == pytest.approx(0, abs=1e-6)


def test_both_sides_learn_and_an_anchor_without_content_does_not():
    model, anchors = contrast(), sides([1, 2], lacking=(2,))
    content, ids = anchors.content.requires_grad_(), anchors.ids.requires_grad_()
    model(Sides(anchors.items, content, ids, anchors.has_content), sides([7, 8])).backward()
    assert content.grad[0].any()
    assert ids.grad[0].any()
    assert not content.grad[1].any()
