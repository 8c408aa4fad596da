"""nnunet_ext: few-label learning, cross-modality adaptation and a challenge container for nnU-Net v2."""

__version__ = "0.1.0"
