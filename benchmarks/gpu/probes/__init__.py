"""What can be timed on its own: a row for each kernel or product and shape, beside its floor."""
