"""Dataset conversion, the unlabelled-case contract, phantoms and augmentation."""
