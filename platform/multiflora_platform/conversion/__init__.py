"""From files that are not served to files that are, each in a confined process: tokenizers at load, pickled weights."""
