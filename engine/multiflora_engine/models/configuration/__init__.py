"""What a checkpoint's configuration files say, read, checked and put into one shape for all families."""
