"""What every user encoder of the Union has to do; a newcomer is tested as soon as its line is added.

Shape letters: B users, L positions, D width.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from transrec.adaptation.attach import OF_THE_TOWER
from transrec.config import config_classes
from transrec.user_encoders import UserEncoderConfig

MEMBERS = list(config_classes(UserEncoderConfig))
B, L, D = 4, 7, 8
every_member = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.__name__)


def build(member, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    options = {"dropout": dropout} if "dropout" in member.model_fields else {}
    return member(**options).build(D, L)


def left_padded(lengths: list[int]) -> torch.Tensor:
    return torch.arange(L) >= L - torch.tensor(lengths).unsqueeze(1)


def items(seed: int = 1, users: int = B) -> torch.Tensor:
    return torch.randn(users, L, D, generator=torch.Generator().manual_seed(seed))


MASK = left_padded([7, 4, 1, 0])


@every_member
def test_says_whether_it_looks_back_only(member):
    assert isinstance(member().causal, bool)


@every_member
def test_shape_and_finite_even_for_an_empty_window(member):
    states = build(member)(items(), MASK)
    assert states.shape == (B, L, D)
    assert states.isfinite().all()


@every_member
def test_an_item_changes_its_own_state_and_none_before_it_in_a_causal_encoder(member):
    encoder = build(member)
    before = encoder(items(), MASK)
    for t in range(L):
        changed = items()
        changed[:, t] *= -1
        after = encoder(changed, MASK)
        earlier = MASK & (torch.arange(L) < t) & member().causal
        assert torch.equal(after[earlier], before[earlier])
        valid = MASK[:, t]
        assert (after[valid, t] - before[valid, t]).abs().amax(-1).gt(1e-4).all()


@every_member
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, L), min_size=1, max_size=5), seed=st.integers(2, 1000))
def test_what_lies_under_padding_changes_no_valid_state(member, lengths, seed):
    encoder, mask, x = build(member), left_padded(lengths), items(users=len(lengths))
    other = torch.where(mask.unsqueeze(-1), x, 10 * items(seed, len(lengths)))
    assert torch.equal(encoder(other, mask)[mask], encoder(x, mask)[mask])


@every_member
def test_users_do_not_see_each_other(member):
    encoder = build(member)
    alone = torch.cat([encoder(items()[b : b + 1], MASK[b : b + 1]) for b in range(B)])
    torch.testing.assert_close(encoder(items(), MASK), alone, rtol=1e-5, atol=1e-6)


@every_member
def test_gradients_reach_valid_items_and_every_parameter_but_never_padding(member):
    encoder, x = build(member), items().requires_grad_()
    weights = items(2)[MASK]
    (encoder(x, MASK)[MASK] * weights).sum().backward()
    assert not x.grad[~MASK].any()
    assert x.grad[MASK].abs().amax(-1).gt(0).all()
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters())


@every_member
def test_gradient_checkpointing_changes_no_gradient(member):
    def gradients(checkpointing):
        encoder = build(member, dropout=0.3).train()
        if checkpointing:
            encoder.enable_gradient_checkpointing()
        torch.manual_seed(5)
        (encoder(items(), MASK)[MASK] * items(2)[MASK]).sum().backward()
        return {name: p.grad for name, p in encoder.named_parameters()}

    torch.testing.assert_close(gradients(True), gradients(False))


@every_member
def test_sites_lead_to_modules(member):
    encoder = build(member)
    assert all(isinstance(encoder.get_submodule(path), nn.Module) for layer in encoder.layer_paths for path in layer)
    assert encoder.layer_paths
    for site, paths in encoder.site_paths.items():
        assert len(paths) == (1 if site in OF_THE_TOWER else encoder.num_layers)
        assert all(isinstance(encoder.get_submodule(path), nn.Module) for path in paths)


@every_member
def test_runs_in_bfloat16(member):
    assert build(member).bfloat16()(items().bfloat16(), MASK).isfinite().all()


def test_configs_are_told_apart_by_name():
    assert len({member.model_fields["name"].default for member in MEMBERS}) == len(MEMBERS)
