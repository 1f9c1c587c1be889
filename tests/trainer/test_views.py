"""What `RowViews` shows is what EGUP works with: losses, boundary, weights and features of each row."""

import torch
from conftest import qa_rows
from fixtures_trainer import boundary_of, cache_of

from egup_trainer import EGUPConfig, EGUPTrainer
from egup_trainer.callbacks.row_views import RowViews


def watched(make_model, tokenizer, tmp_path, proxies=True, **options):
    args = EGUPConfig(
        str(tmp_path),
        learning_rate=1e-2,
        num_train_epochs=2,
        per_device_train_batch_size=3,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        **{"objective": "grad_diff", **options},
    )
    proxy_rows = qa_rows(40, 45) if proxies else None
    trainer = EGUPTrainer(make_model(), args, qa_rows(0, 6), qa_rows(20, 28), proxy_rows, processing_class=tokenizer)
    watch = RowViews(trainer)
    trainer.add_callback(watch)
    return trainer, watch


def test_a_view_before_the_first_step_and_one_after_each_epoch(make_model, tokenizer, tmp_path):
    trainer, watch = watched(make_model, tokenizer, tmp_path, inter_entanglement=True, intra_entanglement=True)
    trainer.train()
    assert [view.step for view in watch.views] == [0, 2, 4]
    first, last = watch.views[0], watch.views[-1]
    assert first.forget_ids.tolist() == list(range(6))
    assert first.retain_ids.tolist() == list(range(8))
    torch.testing.assert_close(first.drift, torch.zeros(6), atol=1e-5, rtol=0)
    assert (last.drift > 0.01).all()
    assert (last.retain_nll < first.retain_nll).all()  # they are learned
    torch.testing.assert_close(last.forget_nll, trainer.score(trainer.forget_rows).mean_nll)
    torch.testing.assert_close(last.retain_nll, trainer.score(trainer.retain_rows).mean_nll)


def test_the_numbers_are_those_of_the_guide(make_model, tokenizer, tmp_path):
    trainer, watch = watched(make_model, tokenizer, tmp_path, inter_entanglement=True)
    trainer.train()
    view, cache = watch.views[0], cache_of(trainer)
    torch.testing.assert_close(view.boundary, boundary_of(trainer))
    torch.testing.assert_close(view.boundary_gap, view.forget_nll - view.boundary)
    torch.testing.assert_close(view.forget_features, cache.initial[view.forget_ids], atol=1e-3, rtol=0)
    torch.testing.assert_close(view.retain_features, cache.retain_initial[view.retain_ids], atol=1e-3, rtol=0)
    eight = (view.forget_features @ view.retain_features.T).mean(dim=1)  # inter_neighbors = all retain rows
    torch.testing.assert_close(view.entanglement, eight, atol=1e-3, rtol=0)
    assert view.weights[view.entanglement.argmax()] != view.weights[view.entanglement.argmin()]


def test_weights_turn_at_the_boundary(make_model, tokenizer, tmp_path):
    trainer, watch = watched(make_model, tokenizer, tmp_path, proxy_lambda=2.0, proxy_temperature=0.1)
    trainer.train()
    for view in watch.views:
        torch.testing.assert_close(view.weights, 1 - 2 * torch.sigmoid(view.boundary_gap / 0.1))
    assert watch.views[-1].boundary_gap.abs().max() > 0.01


def test_what_nothing_reads_is_not_there(make_model, tokenizer, tmp_path):
    trainer, watch = watched(make_model, tokenizer, tmp_path, proxies=False, proxy_constraint=False)
    trainer.train()
    view = watch.views[-1]
    assert (view.boundary, view.boundary_gap, view.entanglement, view.drift) == (None,) * 4
    assert (view.forget_features, view.retain_features) == (None, None)
    assert view.weights.tolist() == [1.0] * 6


def test_watching_changes_nothing(make_model, tokenizer, tmp_path):
    ends = []
    for watching in (True, False):
        trainer, watch = watched(make_model, tokenizer, tmp_path / str(watching), intra_entanglement=True)
        if not watching:
            trainer.remove_callback(watch)
        trainer.train()
        ends.append({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_of_many_rows_some_are_drawn(make_model, tokenizer, tmp_path):
    trainer, watch = watched(make_model, tokenizer, tmp_path)
    watch.most_rows = 4
    trainer.train()
    view = watch.views[-1]
    assert len(view.forget_nll) == len(view.boundary) == len(view.retain_nll) == 4
    whole = trainer.score(trainer.forget_rows).mean_nll
    torch.testing.assert_close(view.forget_nll, whole[view.forget_ids])
    torch.testing.assert_close(view.boundary, boundary_of(trainer)[view.forget_ids])


def test_the_default_objective_is_shown_too(make_model, tokenizer, tmp_path):
    """Its component reads tokens in a step, and views have whole rows."""
    trainer, watch = watched(make_model, tokenizer, tmp_path, objective="proxy_kl")
    trainer.train()
    assert [view.step for view in watch.views] == [0, 2, 4]
    torch.testing.assert_close(watch.views[-1].forget_nll, trainer.score(trainer.forget_rows).mean_nll)
