"""ImageNet (ILSVRC 2012): scan and TFDS builder."""
