import pytest
import torch
from torch import nn

from transrec import weights
from transrec.adaptation.compacter import Compacter, CompacterConfig
from transrec.config import ConfigError


def matrix(linear, shared):
    """Σ_i C_i ⊗ (s_i t_iᵀ), term by term."""
    return sum(torch.kron(c, torch.outer(s[:, 0], t[0])) for c, s, t in zip(shared, linear.s, linear.t, strict=True))


@pytest.mark.parametrize("skip", [True, False])
def test_formula(skip):
    torch.manual_seed(0)
    x, y = torch.randn(3, 8), torch.randn(3, 8)
    adapter = Compacter(8, 4, nn.Parameter(torch.randn(2, 2, 2)), skip)
    for linear in (adapter.down, adapter.up):
        linear.bias.data.normal_()
    inner = nn.functional.gelu(y @ matrix(adapter.down, adapter.shared) + adapter.down.bias, approximate="tanh")
    change = inner @ matrix(adapter.up, adapter.shared) + adapter.up.bias
    torch.testing.assert_close(adapter(x, y), y + change if skip else change)


def test_initialisation_is_the_references():
    torch.manual_seed(0)
    adapter = Compacter(768, 64, nn.Parameter(torch.zeros(4, 4, 4)), skip=True)
    bound = 2**0.5 * (6 / (192 + 1)) ** 0.5
    assert 0.9 * bound < adapter.down.s.abs().max() <= bound
    assert not adapter.down.bias.any()


def adapters(model):
    return [module for module in model.modules() if isinstance(module, Compacter)]


def test_both_towers_share_one_parameter_that_is_named_and_saved_once(build, tmp_path):
    model = build()
    CompacterConfig().apply(model)
    assert len(adapters(model)) == 2 * 3 + 2 * 2
    assert len({id(adapter.shared) for adapter in adapters(model)}) == 1
    assert sum(name.endswith(".shared") for name, _ in model.named_parameters()) == 1
    assert sum(name.endswith(".shared") for name in weights.names(model)) == 1
    with torch.no_grad():
        adapters(model)[0].shared.fill_(0.5)
    weights.export(tmp_path, model, {"adaptation": {}}, weights.base_hash(model), write_files=True)
    assert sum(name.endswith(".shared") for name in weights.read(tmp_path / weights.ADAPTER_FILE)) == 1
    fresh = build()
    CompacterConfig().apply(fresh)
    weights.load_export(tmp_path, fresh)
    assert all((adapter.shared == 0.5).all() for adapter in adapters(fresh))


def test_terms_that_do_not_divide_a_width_are_an_error(build):
    with pytest.raises(
        ConfigError, match=r"`terms` is 3, but must divide both widths at item\.attention_output\[0\], 32 and 64"
    ):
        CompacterConfig(terms=3).apply(build())
