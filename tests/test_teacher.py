"""Teachers: frozen, following, tied; never trained by gradient, always in eval mode."""

from typing import Any

import pytest
import torch
from torch import nn

from multimask.nn.teacher import Teacher


def student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def moved(module: nn.Module) -> nn.Module:
    """After one step of training: weights and running statistics differ."""
    module.train()(torch.randn(8, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    return module


X = torch.linspace(-1, 1, 15).view(5, 3)


def test_a_frozen_teacher_stays_as_it_was() -> None:
    module = student()
    teacher = Teacher(module)
    before = teacher(X)
    moved(module)
    teacher.follow(module)
    assert torch.equal(teacher(X), before)
    assert not torch.equal(module.eval()(X), before)


def test_a_following_teacher_is_the_weighted_mean() -> None:
    module = student()
    teacher = Teacher(module, decay=0.75)
    old = [p.clone() for p in module.parameters()]
    moved(module)
    teacher.follow(module)
    for own, before, now in zip(teacher.module.parameters(), old, module.parameters(), strict=True):
        torch.testing.assert_close(own, 0.75 * before + 0.25 * now)
    for own, now in zip(teacher.module.buffers(), module.buffers(), strict=True):
        assert torch.equal(own, now)
    teacher.follow(module, decay=0.0)
    for own, now in zip(teacher.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(own, now)


def test_a_tied_teacher_is_the_student() -> None:
    module = student()
    teacher = Teacher(module, tied=True)
    moved(module)
    assert torch.equal(teacher(X), module.eval()(X))


@pytest.mark.parametrize("how", [{}, {"decay": 0.9}, {"tied": True}])
def test_no_teacher_is_trained_by_gradient(how: dict[str, Any]) -> None:
    module = student()
    teacher = Teacher(module, **how)
    assert not [p for p in teacher.parameters() if p.requires_grad]
    x = X.clone().requires_grad_()
    assert not teacher(x).requires_grad
    assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize("how", [{}, {"decay": 0.9}, {"tied": True}])
def test_a_teacher_speaks_in_eval_mode_and_leaves_the_student_in_its_own(
    how: dict[str, Any],
) -> None:
    module = student()
    teacher = Teacher(module, **how)
    holder = nn.ModuleList([module, teacher]).train()
    statistics = [b.clone() for b in module.buffers()]
    assert torch.equal(teacher(X), teacher(X))  # dropout would differ
    assert module.training
    assert holder.training
    for before, now in zip(statistics, module.buffers(), strict=True):
        assert torch.equal(before, now)  # batch norm would have counted
    module.eval()
    teacher(X)
    assert not module.training


@pytest.mark.parametrize(("how", "kept"), [({}, 0), ({"decay": 0.9}, 7), ({"tied": True}, 0)])
def test_only_a_following_teacher_goes_into_a_checkpoint(how: dict[str, Any], kept: int) -> None:
    assert len(Teacher(student(), **how).state_dict()) == kept


def test_a_following_teacher_comes_back_from_a_checkpoint() -> None:
    module = student()
    teacher = Teacher(module, decay=0.5)
    teacher.follow(moved(module))
    fresh = Teacher(student(), decay=0.5)
    fresh.load_state_dict(teacher.state_dict())
    assert torch.equal(fresh(X), teacher(X))


@pytest.mark.parametrize("how", [{}, {"decay": 0.9}, {"tied": True}])
def test_a_teacher_moves_along(how: dict[str, Any]) -> None:
    module = student()
    holder = nn.ModuleList([module, Teacher(module, **how)]).double()
    assert holder[1](X.double()).dtype == torch.float64


def test_a_norm_is_applied_to_what_is_said() -> None:
    norm = nn.LayerNorm(4, elementwise_affine=False)
    said = Teacher(student(), norm=norm)(X)
    torch.testing.assert_close(said.mean(dim=1), torch.zeros(5), atol=1e-6, rtol=0)


def test_decay_and_tied_are_checked() -> None:
    wrong: list[dict[str, Any]] = [{"decay": 1.5}, {"decay": 0.9, "tied": True}]
    for how in wrong:
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\] and does not go with tied"):
            Teacher(student(), **how)
