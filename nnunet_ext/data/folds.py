"""Cross-validation folds that keep a person's cases together and validate on labelled cases only."""

from __future__ import annotations

from collections.abc import Collection, Mapping

FOLDS = 5
SEED = 12345  # nnU-Net's own, so that a fully labelled dataset is split as nnU-Net splits it


def cross_validation(persons: Mapping[str, str], unlabelled: Collection[str], count: int) -> list[dict[str, list[str]]]:
    """`count` folds over the persons with a labelled case; all others train in every fold.

    A held-out person's unlabelled cases are in neither part, as they would still show that person to the training.

    Args:
        persons: case -> person, the case's own name where it is nobody else's; its order is that of the parts.
        unlabelled: the cases without labels.
        count: at least 2 and no more than there are persons with a labelled case.
    """
    # It brings scikit-learn, which a dataset with a split of its own need not wait for.
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    labelled = sorted({person for case, person in persons.items() if case not in unlabelled})
    folds = []
    for part in generate_crossval_split(labelled, seed=SEED, n_splits=count):
        held_out = {str(person) for person in part["val"]}
        folds.append(
            {
                "train": [case for case, person in persons.items() if person not in held_out],
                "val": [case for case, person in persons.items() if person in held_out and case not in unlabelled],
            }
        )
    return folds
