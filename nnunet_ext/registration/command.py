"""What `nnunet_ext register` does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from nnunet_ext.errors import StageError
from nnunet_ext.registration.settings import RegistrationSettings
from nnunet_ext.training.settings import assignment, read_section


def run(
    dataset: str,
    fold: str,
    transform: str,
    scheme: str,
    backend: Literal["loky", "dask", "ray"],
    jobs: int,
    assignments: Iterable[str],
    report: Path | None,
) -> None:
    """Register a dataset and print a summary. Arguments as in `nnunet_ext.cli.register`."""
    settings = settings_from(transform, scheme, assignments)
    from nnunet_ext.registration.run import register_dataset, summary, write_report
    from nnunet_ext.registration.store import RegistrationStore

    store = RegistrationStore.open(dataset, settings, fold)
    pairs = register_dataset(store, backend, jobs)
    if report is not None:
        write_report(report, store, pairs)
    total = summary(pairs)
    print(store.root)
    print(f"{total['pairs']} pairs, {total['failures']} failed, {total['cpu_seconds_per_pair']} CPU s per pair")
    for pair in (p for p in pairs if p["failure"]):
        print(f"failed: {pair['moving']} -> {pair['fixed']}: {pair['failure']}")
    if pairs and total["failures"] == total["pairs"]:
        raise StageError(f"{store.root}: every registration failed, the settings or the scans do not fit the method")


def settings_from(transform: str, scheme: str, assignments: Iterable[str]) -> RegistrationSettings:
    """Settings from the command line's words; `key=value` where value is JSON, or else text.

    Raises:
        InputError: for an assignment, key or value that is not valid.
    """
    overrides = {"transform": transform, "scheme": scheme, **dict(map(assignment, assignments))}
    return read_section({"registration": overrides}, "registration", RegistrationSettings, "--set")
