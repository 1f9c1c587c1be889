"""Runs the pieces of a benchmark that have no results yet, one after another or several at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol


class Product(Protocol):
    """What a piece leaves behind: a `Path`, or a `Line` of a table."""

    def exists(self) -> bool:
        """Whether it is there."""


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Args:
        title: what it is, for the user.
        products: what exists once the piece is done.
        do: does it. With several workers it runs in another process, so it must be picklable, as `functools.partial`
            of a function is.
    """

    title: str
    products: tuple[Product, ...]
    do: Callable[[], Any]

    @property
    def is_done(self) -> bool:
        """Whether everything that it leaves behind exists."""
        return all(product.exists() for product in self.products)


def open_pieces(pieces: Iterable[Piece]) -> list[Piece]:
    """Those that are not done, in their order."""
    return [piece for piece in pieces if not piece.is_done]


def run_pieces(pieces: Iterable[Piece], title: str, workers: int) -> None:
    """Runs the pieces that are not done in processes of one thread each; the first failure ends all of it."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    from tqdm.auto import tqdm

    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_use_one_thread) as pool:
        running = [pool.submit(piece.do) for piece in open_pieces(pieces)]
        try:
            for done in tqdm(as_completed(running), total=len(running), desc=title, unit="piece"):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_first_piece(pieces: Iterable[Piece]) -> bool:
    """Runs the first piece that is not done, in this process; False if there was none."""
    left = open_pieces(pieces)
    if not left:
        return False
    print(f"{left[0].title}; pieces left: {len(left)}", flush=True)
    left[0].do()
    return True


def _use_one_thread() -> None:
    from threading import Thread

    import torch

    from egup_trainer.cli.terminal import quiet_libraries

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    quiet_libraries()


def _end_with_parent() -> None:
    """Ends this process once the one that started it is gone, which a pool's own processes would wait for forever."""
    import os
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
