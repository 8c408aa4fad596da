"""The base of all trainers that learn from a labelled source and an unlabelled target domain in one dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from pydantic import Field
from torch import nn

from nnunet_ext.data.dataset import domains
from nnunet_ext.errors import InputError
from nnunet_ext.training.backbones import build_backbone
from nnunet_ext.training.fewlabel import FewLabelTrainer
from nnunet_ext.training.settings import Section, configuration_settings
from nnunet_ext.training.side import discriminator_layers, early_stride
from nnunet_ext.training.split import Cases


class AdaptationSettings(Section):
    """Settings of every method that adapts to a target domain."""

    target: str | None = Field(
        None, description="the target's domain in dataset.json; null: that of the unlabelled cases"
    )
    discriminator_width: int = Field(64, ge=1, description="channels of the discriminator's first layer")
    discriminator_layers: int = Field(
        3, ge=1, description="halvings in the discriminator; fewer where the patch is small"
    )


class AdaptationTrainer(FewLabelTrainer):
    """Half of every batch is labelled source, half unlabelled target; validation looks at the target where it can.

    Labels of target cases, where there are any, validate and never train.
    """

    #: the setting that names the network which predicts
    network_setting: ClassVar[str]

    # Networks.

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network that predicts."""
        settings: Any = configuration_settings(plans_manager, configuration_manager, cls.section, cls.Settings)
        return build_backbone(
            getattr(settings, cls.network_setting),
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

    def initialize(self) -> None:
        # Only the network of the plans has outputs at lower resolutions.
        self.enable_deep_supervision = getattr(self.settings, self.network_setting) == "plans"
        super().initialize()

    # Data.

    def cases(self) -> Cases:
        """Source cases with labels, target cases without, and whom to validate on.

        Raises:
            InputError: for a dataset without domains, with one only, or a fold without source or target cases.
        """
        return domain_cases(
            super().cases(),
            domains(self.dataset_json),
            self.settings.target,
            f"{self.plans_manager.dataset_name}/dataset.json",
        )

    @property
    def stride(self) -> tuple[int, ...]:
        """Stride of generators and discriminators for the plans' patches."""
        return early_stride(self.configuration_manager.pool_op_kernel_sizes)

    @property
    def layers(self) -> int:
        """Halvings of a discriminator for the plans' patches."""
        patch_size = self.configuration_manager.patch_size
        return discriminator_layers(patch_size, self.stride, self.settings.discriminator_layers)

    @property
    def rate_factor(self) -> float:
        """The share of their learning rate that networks beside the predicting one still have: nnU-Net's decay."""
        return (1 - min(self.progress, 1.0)) ** 0.9

    def draw(self, count: int, among: int) -> torch.Tensor:
        """(count) random numbers below `among` on the device: who partners whom."""
        return torch.randint(among, (count,), device=self.device)


def domain_cases(cases: Cases, domain: dict[str, str], target: str | None, where: str) -> Cases:
    """Sort the cases of a fold by domain.

    Args:
        cases: of the fold.
        domain: case -> domain, from `dataset.json`.
        target: the target's name; None for the domain of the unlabelled cases.
        where: the file, for messages.

    Returns:
        Labelled source cases, unlabelled target cases; validation on labelled target cases where the fold has some,
        on source cases otherwise, and a note that says which.

    Raises:
        InputError: where source or target cannot be told apart or have no cases.
    """
    merge = "nnunet_ext dataset merge writes such a dataset"
    training = cases.labelled + cases.unlabelled
    if nameless := [case for case in training + cases.validation if case not in domain]:
        raise InputError(
            f"{where}: {len(nameless)} cases have no domain ({nameless[0]}), a labelled source and an unlabelled target"
            f" domain under nnunet_ext.domain are needed; {merge}"
        )
    known = sorted({domain[case] for case in training})
    if len(known) < 2:
        raise InputError(
            f"{where}: all cases of this fold are of the domain {known[0]}, a source and a target are needed; {merge}"
        )
    if target is None:
        candidates = sorted({domain[case] for case in cases.unlabelled})
        if len(candidates) != 1:
            found = (
                f"unlabelled cases are of the domains {', '.join(candidates)}"
                if candidates
                else "no case is unlabelled"
            )
            raise InputError(
                f"{where}: in this fold {found}, unlabelled cases of one target domain are needed; {merge}"
            )
        target = candidates[0]
    elif target not in known:
        raise InputError(f"{where}: target is {target}, a domain of this fold is needed: {', '.join(known)}")
    source = [case for case in cases.labelled if domain[case] != target]
    scans = [case for case in training if domain[case] == target and (case in set(cases.unlabelled))]
    if not source:
        raise InputError(
            f"{where}: no case of this fold outside the target {target} is labelled, at least one is needed"
        )
    if not scans:
        raise InputError(f"{where}: no case of this fold in the target {target} is unlabelled, at least one is needed")
    judged = [case for case in cases.validation if domain[case] == target]
    names = ", ".join(sorted({domain[case] for case in source}))
    note = f"Adapts from {len(source)} labelled cases of {names} to {len(scans)} unlabelled cases of {target}; "
    if judged:
        note += f"validates on {len(judged)} labelled cases of the target {target}."
    else:
        note += (
            f"validates on {len(cases.validation)} labelled cases of the source, for want of labelled cases of the"
            " target: no measure of the adaptation."
        )
    left_out = len(training) - len(source) - len(scans)
    if left_out:
        note += f" {left_out} cases of this fold are left out: labelled target or unlabelled source."
    return replace(cases, labelled=source, unlabelled=scans, validation=judged or cases.validation, note=note)
