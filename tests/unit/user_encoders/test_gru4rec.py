import torch

from transrec.user_encoders.gru4rec import GRU4RecConfig

L, D = 6, 8


def test_equals_the_recurrence_over_the_unpadded_items():
    torch.manual_seed(0)
    encoder = GRU4RecConfig(layers=2).build(D, L).eval()
    lengths = [6, 4, 1]
    mask = torch.arange(L) >= L - torch.tensor(lengths).unsqueeze(1)
    x = torch.randn(len(lengths), L, D)
    states = encoder(x, mask)
    for user, length in enumerate(lengths):
        hidden, _ = encoder.gru(x[user : user + 1, L - length :])
        torch.testing.assert_close(states[user, L - length :], encoder.output(hidden[0]))


def test_the_window_may_be_of_any_length():
    encoder = GRU4RecConfig().build(D, L)
    assert encoder(torch.randn(2, 3, D), torch.ones(2, 3, dtype=torch.bool)).shape == (2, 3, D)
