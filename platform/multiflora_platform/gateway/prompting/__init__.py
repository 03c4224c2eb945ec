"""Floor 2: from a request to token ids and sampling parameters: template, tools, answer format, grammar."""
