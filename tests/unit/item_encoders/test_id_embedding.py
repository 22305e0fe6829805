import torch
from contents import without_content

from transrec.item_encoders.id_embedding import IdEmbeddingConfig


def test_rows_are_looked_up_by_catalogue_index():
    encoder = IdEmbeddingConfig().build(4, num_items=5)
    vectors = encoder(without_content(torch.tensor([5, 1])))
    assert torch.equal(vectors, encoder.embedding.weight[[5, 1]])


def test_initialisation_and_the_padding_row():
    torch.manual_seed(0)
    weight = IdEmbeddingConfig(init_std=0.5).build(16, num_items=2000).embedding.weight
    assert weight.shape == (2001, 16)
    assert not weight[0].any()
    assert abs(weight[1:].std().item() - 0.5) < 0.01


def test_the_padding_row_never_learns():
    encoder = IdEmbeddingConfig().build(4, num_items=5)
    encoder(without_content(torch.tensor([0, 2]))).sum().backward()
    assert encoder.embedding.weight.grad[0].eq(0).all()
    assert encoder.embedding.weight.grad[2].eq(1).all()
