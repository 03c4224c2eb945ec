"""How a checkpoint stores its tensors, plainly or quantised, one file for each form; each is read as dense tensors."""
