"""LoRA on the experts of mixtures: the forms of PEFT's files, and one for the device."""
